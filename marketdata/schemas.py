"""The event schemas: one Arrow schema per kind, a common envelope first.

Two forms of every schema exist. An *ingest* frame has the columns a publisher knows; a
*sequenced* frame has in addition the three that the sequencer assigns (`ASSIGNED`), right
after the keys. Column order is part of the contract.

Types: symbols are `dictionary<int16, utf8>` local to the frame; prices are int64 in units of
1e-9, sizes int64 in units of 1e-8; times are nanoseconds since the epoch, UTC. There are no
floats but `quality` (0…1). Null is null. Field metadata carries `unit` (`price` or `size`).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = 1
"""Rises with every change of a schema. Version 1 is the first."""

PRICE_SCALE: Final = 9
"""Decimal digits behind the point of a price: 1 price unit is 1e-9."""

SIZE_SCALE: Final = 8
"""Decimal digits behind the point of a size: 1 size unit is 1e-8."""

SYMBOL: Final = pa.dictionary(pa.int16(), pa.utf8())
TIMESTAMP: Final = pa.timestamp("ns", tz="UTC")

KEY_COLUMNS: Final = ("instrument", "venue", "source", "ts_event", "ts_publish")
"""Columns that are never null."""

ASSIGNED: Final = ("sequence", "epoch", "ts_sequenced")
"""Columns that only the sequencer writes; absent from ingest frames."""

GAP_BEFORE: Final = 1 << 28
OUT_OF_ORDER: Final = 1 << 29
REPEATED: Final = 1 << 30
LATE: Final = 1 << 31
"""Bits of `quality_flags` that the sequencer sets: events of its source are missing before this
one; it came after later ones; its source sequence came before; its `ts_event` is far behind. The
bits below are upstream's."""


def _symbol(name: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, SYMBOL, nullable=nullable)


def _price(name: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, pa.int64(), nullable=nullable, metadata={"unit": "price"})


def _size(name: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, pa.int64(), nullable=nullable, metadata={"unit": "size"})


_ENVELOPE: Final = (
    _symbol("instrument", nullable=False),
    _symbol("venue", nullable=False),  # ISO 10383 MIC
    _symbol("source", nullable=False),
    pa.field("source_sequence", pa.uint64()),  # the publisher's own number per instrument
    pa.field("ts_event", TIMESTAMP, nullable=False),
    pa.field("ts_publish", TIMESTAMP, nullable=False),
    pa.field("sequence", pa.uint64(), nullable=False),
    pa.field("epoch", pa.uint32(), nullable=False),
    pa.field("ts_sequenced", TIMESTAMP, nullable=False),
    pa.field("quality", pa.float32()),  # 0…1 as given upstream
    pa.field("quality_flags", pa.uint32()),
    _symbol("region"),
)

_COLUMNS_OF_KIND: Final[Mapping[str, tuple[pa.Field, ...]]] = {
    # One execution. `side` is the aggressor: buy, sell or null.
    "trade": (
        _price("price"),
        _size("size"),
        _symbol("side"),
        pa.field("trade_id", pa.utf8()),
        _symbol("conditions"),
    ),
    # Best bid and offer after a change.
    "quote": (
        _price("bid_price"),
        _size("bid_size"),
        _price("ask_price"),
        _size("ask_size"),
    ),
    # An interval [ts_event, ts_event + interval_ns).
    "bar": (
        pa.field("interval_ns", pa.int64()),
        _price("open"),
        _price("high"),
        _price("low"),
        _price("close"),
        _size("volume"),
        _price("vwap"),
        pa.field("trade_count", pa.uint64()),
    ),
    # A change of the order book. `action`: add, modify, cancel, clear, trade, fill.
    "book": (
        _symbol("action"),
        _symbol("side"),
        _price("price"),
        _size("size"),
        pa.field("level", pa.uint16()),
        pa.field("order_id", pa.uint64()),
    ),
    # Trading state: pre_open, auction, trading, halted, closed, …
    "status": (_symbol("status"), _symbol("reason")),
    # A published statistic: settlement, open_interest, session_high, …
    "statistic": (_symbol("statistic"), _price("value")),
}

KINDS: Final = tuple(_COLUMNS_OF_KIND)

SEQUENCED_SCHEMAS: Final[Mapping[str, pa.Schema]] = MappingProxyType(
    {
        kind: pa.schema(
            _ENVELOPE + columns,
            metadata={"kind": kind, "schema_version": str(SCHEMA_VERSION)},
        )
        for kind, columns in _COLUMNS_OF_KIND.items()
    }
)
"""kind -> schema of frames on `sequenced` and of Arrow frames on `delivery`."""

INGEST_SCHEMAS: Final[Mapping[str, pa.Schema]] = MappingProxyType(
    {
        kind: pa.schema([f for f in schema if f.name not in ASSIGNED], metadata=schema.metadata)
        for kind, schema in SEQUENCED_SCHEMAS.items()
    }
)
"""kind -> schema of the frames that publishers write to `ingest`."""

COLUMNS: Final[Mapping[str, pa.Field]] = MappingProxyType(
    {field.name: field for schema in SEQUENCED_SCHEMAS.values() for field in schema}
)
"""Every column of every kind by name. A name has one type across all kinds."""


def is_symbol(field: pa.Field) -> bool:
    """Whether a column is a dictionary-encoded symbol."""
    return pa.types.is_dictionary(field.type)


def decimal_scale(field: pa.Field) -> int | None:
    """Digits behind the point of a fixed-point column (9 price, 8 size); None for others."""
    metadata = field.metadata or {}
    if b"scale" in metadata:
        return int(metadata[b"scale"])
    unit = metadata.get(b"unit")
    return {b"price": PRICE_SCALE, b"size": SIZE_SCALE}.get(unit) if unit else None


def declared_digits(declared: str) -> int | None:
    """Digits behind the point of a declared type `decimal(n)`; None for others."""
    digits = declared.removeprefix("decimal(").removesuffix(")")
    return int(digits) if digits != declared else None


def declared_field(name: str, declared: str) -> pa.Field:
    """A column that no kind has, by its declared type.

    Args:
        declared: `text` gives utf8, `time` timestamp[ns, UTC], `integer` int64, `boolean` int64
            that is 1 or 0, `decimal(n)` int64 in units of 10^-n.
    """
    match declared:
        case "text":
            return pa.field(name, pa.utf8())
        case "time":
            return pa.field(name, TIMESTAMP)
        case _:
            return decimal_field(name, declared_digits(declared) or 0)


def decimal_field(name: str, scale: int) -> pa.Field:
    """A column that no kind has, of int64 in units of 10^-scale; plain integers for scale 0."""
    return pa.field(name, pa.int64(), metadata={"scale": str(scale)} if scale else None)
