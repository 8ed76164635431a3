"""Declarative transformations: which columns a view delivers, in which order, under which names.

A transformation is validated once, when a subscription is made, against the union of all kinds'
columns; applying it to a frame cannot fail then. A chosen column that a kind does not have is
simply absent from that kind's frames. Rows, values, types and the schema's metadata are untouched.
"""

import re
from difflib import get_close_matches
from typing import Final

import msgspec
import pyarrow as pa

from marketdata.errors import DistributionError
from marketdata.schemas import COLUMNS

REQUIRED: Final = ("instrument", "sequence")
"""Columns that every view keeps under their own names: consumers prove continuity with them."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")


class TransformationError(DistributionError):
    """A transformation is refused; fix the request.

    Attributes:
        hint: what would be right.
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message}; {hint}")
        self.message = message
        self.hint = hint


class Transformation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Choose and rename columns.

    Attributes:
        select: columns to deliver, in this order; None for all in the schema's order.
        rename: column -> name in the delivered frame; columns not named keep theirs.
    """

    select: tuple[str, ...] | None = None
    rename: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def is_identity(self) -> bool:
        """Whether frames pass unchanged."""
        return self.select is None and all(old == new for old, new in self.rename.items())

    def validate(self) -> None:
        """Check against the columns of all kinds.

        Raises:
            TransformationError: what is wrong and, in `hint`, what would be right.
        """
        for name in (*(self.select or ()), *self.rename):
            if name not in COLUMNS:
                raise TransformationError(f"unknown column {name!r}", hint=_near(name))
        if self.select is not None:
            self._validate_select(self.select)
        self._validate_rename(self.select if self.select is not None else tuple(COLUMNS))

    def _validate_select(self, select: tuple[str, ...]) -> None:
        doubled = sorted({name for name in select if select.count(name) > 1})
        if doubled:
            raise TransformationError(
                f"column {doubled[0]!r} is chosen twice", hint="name every column once in select"
            )
        for name in REQUIRED:
            if name not in select:
                raise TransformationError(
                    f"select drops {name!r}",
                    hint=f"add {name!r}: consumers prove with it that nothing was lost",
                )

    def _validate_rename(self, chosen: tuple[str, ...]) -> None:
        for old, new in self.rename.items():
            if old not in chosen:
                raise TransformationError(
                    f"rename of {old!r}, which select leaves out",
                    hint=f"add {old!r} to select or drop the rename",
                )
            if old in REQUIRED and new != old:
                raise TransformationError(
                    f"{old!r} may not be renamed",
                    hint="consumers prove with it that nothing was lost",
                )
            if not _NAME.match(new) or new == "kind":
                raise TransformationError(
                    f"{new!r} cannot be a column's name",
                    hint="use up to 63 letters, digits and underscores, no digit first;"
                    " 'kind' is taken",
                )
        taken: dict[str, str] = {}
        for old in chosen:
            new = self.rename.get(old, old)
            if new in taken:
                raise TransformationError(
                    f"{taken[new]!r} and {old!r} would both be called {new!r}",
                    hint="give one of them another name",
                )
            taken[new] = old

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema of a transformed frame, given that of the frame."""
        names = schema.names if self.select is None else self.select
        fields = [schema.field(name) for name in names if schema.get_field_index(name) >= 0]
        return pa.schema(
            [field.with_name(self.rename.get(field.name, field.name)) for field in fields],
            metadata=schema.metadata,
        )

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The transformed batch: the same rows, no column copied.

        Args:
            batch: a batch of any kind; the transformation must have been validated.
        """
        if self.is_identity:
            return batch
        names = batch.schema.names if self.select is None else self.select
        columns = [batch.column(name) for name in names if batch.schema.get_field_index(name) >= 0]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema(batch.schema))


def _near(name: str) -> str:
    near = get_close_matches(name.lower(), COLUMNS, n=1)
    if name.lower() == "kind":
        return "kind is no column: it is in the message's properties and in every JSON event"
    return f"did you mean {near[0]!r}?" if near else f"columns are: {', '.join(COLUMNS)}"
