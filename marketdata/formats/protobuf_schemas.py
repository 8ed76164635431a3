"""The published `.proto` of events: one message per kind, and `Event`, which is one of them.

Generated from `marketdata.schemas`. Prices, sizes, times and other int64 columns are `sfixed64`:
prices in units of 1e-9, sizes in units of 1e-8, times in nanoseconds since the epoch, UTC. Whole
numbers are `uint64` and `uint32`. Every field is `optional`: null is an absent field. A column has
the same number in every message, and keeps it for ever.
"""

from typing import Final

import pyarrow as pa

from marketdata.formats.base import FormatError
from marketdata.schemas import (
    PRICE_SCALE,
    SCHEMA_VERSION,
    SEQUENCED_SCHEMAS,
    SIZE_SCALE,
    decimal_scale,
)

PACKAGE: Final = f"marketdata.v{SCHEMA_VERSION}"

_BY_NUMBER: Final = (
    *("instrument", "venue", "source", "source_sequence", "ts_event", "ts_publish", "sequence"),
    *("epoch", "ts_sequenced", "quality", "quality_flags", "region", "price", "size", "side"),
    *("trade_id", "conditions", "bid_price", "bid_size", "ask_price", "ask_size", "interval_ns"),
    *("open", "high", "low", "close", "volume", "vwap", "trade_count", "action", "level"),
    *("order_id", "status", "reason", "statistic", "value"),
)
# Only ever append: numbers are what readers know columns by.

FIELD_NUMBERS: Final = {name: number for number, name in enumerate(_BY_NUMBER, 1)}
"""Column -> its number in every message."""

KIND_NUMBERS: Final = {"trade": 1, "quote": 2, "bar": 3, "book": 4, "status": 5, "statistic": 6}
"""Kind -> its number in `Event`; only ever append."""


def protobuf_type(field: pa.Field) -> str:
    """The Protobuf type of a column.

    Raises:
        FormatError: events have no columns of such a type.
    """
    kind = field.type
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        return "string"
    if pa.types.is_float32(kind):
        return "float"
    if pa.types.is_int64(kind) or (pa.types.is_timestamp(kind) and kind.unit == "ns"):
        return "sfixed64"
    if pa.types.is_uint64(kind):
        return "uint64"
    if pa.types.is_uint32(kind) or pa.types.is_uint16(kind):
        return "uint32"
    raise FormatError(f"column {field.name!r}: Protobuf has no form for {kind}")


def proto_file() -> str:
    """The text of the `.proto` file."""
    parts = [
        f"// Market-data events, schema version {SCHEMA_VERSION}. Generated; do not edit.",
        "// An absent field is null. A batch is a run of `Event`s, each behind its length.",
        f'syntax = "proto3";\n\npackage {PACKAGE};\n',
    ]
    for kind, schema in SEQUENCED_SCHEMAS.items():
        lines = [
            f"  optional {protobuf_type(field)} {field.name} = {FIELD_NUMBERS[field.name]};"
            f"{_comment(field)}"
            for field in schema
        ]
        parts.append(f"message {kind.capitalize()} {{\n" + "\n".join(lines) + "\n}\n")
    kinds = [
        f"    {kind.capitalize()} {kind} = {KIND_NUMBERS[kind]};" for kind in SEQUENCED_SCHEMAS
    ]
    parts.append("message Event {\n  oneof event {\n" + "\n".join(kinds) + "\n  }\n}\n")
    return "\n".join(parts)


def _comment(field: pa.Field) -> str:
    if pa.types.is_timestamp(field.type):
        return "  // ns since the epoch, UTC"
    scale = decimal_scale(field)
    if scale is None:
        return ""
    return {PRICE_SCALE: f"  // 1e-{PRICE_SCALE}", SIZE_SCALE: f"  // 1e-{SIZE_SCALE}"}[scale]
