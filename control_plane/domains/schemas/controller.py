"""Routes of schemas."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Controller, Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import PathParameter

from control_plane.domains.schemas.files import files, versions
from control_plane.domains.schemas.schemas import SchemaVersionOut
from control_plane.errors import NotFoundError
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs

Version = Annotated[int, PathParameter(ge=1, le=2**31 - 1, description="Version of the schemas.")]
File = Annotated[
    str, PathParameter(max_length=64, description="As `GET /v1/schemas` names it: trade.avsc.")
]


class SchemaController(Controller):
    """What events look like in each format."""

    path = "/schemas"
    tags = ("schemas",)

    @get(
        "/",
        operation_id="listSchemas",
        summary="List the schemas of events",
        opt=needs(Permission.DESCRIBE),
        responses=responses(),
    )
    async def list_(self) -> list[SchemaVersionOut]:
        """Every version with its kinds, their columns and the files that describe them."""
        return versions()

    @get(
        "/{version:int}/{file:str}",
        operation_id="getSchema",
        summary="A schema as a file",
        opt=needs(Permission.DESCRIBE),
        responses={
            200: ResponseSpec(
                Any,
                media_type="*/*",
                generate_examples=False,
                description="As its list says.",
                examples=[Example(value='syntax = "proto3";\n\npackage marketdata.v1;\n')],
            ),
            **responses(400, 404),
        },
    )
    async def read(self, version: Version, file: File) -> Response[str]:
        """An Avro schema, a JSON Schema or the `.proto` of all kinds, as programs read them.

        They describe whole events. A view that leaves columns out, renames or computes some
        differs by just that: its subscription says how (`schema.columns`).
        """
        found = files().get(version, {}).get(file)
        if found is None:
            raise NotFoundError("schema", f"{version}/{file}", hint="GET /v1/schemas lists them")
        return Response(found.text, media_type=found.media_type)
