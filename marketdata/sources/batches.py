"""Putting a batch of the contract together, and numbering its events per instrument."""

from collections.abc import Mapping
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.schemas import INGEST_SCHEMAS, is_symbol

MAX_BATCH_ROWS: Final = 32_768
"""Most rows of a source's batch: as many distinct symbols as an int16 dictionary can hold."""

Column: TypeAlias = pa.Array | str | None
"""A whole array, one symbol for every row, or nothing (null)."""


def assemble(kind: str, columns: Mapping[str, Column], rows: int) -> pa.RecordBatch:
    """A batch with the ingest schema of `kind`; columns not given are null.

    Args:
        columns: name -> array of the column's type (text for symbols, int64 nanoseconds for
            times are fine too), or one string for a symbol that is the same in every row.
            Without `ts_publish`, it is `ts_event` until a publisher stamps it.
    """
    schema = INGEST_SCHEMAS[kind]
    given = {"ts_publish": columns["ts_event"], **columns}
    arrays = [_column(field, given.get(field.name), rows) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def symbols(values: pa.Array) -> pa.DictionaryArray:
    """Text as a symbol column; at most `MAX_BATCH_ROWS` rows."""
    encoded = values.cast(pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.int16()), encoded.dictionary)


class SourceNumbering:
    """Counts the events of each instrument, from 1, over all batches of one source name."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}
        self._last = np.zeros(0, dtype=np.int64)

    def number(self, instrument: pa.DictionaryArray) -> pa.Array:
        """The next source sequence of each row, uint64; the column must have no nulls."""
        names = instrument.dictionary.to_pylist()
        index = np.array([self._index.setdefault(n, len(self._index)) for n in names], np.int64)
        if len(self._index) > len(self._last):
            grown = np.zeros(2 * len(self._index), dtype=np.int64)
            grown[: len(self._last)] = self._last
            self._last = grown
        codes = index[instrument.indices.to_numpy(zero_copy_only=False)]
        numbers = ranks(codes) + self._last[codes] + 1
        np.maximum.at(self._last, codes, numbers)
        return pa.array(numbers.astype(np.uint64))


class NumberingBySource:
    """One `SourceNumbering` a source name, shared by all files read under that name."""

    def __init__(self) -> None:
        self._of_source: dict[str, SourceNumbering] = {}

    def __getitem__(self, source: str) -> SourceNumbering:
        return self._of_source.setdefault(source, SourceNumbering())


def ranks(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many equal codes stand before each one.

    >>> ranks(np.array([7, 5, 7, 7, 5])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    first = np.empty(len(codes), dtype=bool)
    first[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    place = np.arange(len(codes))
    start = np.maximum.accumulate(np.where(first, place, 0))
    out = np.empty(len(codes), dtype=np.int64)
    out[order] = place - start
    return out


def _column(field: pa.Field, values: Column, rows: int) -> pa.Array:
    if values is None:
        return pa.nulls(rows, field.type)
    if isinstance(values, str):
        if not is_symbol(field):
            return pa.array([values] * rows, field.type)
        return pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(rows, dtype=np.int16)), pa.array([values])
        )
    if is_symbol(field):
        return values if pa.types.is_dictionary(values.type) else symbols(values)
    return values.view(field.type) if pa.types.is_timestamp(field.type) else values.cast(field.type)
