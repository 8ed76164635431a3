"""What a reference table declares, and what a view asks of one.

The types of the columns that a view takes travel in its transformation and are part of what its
name is the digest of, so that readers need no table to know its columns. Which version of a table
holds is said by the plan (`TableRef`), never by the view.
"""

from collections.abc import Iterable
from typing import Annotated, Final, Literal

import msgspec
import pyarrow as pa
from msgspec import UNSET, Meta, UnsetType

from marketdata.errors import DistributionError
from marketdata.filters.tree import References
from marketdata.schemas import COLUMNS, declared_field, is_symbol

MAX_ENRICHMENTS: Final = 8
MAX_COLUMNS: Final = 32
"""Of a table, and of those that a view takes from one."""
MAX_KEY: Final = 3

SYMBOLS: Final = tuple(name for name, field in COLUMNS.items() if is_symbol(field))
"""The columns of events that rows may be found by."""

TableName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$(?!\n)",
        description="Of a reference table.",
        examples=["instruments"],
    ),
]
ColumnName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$(?!\n)")]
ColumnType = Annotated[str, Meta(pattern=r"^(text|time|integer|boolean|decimal\([1-9]\))$(?!\n)")]
Missing = Literal["null", "drop", "dead-letter"]


class UnknownTable(DistributionError):
    """There is no such reference table, or it has not what is asked of it; the text says which."""


class TableSpec(msgspec.Struct, frozen=True):
    """What a reference table declares; it never changes.

    Attributes:
        columns: name -> `text`, `time`, `integer`, `boolean` or `decimal(n)`.
        key: the columns of type text that rows are found by.
        valid_from: a column of type time: from when on a row holds, until that of the key's next
            one; None where a key has one row.
    """

    columns: dict[str, str]
    key: tuple[str, ...]
    valid_from: str | None = None

    @property
    def unique(self) -> tuple[str, ...]:
        """The columns of which no two rows have the same values."""
        return self.key if self.valid_from is None else (*self.key, self.valid_from)


class TableRef(msgspec.Struct, frozen=True):
    """The version of a table that a plan joins with.

    Attributes:
        digest: SHA-256 (hex) of the version's content.
        pieces: messages that the content is cut into on the topic.
    """

    version: int
    digest: str
    pieces: int

    @property
    def keys(self) -> list[str]:
        """The keys of its messages on the topic, in their order."""
        return [f"{self.digest}/{number}" for number in range(self.pieces)]


class Enrichment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Columns that a view takes from a reference table.

    Attributes:
        columns: the table's column -> name in the delivered frame.
        on: what the table's key is compared with, in its order: columns of events that hold
            symbols, or columns of type text of an earlier enrichment. By default those that are
            named as the key.
        missing: what becomes of events for which the table has no row: `null`: the columns are
            null; `drop`: the view does not get them; `dead-letter`: nor that, and they are kept.
        types: name in the delivered frame -> type.
    """

    table: TableName
    columns: Annotated[
        dict[ColumnName, ColumnName],
        Meta(
            min_length=1,
            max_length=MAX_COLUMNS,
            description="The table's column -> its name in the delivered frame.",
            examples=[{"figi": "figi", "sector": "sector"}],
        ),
    ]
    on: (
        Annotated[
            tuple[str, ...],
            Meta(
                min_length=1,
                max_length=MAX_KEY,
                description="What the key is compared with: columns of events that hold symbols, "
                "or texts of an earlier enrichment. By default those named as the key.",
                examples=[["instrument"]],
            ),
        ]
        | UnsetType
    ) = UNSET
    missing: Annotated[
        Missing, Meta(description="What becomes of events that the table has no row for.")
    ] = "null"
    types: (
        Annotated[
            dict[ColumnName, ColumnType],
            Meta(description="As the table declares them; may be left out of a request."),
        ]
        | UnsetType
    ) = UNSET

    @property
    def rule(self) -> str:
        """Under which name events without a row are counted and kept; no rule can have it."""
        return f"{self.table}.{'.'.join(self.on or ())}"


def resolved(enrichment: Enrichment, declared: TableSpec, before: References) -> Enrichment:
    """What a request asks of a table, with what the table declares.

    Args:
        before: the columns that earlier enrichments give.

    Raises:
        UnknownTable: the table has no such column, or cannot be joined so.
    """
    table = enrichment.table
    for name in enrichment.columns:
        if name not in declared.columns:
            there = ", ".join(declared.columns)
            raise UnknownTable(f"table {table!r} has no column {name!r}; its columns are: {there}")
    on = enrichment.on or declared.key
    if len(on) != len(declared.key):
        raise UnknownTable(
            f"the key of table {table!r} is {', '.join(declared.key)}; `on` names {len(on)} columns"
        )
    texts = {name for name, given in before if given == "text"}
    for name in on:
        if name not in SYMBOLS and name not in texts:
            may = ", ".join((*SYMBOLS, *sorted(texts)))
            raise UnknownTable(f"rows cannot be found by {name!r}; `on` may name: {may}")
    types = {delivered: declared.columns[name] for name, delivered in enrichment.columns.items()}
    if enrichment.types is not UNSET and enrichment.types != types:
        raise UnknownTable(f"table {table!r} declares {types!r}, not {enrichment.types!r}")
    return msgspec.structs.replace(enrichment, on=on, types=types)


def references_of(enrichments: Iterable[Enrichment]) -> References:
    """Names and types of the columns that resolved enrichments give, of each sorted by name."""
    return tuple(pair for one in enrichments for pair in sorted((one.types or {}).items()))


def reference_fields(enrichments: Iterable[Enrichment]) -> list[pa.Field]:
    """The columns that resolved enrichments add, all nullable."""
    return [declared_field(name, given) for name, given in references_of(enrichments)]
