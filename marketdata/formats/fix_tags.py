"""Which FIX tag holds which column.

Standard tags where FIX 4.4 has one for the meaning, tags from 5000 on, which it leaves to users,
for the rest. Numbers are what readers know columns by: they keep them for ever.

Every message has `KIND` in its body. Entries are those of the group that 268 (NoMDEntries) counts.
Some columns show in a standard tag as well, whose few values cannot hold every text: side, action,
status and statistic. The tag from 5000 on is exact, the standard one is for readers of FIX.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

BEGIN_STRING: Final = "FIX.4.4"
TARGET: Final = "*"
"""56, TargetCompID: whoever reads."""

KIND: Final = 5000
"""The tag of the kind: 35 (MsgType) does not tell the incremental ones apart."""

MESSAGE_TYPES: Final[Mapping[str, str]] = {
    "trade": "X",
    "quote": "W",
    "bar": "X",
    "book": "X",
    "status": "f",
    "statistic": "X",
}
"""Kind -> 35: W snapshot, X incremental refresh, f security status."""

HEADER: Final[Mapping[int, str]] = {49: "source", 34: "sequence", 52: "ts_publish"}

_INSTRUMENT: Final[Mapping[int, str]] = {55: "instrument", 207: "venue"}
_COMMON: Final[Mapping[int, str]] = {
    60: "ts_event",
    5001: "source_sequence",
    5002: "epoch",
    5003: "ts_sequenced",
    5004: "quality",
    5005: "quality_flags",
    5006: "region",
}

BODY: Final[Mapping[str, Mapping[int, str]]] = {
    "trade": {**_COMMON, 5007: "side"},
    "quote": {**_INSTRUMENT, **_COMMON},
    "bar": {**_COMMON, 5008: "interval_ns", 5009: "trade_count"},
    "book": {**_COMMON, 5007: "side", 5010: "action"},
    "status": {**_INSTRUMENT, **_COMMON, 5011: "status", 58: "reason"},
    "statistic": {**_COMMON, 5012: "statistic"},
}
"""Kind -> tag -> column, in front of the entries."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One market data entry.

    Attributes:
        type: 269 (MDEntryType); "" where the event's columns tell it.
        columns: tag -> column, in order.
    """

    type: str
    columns: Mapping[int, str]


ENTRIES: Final[Mapping[str, tuple[Entry, ...]]] = {
    "trade": (
        Entry("2", {278: "trade_id", **_INSTRUMENT, 270: "price", 271: "size", 277: "conditions"}),
    ),
    "quote": (
        Entry("0", {270: "bid_price", 271: "bid_size"}),
        Entry("1", {270: "ask_price", 271: "ask_size"}),
    ),
    "bar": (
        Entry("4", {**_INSTRUMENT, 270: "open"}),
        Entry("7", {270: "high"}),
        Entry("8", {270: "low"}),
        Entry("5", {270: "close"}),
        Entry("B", {271: "volume"}),
        Entry("9", {270: "vwap"}),
    ),
    "book": (Entry("", {**_INSTRUMENT, 270: "price", 271: "size", 37: "order_id", 290: "level"}),),
    "status": (),
    "statistic": (Entry("", {**_INSTRUMENT, 270: "value"}),),
}
"""Kind -> its entries. The first one of an incremental message names the instrument and is always
there; others are left out when all their columns are null."""

COLUMNS_OF_KIND: Final[Mapping[str, frozenset[str]]] = {
    kind: frozenset(
        name
        for columns in (HEADER, BODY[kind], *(entry.columns for entry in entries))
        for name in columns.values()
    )
    for kind, entries in ENTRIES.items()
}
"""Kind -> the columns that have a tag."""

SIDES: Final[Mapping[str, str]] = {"buy": "0", "sell": "1"}
"""Side -> 269 (MDEntryType) of a book event."""

ACTIONS: Final[Mapping[str, str]] = {"add": "0", "modify": "1", "cancel": "2", "clear": "2"}
"""Action -> 279 (MDUpdateAction)."""

STATISTICS: Final[Mapping[str, str]] = {
    "opening_price": "4",
    "closing_price": "5",
    "settlement": "6",
    "session_high": "7",
    "session_low": "8",
    "vwap": "9",
    "volume": "B",
    "open_interest": "C",
}
"""Statistic -> 269 (MDEntryType)."""

STATUSES: Final[Mapping[str, str]] = {
    "pre_open": "21",
    "auction": "22",
    "trading": "17",
    "halted": "2",
    "closed": "18",
}
"""Status -> 326 (SecurityTradingStatus)."""

NEW: Final = "0"
"""279 of all that is no book event."""

CHANGE: Final = "1"
"""279 of any other action, and of none."""

EMPTY_BOOK: Final = "J"
"""269 of the action `clear`."""

OTHER_ENTRY: Final = "z"
"""269 of a book event without a known side and of any other statistic: no type of the standard."""

UNKNOWN_STATUS: Final = "20"
"""326 of any other status, and of none."""
