"""The Avro schema of events: one record per kind.

Symbols and texts are `string`; prices, sizes, computed decimals and uint64 columns are decimals of
nine bytes (all 64 bits fit, and every reader of the decimal logical type gets the exact number);
times are `long` with `timestamp-nanos`; uint32 is `long`, uint16 `int`, float32 `float`. What may
be null is a union with null first and null as default, so that columns can be added and left out
compatibly.
"""

import json
from typing import Any, Final

import pyarrow as pa

from marketdata.formats.base import FormatError
from marketdata.schemas import PRICE_SCALE, SIZE_SCALE, decimal_scale

NAMESPACE: Final = "marketdata"
DECIMAL_BYTES: Final = 9
"""Width of a decimal: the 8 bytes of an int64 or uint64 behind one of its sign."""

_DECIMALS: Final = {
    PRICE_SCALE: ("Price", 19, PRICE_SCALE),
    SIZE_SCALE: ("Size", 19, SIZE_SCALE),
    None: ("Unsigned", 20, 0),
}


def avro_schema(schema: pa.Schema) -> str:
    """The Avro schema of a batch's Arrow schema, as JSON text.

    Raises:
        FormatError: a column of a type that events do not have.
    """
    metadata = schema.metadata or {}
    kind = metadata[b"kind"].decode()
    known: set[str] = set()
    record = {
        "type": "record",
        "name": kind.capitalize(),
        "namespace": NAMESPACE,
        "fields": [_field(field, known) for field in schema],
        "kind": kind,
        "schema_version": metadata[b"schema_version"].decode(),
    }
    return json.dumps(record, separators=(",", ":"))


def _field(field: pa.Field, known: set[str]) -> dict[str, Any]:
    type_ = avro_type(field)
    if isinstance(type_, dict) and type_["type"] == "fixed":
        # A name is defined once and then only called.
        name = type_["name"]
        type_ = name if name in known else type_
        known.add(name)
    if not field.nullable:
        return {"name": field.name, "type": type_}
    return {"name": field.name, "type": ["null", type_], "default": None}


def avro_type(field: pa.Field) -> str | dict[str, Any]:
    """The Avro type of a column's values.

    Raises:
        FormatError: events have no columns of such a type.
    """
    kind, scale = field.type, decimal_scale(field)
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        return "string"
    if pa.types.is_float32(kind):
        return "float"
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return {"type": "long", "logicalType": "timestamp-nanos"}
    if pa.types.is_uint64(kind) or (pa.types.is_int64(kind) and scale is not None):
        name, precision, digits = _DECIMALS.get(scale, (f"Decimal{scale}", 19, scale))
        return {
            "type": "fixed",
            "name": name,
            "size": DECIMAL_BYTES,
            "logicalType": "decimal",
            "precision": precision,
            "scale": digits,
        }
    if pa.types.is_int64(kind) or pa.types.is_uint32(kind):
        return "long"
    if pa.types.is_uint16(kind):
        return "int"
    raise FormatError(f"column {field.name!r}: Avro has no form for {kind}")
