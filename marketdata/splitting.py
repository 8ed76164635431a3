"""Splitting: the rows of one batch, dealt out to many views at once.

Views are cut out of a few large gathered batches instead of being gathered one by one: what a view
costs is then a handful of slices, however few rows it gets.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.arrays import array_of, gathered, values_of
from marketdata.schemas import SYMBOL

Rows = npt.NDArray[np.int64]
"""Row numbers of a batch, ascending."""

MAX_GATHERED_ROWS: Final = 65_536
"""Most rows that are gathered at once, unless one selection alone has more: a bound of memory."""

MAX_CELLS: Final = 1 << 22
"""Most cells of a table of selections by dictionary values: a bound of memory, too."""


def split_rows(batch: pa.RecordBatch, selections: Sequence[Rows]) -> Iterator[pa.RecordBatch]:
    """Cut a batch into one piece per selection.

    Args:
        batch: events of one kind; symbol columns are dictionaries with int16 codes.
        selections: row numbers, each at least one, ascending; rows may occur in many selections.

    Yields:
        The selected rows, in the order of `selections`. The dictionaries of a piece hold only
        values that occur in it, so a piece names nothing that its view does not get.
    """
    sizes = [len(c.dictionary) for c in batch.columns if isinstance(c, pa.DictionaryArray)]
    most_pieces = max(1, MAX_CELLS // max([1, *sizes]))
    start = 0
    while start < len(selections):
        end, rows = start + 1, len(selections[start])
        while (
            end < len(selections)
            and end - start < most_pieces
            and rows + len(selections[end]) <= MAX_GATHERED_ROWS
        ):
            rows += len(selections[end])
            end += 1
        yield from _cut(batch, selections[start:end])
        start = end


def _cut(batch: pa.RecordBatch, selections: Sequence[Rows]) -> Iterator[pa.RecordBatch]:
    lengths = np.array([len(rows) for rows in selections])
    rows = np.concatenate(selections)
    owners = np.repeat(np.arange(len(selections)), lengths)
    schema = batch.schema
    columns = [gathered(column, rows) for column in batch.columns]
    whole = pa.RecordBatch.from_arrays(columns, schema=schema)
    symbols = [
        found
        for at, column in enumerate(columns)
        if isinstance(column, pa.DictionaryArray)
        and (found := _renumbered(at, schema.field(at), column, owners, len(selections)))
    ]
    start = 0
    for number, length in enumerate(lengths.tolist()):
        piece = whole.slice(start, length)
        for each in symbols:
            piece = piece.set_column(each.at, each.field, each.piece(number, start, length))
        yield piece
        start += length


class _Symbols(NamedTuple):
    """A symbol column of gathered rows whose codes are renumbered for each piece.

    Attributes:
        at, field: of the column: its place and its field.
        codes: of all rows, each within the dictionary of its piece.
        dictionary: the values of all pieces behind one another.
        starts: where the values of each piece begin, and the end.
    """

    at: int
    field: pa.Field
    codes: pa.Array
    dictionary: pa.Array
    starts: list[int]

    def piece(self, number: int, start: int, length: int) -> pa.DictionaryArray:
        """The column of one piece."""
        first = self.starts[number]
        # Not checked again: the codes were made here or have been checked with the frame.
        return pa.DictionaryArray.from_arrays(
            self.codes.slice(start, length),
            self.dictionary.slice(first, self.starts[number + 1] - first),
            safe=False,
        )


def _renumbered(
    at: int,
    field: pa.Field,
    column: pa.DictionaryArray,
    owners: npt.NDArray[np.int64],
    pieces: int,
) -> _Symbols | None:
    """A symbol column for pieces; None where each piece has every value of the dictionary."""
    dictionary, indices = column.dictionary, column.indices
    size, nulls = len(dictionary), indices.null_count
    if size == 0 or (size == 1 and not nulls):
        return None
    codes = values_of(indices, np.int16)
    used = np.zeros(pieces * size, dtype=np.bool_)
    cells = owners * size
    if nulls:
        valid = indices.is_valid().to_numpy(zero_copy_only=False)
        # The slots of nulls hold anything; any code of the table will do.
        cells += np.where(valid, codes, 0)
        used[cells[valid]] = True
    else:
        cells += codes
        used[cells] = True
    if used.all():
        return None
    table = used.reshape(pieces, size)
    renumbered = (np.cumsum(table, axis=1, dtype=np.int16) - 1).astype(np.int16).ravel()[cells]
    validity = indices.buffers()[0] if nulls else None
    return _Symbols(
        at,
        field,
        pa.Array.from_buffers(pa.int16(), len(codes), [validity, pa.py_buffer(renumbered)], nulls),
        dictionary.take(array_of(np.flatnonzero(used) % size, pa.int64())),
        [0, *np.cumsum(table.sum(axis=1)).tolist()],
    )


assert pa.int16() == SYMBOL.index_type, "codes are renumbered as int16"  # noqa: S101
