"""The files that describe events, as text: made from `marketdata.schemas`, so never out of date.

`<kind>.avsc` (Avro), `<kind>.schema.json` (JSON Schema of a line of NDJSON), `marketdata.proto`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import pyarrow as pa

from control_plane.domains.schemas.schemas import KindOut, SchemaFileOut, SchemaVersionOut
from control_plane.domains.subscriptions.schemas import ColumnOut
from marketdata.formats.avro_schemas import avro_schema
from marketdata.formats.json_schemas import json_schema
from marketdata.formats.protobuf_schemas import proto_file
from marketdata.schemas import SCHEMA_VERSION, SEQUENCED_SCHEMAS, decimal_scale

PROTO = "marketdata.proto"


@dataclass(frozen=True, slots=True)
class SchemaFile:
    """A file to download."""

    format: str
    media_type: str
    text: str


_OF_KIND: tuple[tuple[str, str, str, Callable[[pa.Schema], str]], ...] = (
    ("avro", "avsc", "application/json", avro_schema),
    ("json", "schema.json", "application/schema+json", json_schema),
)


@cache
def files() -> Mapping[int, Mapping[str, SchemaFile]]:
    """Version -> name -> file; today there is one version."""
    found = {
        f"{kind}.{suffix}": SchemaFile(format_, media_type, write(schema))
        for kind, schema in SEQUENCED_SCHEMAS.items()
        for format_, suffix, media_type, write in _OF_KIND
    }
    found[PROTO] = SchemaFile("protobuf", "text/plain", proto_file())
    return {SCHEMA_VERSION: found}


@cache
def versions() -> list[SchemaVersionOut]:
    """All versions, newest first."""
    return [
        SchemaVersionOut(
            version,
            [
                KindOut(
                    kind,
                    [ColumnOut(f.name, str(f.type), decimal_scale(f)) for f in schema],
                    [
                        SchemaFileOut(file.format, file.media_type, f"/v1/schemas/{version}/{name}")
                        for name, file in named.items()
                        if name == PROTO or name.startswith(f"{kind}.")
                    ],
                )
                for kind, schema in SEQUENCED_SCHEMAS.items()
            ],
        )
        for version, named in sorted(files().items(), reverse=True)
    ]
