"""Splitting: the rows of one batch, dealt out to many views at once.

Views are cut out of a few large gathered batches instead of being gathered one by one: what a view
costs is then a handful of slices, however few rows it gets.
"""

from collections.abc import Iterator, Sequence
from typing import Final

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
    columns = [
        _Symbols(gathered(column.indices, rows), column.dictionary, owners, len(selections))
        if isinstance(column, pa.DictionaryArray)
        else gathered(column, rows)
        for column in batch.columns
    ]
    schema = batch.schema
    start = 0
    for piece, length in enumerate(lengths.tolist()):
        arrays = [
            column.piece(piece, start, length)
            if isinstance(column, _Symbols)
            else column.slice(start, length)
            for column in columns
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        start += length


class _Symbols:
    """A gathered symbol column, its codes renumbered for each piece."""

    def __init__(
        self,
        indices: pa.Array,
        dictionary: pa.Array,
        owners: npt.NDArray[np.int64],
        pieces: int,
    ) -> None:
        self._indices = indices
        self._dictionary = dictionary
        self._starts: list[int] | None = None
        size, nulls = len(dictionary), indices.null_count
        if size == 0 or (size == 1 and not nulls):
            return
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
            return
        table = used.reshape(pieces, size)
        renumbered = (np.cumsum(table, axis=1, dtype=np.int16) - 1).astype(np.int16).ravel()[cells]
        validity = indices.buffers()[0] if nulls else None
        self._indices = pa.Array.from_buffers(
            pa.int16(), len(codes), [validity, pa.py_buffer(renumbered)], nulls
        )
        # The values of all pieces behind one another: a piece's dictionary is a slice.
        self._dictionary = dictionary.take(array_of(np.flatnonzero(used) % size, pa.int64()))
        self._starts = [0, *np.cumsum(table.sum(axis=1)).tolist()]

    def piece(self, number: int, start: int, length: int) -> pa.DictionaryArray:
        """The column of one piece."""
        dictionary = self._dictionary
        if self._starts is not None:
            first = self._starts[number]
            dictionary = dictionary.slice(first, self._starts[number + 1] - first)
        # Not checked again: the codes were made above or have been checked with the frame.
        return pa.DictionaryArray.from_arrays(
            self._indices.slice(start, length), dictionary, safe=False
        )


assert pa.int16() == SYMBOL.index_type, "codes are renumbered as int16"  # noqa: S101
