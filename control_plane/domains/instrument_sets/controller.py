"""Routes of instrument sets."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter

from control_plane.domains.instrument_sets.repository import LISTING
from control_plane.domains.instrument_sets.schemas import (
    InstrumentSetCreate,
    InstrumentSetOut,
    InstrumentSetSummary,
    InstrumentSetUpdate,
    VersionOut,
    VersionSummary,
)
from control_plane.domains.instrument_sets.service import InstrumentSetService
from control_plane.idempotency.middleware import Repeatable
from control_plane.pages import DEFAULT_LIMIT, Cursor, IfMatch, Limit, Page, etag
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs

Key = Annotated[str, PathParameter(max_length=64, description="Id or name of the set.")]
Number = Annotated[int, PathParameter(ge=1, le=2**31 - 1, description="Number of the version.")]


class InstrumentSetController(Controller):
    """Lists of instruments that filters name: `instrument IN SET 'sp500'`."""

    path = "/instrument-sets"
    tags = ("instrument sets",)

    @post(
        "/",
        operation_id="createInstrumentSet",
        operation_class=Repeatable,
        summary="Make an instrument set",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 409, 413, 422, 503),
    )
    async def create(
        self,
        data: JSONBody[InstrumentSetCreate],
        instrument_sets: NamedDependency[InstrumentSetService],
    ) -> Response[InstrumentSetOut]:
        """Make a set; its name is free again once it is deleted."""
        made = await instrument_sets.create(data)
        headers = {"ETag": etag(made.version), "Location": f"/v1/instrument-sets/{made.id}"}
        return Response(made, headers=headers)

    @get(
        "/",
        operation_id="listInstrumentSets",
        summary="List instrument sets",
        opt=needs(Permission.DESCRIBE),
        responses=responses(400, 422, 503),
    )
    async def list_(
        self,
        instrument_sets: NamedDependency[InstrumentSetService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
        sort: Annotated[str | None, LISTING.parameter] = None,
        name: Annotated[str | None, QueryParameter(max_length=64)] = None,
    ) -> Page[InstrumentSetSummary]:
        """Sets in the order of their making, without their instruments."""
        return await instrument_sets.page(cursor=cursor, limit=limit, sort=sort, name=name)

    @get(
        "/{key:str}",
        operation_id="getInstrumentSet",
        summary="Describe an instrument set",
        opt=needs(Permission.DESCRIBE),
        responses=responses(400, 404, 503),
    )
    async def read(
        self, key: Key, instrument_sets: NamedDependency[InstrumentSetService]
    ) -> Response[InstrumentSetOut]:
        """One set with its instruments."""
        found = await instrument_sets.get(key)
        return Response(found, headers={"ETag": etag(found.version)})

    @patch(
        "/{key:str}",
        operation_id="updateInstrumentSet",
        operation_class=Repeatable,
        summary="Change an instrument set",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 404, 409, 412, 413, 422, 503),
    )
    async def update(
        self,
        key: Key,
        data: JSONBody[InstrumentSetUpdate],
        instrument_sets: NamedDependency[InstrumentSetService],
        if_match: IfMatch = None,
    ) -> Response[InstrumentSetOut]:
        """Change what a set holds; every subscription whose filter names it follows at once.

        The answer names the plan from which the change holds.
        """
        changed = await instrument_sets.update(key, data, if_match)
        return Response(changed, headers={"ETag": etag(changed.version)})

    @delete(
        "/{key:str}",
        operation_id="deleteInstrumentSet",
        summary="Delete an instrument set",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 404, 409, 412, 503),
    )
    async def remove(
        self,
        key: Key,
        instrument_sets: NamedDependency[InstrumentSetService],
        if_match: IfMatch = None,
    ) -> None:
        """Delete a set that no live subscription's filter names."""
        await instrument_sets.delete(key, if_match)

    @get(
        "/{key:str}/versions",
        operation_id="listInstrumentSetVersions",
        summary="The changes of an instrument set",
        opt=needs(Permission.DESCRIBE),
        responses=responses(400, 404, 422, 503),
    )
    async def history(
        self,
        key: Key,
        instrument_sets: NamedDependency[InstrumentSetService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> Page[VersionSummary]:
        """What was added and removed, when, by which request and in which plan; newest first."""
        return await instrument_sets.history(key, cursor=cursor, limit=limit)

    @get(
        "/{key:str}/versions/{number:int}",
        operation_id="getInstrumentSetVersion",
        summary="Describe a version of an instrument set",
        opt=needs(Permission.DESCRIBE),
        responses=responses(400, 404, 503),
    )
    async def read_version(
        self, key: Key, number: Number, instrument_sets: NamedDependency[InstrumentSetService]
    ) -> VersionOut:
        """One change, and what the set held after it."""
        return await instrument_sets.version(key, number)
