"""The JSON Schema of an event as a line of NDJSON has it, one schema per kind (draft 2020-12).

Prices and sizes are strings with the exact decimal number, times strings with nine digits behind
the second, whole numbers and `quality` numbers. What may be null says so. Columns that a view
leaves out are absent, and ones that come with a later version or that a view computes are allowed.
"""

import json
from typing import Any, Final

import pyarrow as pa

from marketdata.formats.base import FormatError
from marketdata.schemas import decimal_scale
from marketdata.transformations import REQUIRED

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_TIME: Final = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{9}Z$"
_WHOLE_BITS: Final = {pa.int64(): 63, pa.uint64(): 64, pa.uint32(): 32, pa.uint16(): 16}


def json_schema(schema: pa.Schema) -> str:
    """The JSON Schema of the events of a batch's Arrow schema, as JSON text.

    Raises:
        FormatError: a column of a type that events do not have.
    """
    metadata = schema.metadata or {}
    kind, version = (metadata[name].decode() for name in (b"kind", b"schema_version"))
    document = {
        "$schema": DIALECT,
        "$id": f"urn:dds:schema:{version}:{kind}",
        "title": kind,
        "type": "object",
        "properties": {
            "kind": {"const": kind},
            **{field.name: _property(field) for field in schema},
        },
        "required": ["kind", *REQUIRED],
    }
    return json.dumps(document, indent=2)


def _property(field: pa.Field) -> dict[str, Any]:
    form = json_form(field)
    return form | {"type": [form["type"], "null"]} if field.nullable else form


def json_form(field: pa.Field) -> dict[str, Any]:
    """What a column's values that are not null look like.

    Raises:
        FormatError: events have no columns of such a type.
    """
    kind, scale = field.type, decimal_scale(field)
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        return {"type": "string"}
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return {"type": "string", "pattern": _TIME, "description": "ISO 8601, UTC, nanoseconds"}
    if scale is not None:
        pattern = rf"^-?\d+(\.\d{{1,{scale}}})?$" if scale else r"^-?\d+$"
        return {"type": "string", "pattern": pattern, "description": "exact decimal"}
    if pa.types.is_float32(kind):
        return {"type": "number"}
    if kind in _WHOLE_BITS:
        least = -(2**63) if kind == pa.int64() else 0
        return {"type": "integer", "minimum": least, "maximum": 2 ** _WHOLE_BITS[kind] - 1}
    raise FormatError(f"column {field.name!r}: JSON has no form for {kind}")
