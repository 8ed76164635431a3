"""What a custom transformation gives, checked: which events it keeps, and its columns of them.

Every row that it gives must be one of the rows that it was given, told by instrument, epoch and
sequence, each at most once and in order. So what is delivered stays in order and can be proven
complete, whatever a package does.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.arrays import codes_of, values_of
from marketdata.custom.registry import UnknownCustom, found
from marketdata.custom.spec import Custom, custom_fields
from marketdata.errors import DistributionError, described, printable
from marketdata.frames import MAX_SYMBOL_BYTES

KEYS: Final = ("instrument", "epoch", "sequence")
"""Columns that tell which event a row is."""

Rows = npt.NDArray[np.int64]


class CustomFailed(DistributionError):
    """A custom transformation raised, or gave what it may not give: the frame is a dead letter."""

    code = "custom_failed"


class Answer(NamedTuple):
    """What a custom transformation gave.

    Attributes:
        rows: ascending numbers of the rows that are kept; None for all.
        columns: of these rows, as `custom_fields` says.
    """

    rows: Rows | None
    columns: tuple[pa.Array, ...]


def call(custom: Custom, batch: pa.RecordBatch) -> Answer:
    """Have a custom transformation work on events, and check what it gives.

    Args:
        custom: resolved.
        batch: sequenced events of one kind, at least one and at most `custom.max_rows`.

    Raises:
        CustomFailed: it is not installed here, raised, or gave what it may not give.
    """
    try:
        function, declared = found(custom.name)
    except UnknownCustom as error:
        raise CustomFailed(str(error)) from error
    if declared != custom:
        raise CustomFailed(
            f"custom transformation {custom.name!r} declares something else here than where the"
            " subscription was made: install the same package"
        )
    try:
        given = function.apply(batch)
    except BaseException as error:  # whatever a package raises, it is this frame's matter only
        raise CustomFailed(
            f"custom transformation {custom.name!r} failed: {described(error)}"
        ) from error
    try:
        return checked(custom, batch, given)
    except BaseException as error:
        told = printable(str(error))
        raise CustomFailed(f"custom transformation {custom.name!r} {told}") from error


def checked(custom: Custom, batch: pa.RecordBatch, given: object) -> Answer:
    """The answer that a batch is.

    Raises:
        ValueError, pa.ArrowException: it is none; the text goes on behind the name.
    """
    if not isinstance(given, pa.RecordBatch):
        raise ValueError(f"gave {type(given).__name__}, not a record batch")  # noqa: TRY004
    fields = custom_fields(custom)
    wanted = {name: batch.schema.field(name).type for name in KEYS}
    wanted |= {field.name: field.type for field in fields}
    types = dict(zip(given.schema.names, given.schema.types, strict=True))
    if types != wanted or len(types) != given.num_columns:
        raise ValueError(f"gave the columns {_listed(types)}, and has to give {_listed(wanted)}")
    given.validate(full=True)
    for field in fields:
        if field.type == pa.utf8():
            _check_texts(field.name, given.column(field.name))
    rows = _kept(batch, given)
    return Answer(rows, tuple(given.column(field.name) for field in fields))


def _kept(before: pa.RecordBatch, after: pa.RecordBatch) -> Rows | None:
    """Which rows of one batch the rows of another are."""
    if any(after.column(name).null_count for name in KEYS):
        raise ValueError("gave an event without instrument, epoch or sequence")
    olds, news = _keys(before, before), _keys(after, before)
    pairs = list(zip(olds, news, strict=True))
    if all(np.array_equal(old, new) for old, new in pairs):
        return None
    keys = [np.concatenate(pair) for pair in pairs]
    order = np.lexsort(keys)
    differs = np.zeros(len(order), dtype=np.bool_)
    for key in keys:
        differs[1:] |= key[order][1:] != key[order][:-1]
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.cumsum(differs)
    place = np.full(len(order) + 1, -1, dtype=np.int64)
    place[numbers[: before.num_rows]] = np.arange(before.num_rows)
    rows = place[numbers[before.num_rows :]]
    if (rows < 0).any():
        raise ValueError("gave an event that it was not given: instrument, epoch and sequence stay")
    if (np.diff(rows) <= 0).any():
        raise ValueError("gave events twice or in another order than it was given them")
    return rows


def _keys(
    batch: pa.RecordBatch, reference: pa.RecordBatch
) -> tuple[npt.NDArray[np.integer[Any]], ...]:
    """Instrument as code of the reference's dictionary (-1: unknown there), epoch, sequence."""
    instruments = batch.column("instrument")
    names = reference.column("instrument").dictionary
    codes = codes_of(instruments).astype(np.int64)
    if not instruments.dictionary.equals(names):
        known = pc.fill_null(pc.index_in(instruments.dictionary, value_set=names), -1)
        codes = known.to_numpy(zero_copy_only=False).astype(np.int64)[codes]
    epochs = values_of(batch.column("epoch"), np.uint32)
    return codes, epochs, values_of(batch.column("sequence"), np.uint64)


def _check_texts(name: str, column: pa.StringArray) -> None:
    longest = pc.max(pc.binary_length(column)).as_py() or 0
    if longest > MAX_SYMBOL_BYTES:
        raise ValueError(
            f"gave a text of {longest} bytes in {name!r}; at most {MAX_SYMBOL_BYTES} are allowed"
        )


def _listed(types: dict[str, pa.DataType]) -> str:
    return ", ".join(f"{name} ({type_})" for name, type_ in types.items())
