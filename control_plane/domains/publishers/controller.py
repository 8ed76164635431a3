"""Routes of publishers."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter

from control_plane.domains.publishers.repository import LISTING
from control_plane.domains.publishers.schemas import (
    PublisherCreate,
    PublisherOut,
    PublisherUpdate,
)
from control_plane.domains.publishers.service import PublisherService
from control_plane.idempotency.middleware import Repeatable
from control_plane.listing import Labels
from control_plane.pages import DEFAULT_LIMIT, Cursor, IfMatch, Limit, Page, etag
from control_plane.problems import responses
from control_plane.security.callers import Caller
from control_plane.security.permissions import Permission, needs

Key = Annotated[str, PathParameter(max_length=64, description="Id or name of the publisher.")]


class PublisherController(Controller):
    """Who sends events."""

    path = "/publishers"
    tags = ("publishers",)

    @post(
        "/",
        operation_id="createPublisher",
        operation_class=Repeatable,
        summary="Register a publisher",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 409, 413, 422, 503),
    )
    async def create(
        self, data: JSONBody[PublisherCreate], publishers: NamedDependency[PublisherService]
    ) -> Response[PublisherOut]:
        """Register a publisher; its name is free again once it is deleted.

        Its tokens are those of the role `publisher` with its name as subject. What it is registered
        for is not enforced: the broker does not look into what it writes.
        """
        created, version = await publishers.create(data)
        headers = {"ETag": etag(version), "Location": f"/v1/publishers/{created.id}"}
        return Response(created, headers=headers)

    @get(
        "/",
        operation_id="listPublishers",
        summary="List publishers",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 422, 503),
    )
    async def list_(
        self,
        publishers: NamedDependency[PublisherService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
        sort: Annotated[str | None, LISTING.parameter] = None,
        name: Annotated[str | None, QueryParameter(max_length=64)] = None,
        region: Annotated[str | None, QueryParameter(max_length=64)] = None,
        suspended: Annotated[bool | None, QueryParameter(description="Absent: both.")] = None,
        labels: Labels = None,
    ) -> Page[PublisherOut]:
        """Publishers in the order of their registration."""
        return await publishers.page(
            cursor=cursor,
            limit=limit,
            sort=sort,
            name=name,
            region=region,
            suspended=suspended,
            labels=labels,
        )

    @get(
        "/{key:str}",
        operation_id="getPublisher",
        summary="Describe a publisher",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 404, 503),
    )
    async def read(
        self, key: Key, publishers: NamedDependency[PublisherService]
    ) -> Response[PublisherOut]:
        """One publisher by its id or name."""
        found, version = await publishers.get(key)
        return Response(found, headers={"ETag": etag(version)})

    @patch(
        "/{key:str}",
        operation_id="updatePublisher",
        operation_class=Repeatable,
        summary="Change a publisher",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 404, 409, 412, 413, 422, 503),
    )
    async def update(
        self,
        key: Key,
        data: JSONBody[PublisherUpdate],
        publishers: NamedDependency[PublisherService],
        caller: NamedDependency[Caller],
        if_match: IfMatch = None,
    ) -> Response[PublisherOut]:
        """Change the fields given; the others stay.

        Another region or other sources change what routing rules by region of origin match, live.
        """
        changed, version = await publishers.update(key, data, if_match, by=caller.subject)
        return Response(changed, headers={"ETag": etag(version)})

    @delete(
        "/{key:str}",
        operation_id="deletePublisher",
        summary="Delete a publisher",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 404, 409, 412, 422, 503),
    )
    async def remove(
        self,
        key: Key,
        publishers: NamedDependency[PublisherService],
        caller: NamedDependency[Caller],
        if_match: IfMatch = None,
    ) -> None:
        """Delete a publisher; its tokens are revoked."""
        await publishers.delete(key, if_match, by=caller.subject)
