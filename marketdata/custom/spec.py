"""What a view says of its custom transformation: the name, and what the package declares of it.

The declaration travels in the plan and is part of what the view's name is the digest of: where
frames are cut and which columns are delivered must not change under a view's name, and readers need
no package to know its columns.
"""

from typing import Annotated, Final

import msgspec
import pyarrow as pa
from msgspec import UNSET, Meta, UnsetType

from marketdata.schemas import declared_field

LEAST_ROWS: Final = 8
MOST_ROWS: Final = 32_768
"""Bounds of `max_rows`: as those of formats, since it says, too, where frames are cut."""

MAX_COLUMNS: Final = 32

Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9_-]{0,31}$(?!\n)",
        description="Of the entry point; `a-z`, `0-9`, `-`, `_`, a letter first.",
        examples=["bands"],
    ),
]
ColumnName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$(?!\n)")]
ColumnType = Annotated[str, Meta(pattern=r"^(text|time|integer|decimal\([1-9]\))$(?!\n)")]


class Custom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A custom transformation of an installed package.

    Attributes:
        columns: name -> `text`, `time`, `integer` or `decimal(n)`, n digits behind the point.
        max_rows: most events that it is given at once.
    """

    name: Name
    columns: (
        Annotated[
            dict[ColumnName, ColumnType],
            Meta(
                max_length=MAX_COLUMNS,
                description="As the package declares them; may be left out of a request.",
                examples=[{"band": "decimal(4)"}],
            ),
        ]
        | UnsetType
    ) = UNSET
    max_rows: (
        Annotated[
            int,
            Meta(
                ge=LEAST_ROWS,
                le=MOST_ROWS,
                description="As the package declares it; may be left out of a request.",
            ),
        ]
        | UnsetType
    ) = UNSET


def custom_fields(custom: Custom) -> list[pa.Field]:
    """The columns that a resolved custom transformation adds, in the order of their names.

    Nullable utf8, timestamp[ns, UTC], int64, or int64 with its digits in the metadata `scale`.
    """
    return [declared_field(name, type_) for name, type_ in sorted((custom.columns or {}).items())]
