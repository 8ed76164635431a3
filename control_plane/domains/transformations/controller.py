"""Routes of shared transformations."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter

from control_plane.domains.transformations.repository import LISTING
from control_plane.domains.transformations.schemas import TransformationCreate, TransformationOut
from control_plane.domains.transformations.service import TransformationService
from control_plane.idempotency.middleware import Repeatable
from control_plane.pages import DEFAULT_LIMIT, Cursor, Limit, Page
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs

Key = Annotated[
    str, PathParameter(max_length=80, description="Id of the version, or `name@version`.")
]


class TransformationController(Controller):
    """Named transformations that subscriptions refer to, in versions that never change."""

    path = "/transformations"
    tags = ("transformations",)

    @post(
        "/",
        operation_id="createTransformation",
        operation_class=Repeatable,
        summary="Make a version of a shared transformation",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 409, 413, 422, 503),
    )
    async def create(
        self,
        data: JSONBody[TransformationCreate],
        transformations: NamedDependency[TransformationService],
    ) -> Response[TransformationOut]:
        """Make the first version of a name, or the next; nothing that refers to others changes."""
        made = await transformations.create(data)
        return Response(made, headers={"Location": f"/v1/transformations/{made.reference}"})

    @get(
        "/",
        operation_id="listTransformations",
        summary="List shared transformations",
        opt=needs(Permission.DESCRIBE),
        responses=responses(400, 422, 503),
    )
    async def list_(
        self,
        transformations: NamedDependency[TransformationService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
        sort: Annotated[str | None, LISTING.parameter] = None,
        name: Annotated[str | None, QueryParameter(max_length=64)] = None,
    ) -> Page[TransformationOut]:
        """Versions in the order of their making."""
        return await transformations.page(cursor=cursor, limit=limit, sort=sort, name=name)

    @get(
        "/{key:str}",
        operation_id="getTransformation",
        summary="Describe a version of a shared transformation",
        opt=needs(Permission.DESCRIBE),
        responses=responses(400, 404, 503),
    )
    async def read(
        self, key: Key, transformations: NamedDependency[TransformationService]
    ) -> TransformationOut:
        """One version."""
        return await transformations.get(key)

    @delete(
        "/{key:str}",
        operation_id="deleteTransformation",
        summary="Delete a version of a shared transformation",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 404, 409, 503),
    )
    async def remove(
        self, key: Key, transformations: NamedDependency[TransformationService]
    ) -> None:
        """Delete a version that no live subscription refers to; its number is not used again."""
        await transformations.delete(key)
