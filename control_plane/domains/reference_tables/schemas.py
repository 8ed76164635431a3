"""Reference tables as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from control_plane.domains.consumers.schemas import Name, Text
from marketdata.reference.spec import MAX_COLUMNS, MAX_KEY, ColumnName, ColumnType

Value = str | int | bool | None


class ColumnSpec(msgspec.Struct, forbid_unknown_fields=True):
    """A column of a table."""

    name: ColumnName
    type: Annotated[
        ColumnType,
        Meta(
            description="text, time, integer, boolean or decimal(n), n digits behind the point.",
            examples=["decimal(6)"],
        ),
    ]


class ReferenceTableCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A table to make, without rows; what it declares cannot be changed."""

    name: Name
    columns: Annotated[list[ColumnSpec], Meta(min_length=1, max_length=MAX_COLUMNS)]
    key: Annotated[
        list[ColumnName],
        Meta(
            min_length=1,
            max_length=MAX_KEY,
            description="The columns, of type text, that rows are found by.",
            examples=[["instrument"]],
        ),
    ]
    valid_from: Annotated[
        ColumnName | None,
        Meta(
            description="A column of type time: a row holds from then until the key's next one. "
            "Null: a key has one row."
        ),
    ] = None
    description: Text = ""


class ReferenceTableOut(msgspec.Struct):
    """A table and its newest version, without the rows."""

    id: str
    name: str
    description: str
    columns: list[ColumnSpec]
    key: list[str]
    valid_from: str | None
    version: int
    rows: int
    size_bytes: Annotated[int, Meta(description="Of the version's content, compressed.")]
    digest: Annotated[str, Meta(description="SHA-256 of the version's content.")]
    plan: Annotated[int, Meta(description="The plan from which this version holds.")]
    created_at: datetime
    updated_at: datetime


class TableVersionOut(msgspec.Struct):
    """One change of what a table holds."""

    version: int
    rows: int
    size_bytes: int
    digest: str
    plan: int
    correlation_id: Annotated[str, Meta(description="Of the request that made the change.")]
    created_at: datetime


class RowOut(msgspec.Struct):
    """One row of a table."""

    values: Annotated[
        dict[str, Value],
        Meta(description="Column -> value; decimals and times as text, exact."),
    ]
