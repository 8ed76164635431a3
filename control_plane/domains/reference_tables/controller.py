"""Routes of reference tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from litestar import Controller, Request, Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.openapi.spec import Example, OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.params import JSONBody, PathParameter, QueryParameter

from control_plane.domains.reference_tables.reading import ARROW, CSV, JSON
from control_plane.domains.reference_tables.repository import LISTING
from control_plane.domains.reference_tables.schemas import (
    ReferenceTableCreate,
    ReferenceTableOut,
    RowOut,
    TableVersionOut,
)
from control_plane.domains.reference_tables.service import ReferenceTableService
from control_plane.idempotency.middleware import Repeatable
from control_plane.pages import DEFAULT_LIMIT, Cursor, IfMatch, Limit, Page, etag
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs

MAX_ROWS_BYTES = 64 * 1024 * 1024
"""Of a request that loads rows."""

Key = Annotated[str, PathParameter(max_length=64, description="Id or name of the table.")]


def _rows_body() -> RequestBody:
    binary = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
    arrow = OpenAPIMediaType(schema=binary)
    csv = OpenAPIMediaType(
        schema=binary, examples={"usual": Example(value="instrument,lot\nAAPL,100\nMSFT,10\n")}
    )
    row = Schema(type=OpenAPIType.OBJECT, description="Column -> text, number, boolean or null.")
    json = OpenAPIMediaType(
        schema=Schema(type=OpenAPIType.ARRAY, items=row),
        examples={"usual": Example(value=[{"instrument": "AAPL", "lot": 100}])},
    )
    return RequestBody(
        description="Rows: an Arrow IPC stream, CSV with a header, or a JSON array of objects.",
        content={ARROW: arrow, CSV: csv, JSON: json},
        required=True,
    )


@dataclass
class TakesRows(Operation):
    """A route's OpenAPI operation that says its body is rows."""

    def __post_init__(self) -> None:
        """Describe the body, which the route reads by itself."""
        self.request_body = _rows_body()


@dataclass
class TakesMoreRows(Repeatable):
    """As `TakesRows`, of a route that takes an Idempotency-Key."""

    def __post_init__(self) -> None:
        """Describe the header and the body."""
        super().__post_init__()
        self.request_body = _rows_body()


class ReferenceTableController(Controller):
    """What is known of instruments, venues or currencies, for transformations to join to events."""

    path = "/reference-tables"
    tags = ("reference tables",)

    @post(
        "/",
        operation_id="createReferenceTable",
        operation_class=Repeatable,
        summary="Make a reference table",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 409, 422, 503),
    )
    async def create(
        self,
        data: JSONBody[ReferenceTableCreate],
        reference_tables: NamedDependency[ReferenceTableService],
    ) -> Response[ReferenceTableOut]:
        """Make a table without rows; its name is free again once it is deleted."""
        made = await reference_tables.create(data)
        headers = {"ETag": etag(made.version), "Location": f"/v1/reference-tables/{made.id}"}
        return Response(made, headers=headers)

    @get(
        "/",
        operation_id="listReferenceTables",
        summary="List reference tables",
        opt=needs(Permission.DESCRIBE),
        responses=responses(400, 422, 503),
    )
    async def list_(
        self,
        reference_tables: NamedDependency[ReferenceTableService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
        sort: Annotated[str | None, LISTING.parameter] = None,
        name: Annotated[str | None, QueryParameter(max_length=64)] = None,
    ) -> Page[ReferenceTableOut]:
        """Tables in the order of their making, without their rows."""
        return await reference_tables.page(cursor=cursor, limit=limit, sort=sort, name=name)

    @get(
        "/{key:str}",
        operation_id="getReferenceTable",
        summary="Describe a reference table",
        opt=needs(Permission.DESCRIBE),
        responses=responses(400, 404, 503),
    )
    async def read(
        self, key: Key, reference_tables: NamedDependency[ReferenceTableService]
    ) -> Response[ReferenceTableOut]:
        """One table, without its rows."""
        found = await reference_tables.get(key)
        return Response(found, headers={"ETag": etag(found.version)})

    @delete(
        "/{key:str}",
        operation_id="deleteReferenceTable",
        summary="Delete a reference table",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 404, 409, 412, 503),
    )
    async def remove(
        self,
        key: Key,
        reference_tables: NamedDependency[ReferenceTableService],
        if_match: IfMatch = None,
    ) -> None:
        """Delete a table that no live subscription's transformation names."""
        await reference_tables.delete(key, if_match)

    @get(
        "/{key:str}/rows",
        operation_id="listReferenceTableRows",
        summary="The rows of a reference table",
        opt=needs(Permission.DESCRIBE),
        responses=responses(400, 404, 422, 503),
    )
    async def rows(
        self,
        key: Key,
        reference_tables: NamedDependency[ReferenceTableService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> Page[RowOut]:
        """What a table holds now, sorted by its key and `valid_from`."""
        return await reference_tables.rows(key, cursor=cursor, limit=limit)

    @put(
        "/{key:str}/rows",
        operation_id="replaceReferenceTableRows",
        operation_class=TakesRows,
        summary="Replace the rows of a reference table",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 404, 409, 412, 413, 422, 503),
        request_max_body_size=MAX_ROWS_BYTES,
    )
    async def replace(
        self,
        key: Key,
        request: Request[Any, Any, Any],
        reference_tables: NamedDependency[ReferenceTableService],
        if_match: IfMatch = None,
    ) -> Response[ReferenceTableOut]:
        """Put rows in the place of all that the table holds; views that name it follow at once.

        The answer names the plan from which the change holds.
        """
        return await _loaded(request, reference_tables, key, if_match, replace=True)

    @patch(
        "/{key:str}/rows",
        operation_id="updateReferenceTableRows",
        operation_class=TakesMoreRows,
        summary="Add or change rows of a reference table",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 404, 409, 412, 413, 422, 503),
        request_max_body_size=MAX_ROWS_BYTES,
    )
    async def update(
        self,
        key: Key,
        request: Request[Any, Any, Any],
        reference_tables: NamedDependency[ReferenceTableService],
        if_match: IfMatch = None,
    ) -> Response[ReferenceTableOut]:
        """Put rows in the place of those with an equal key (and `valid_from`); others stay.

        The answer names the plan from which the change holds.
        """
        return await _loaded(request, reference_tables, key, if_match, replace=False)

    @get(
        "/{key:str}/versions",
        operation_id="listReferenceTableVersions",
        summary="The changes of a reference table",
        opt=needs(Permission.DESCRIBE),
        responses=responses(400, 404, 422, 503),
    )
    async def history(
        self,
        key: Key,
        reference_tables: NamedDependency[ReferenceTableService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> Page[TableVersionOut]:
        """When a table was changed, by which request and in which plan; newest first."""
        return await reference_tables.history(key, cursor=cursor, limit=limit)


async def _loaded(
    request: Request[Any, Any, Any],
    reference_tables: ReferenceTableService,
    key: str,
    if_match: str | None,
    *,
    replace: bool,
) -> Response[ReferenceTableOut]:
    media_type, _ = request.content_type
    body = await request.body()
    changed = await reference_tables.load(key, body, media_type, if_match, replace=replace)
    return Response(changed, headers={"ETag": etag(changed.version)})
