"""Sequencing: give every event of a partition the next number of its instrument.

`InstrumentSequences` is the whole state of one partition. It is a function of the log: absorbing
the frames of `sequenced` in order gives exactly the state that assigned their numbers, which is
what recovery relies on.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from functions.operators.symbols import SymbolTable
from marketdata.arrays import array_of, codes_of, values_of
from marketdata.mixed import MIXED, kinds_in, mixed_schema
from marketdata.schemas import SEQUENCED_SCHEMAS, TIMESTAMP

_Sequences = npt.NDArray[np.uint64]


class Grouped(NamedTuple):
    """The rows of a frame by instrument; computed once, used for all that is kept by instrument.

    Attributes:
        ids: of the instruments, by dictionary code: int64.
        codes: dictionary codes, by row: int16.
        order: rows sorted by code, in row order within a code: int64.
        counts: rows of each code: int64.
        distinct: no two codes are the same instrument (a foreign writer may repeat a value).
    """

    ids: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int16]
    order: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    distinct: bool


class InstrumentSequences:
    """Last sequence per instrument of one partition, and the epoch they are valid in.

    >>> sequences = InstrumentSequences()
    >>> batch = pa.record_batch(
    ...     {"instrument": pa.array(["A", "B", "A"]).cast(pa.dictionary(pa.int16(), pa.utf8()))})
    >>> sequences.assign(batch)
    array([1, 1, 2], dtype=uint64)
    >>> sequences.assign(batch)
    array([3, 2, 4], dtype=uint64)
    """

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch
        self.instruments = SymbolTable()
        self._last = np.zeros(1024, dtype=np.uint64)
        self._place = np.zeros(1024, dtype=np.int64)

    def __len__(self) -> int:
        """Number of instruments that have been given a sequence."""
        return int(np.count_nonzero(self._last))

    def last(self, instrument: str) -> int:
        """The last sequence given to an instrument; 0 when it has none yet."""
        number = self.instruments.find(instrument)
        return 0 if number is None or number >= len(self._last) else int(self._last[number])

    @property
    def last_numbers(self) -> _Sequences:
        """The last sequence of every instrument known, by its number there; 0 without one."""
        return self._last[: len(self.instruments)]

    def restart(self, epoch: int) -> None:
        """Number all instruments from 1 again."""
        self.epoch = epoch
        self._last[:] = 0

    def group(self, batch: pa.RecordBatch) -> Grouped:
        """The rows of a batch by instrument."""
        column = batch.column("instrument")
        ids = self._ids_of(column.dictionary)
        codes = codes_of(column)
        counts = np.bincount(codes, minlength=len(ids))
        places = np.arange(len(ids))
        self._place[ids] = places
        distinct = bool((self._place[ids] == places).all())
        return Grouped(ids, codes, codes.argsort(kind="stable"), counts, distinct)

    def assign(self, batch: pa.RecordBatch, grouped: Grouped | None = None) -> _Sequences:
        """The sequences of a batch's rows, in row order: uint64, one a row.

        Per instrument they follow the last one given, without holes or repeats.

        Args:
            batch: the events.
            grouped: `group(batch)`, where the caller has it already.
        """
        ids, codes, order, counts, distinct = grouped or self.group(batch)
        if not distinct:
            return self._assign_by_id(ids[codes])
        base = self._last[ids]
        self._last[ids] = base + counts.view(np.uint64)
        # In code order a row's number is its place less that of its instrument's first row.
        first = base + np.uint64(1) - (counts.cumsum() - counts).view(np.uint64)
        sequences = np.empty(len(codes), dtype=np.uint64)
        sequences[order] = np.arange(len(codes), dtype=np.uint64) + first.repeat(counts)
        return sequences

    def absorb(self, instruments: pa.DictionaryArray, sequences: _Sequences) -> None:
        """Take over the numbers of a frame of the log; frames come in log order."""
        ids = self._ids_of(instruments.dictionary)
        # With repeated indices the last assignment wins: the highest, as numbers rise.
        self._last[ids[codes_of(instruments)]] = sequences

    def snapshot(self) -> pa.RecordBatch:
        """The state as a batch: `instrument` utf8, `sequence` uint64; the epoch in the metadata."""
        schema = pa.schema(
            [("instrument", pa.utf8()), ("sequence", pa.uint64())],
            metadata={"epoch": str(self.epoch)},
        )
        # Only those that were given one: others may have been looked up and refused.
        given = np.flatnonzero(self._last)
        names = pa.array([self.instruments.names[number] for number in given], pa.utf8())
        return pa.RecordBatch.from_arrays(
            [names, array_of(self._last[given], pa.uint64())],
            schema=schema,
        )

    @classmethod
    def from_snapshot(cls, batch: pa.RecordBatch) -> "InstrumentSequences":
        """The state that `snapshot` described."""
        state = cls(epoch=int(batch.schema.metadata[b"epoch"]))
        ids = state._ids_of(batch.column("instrument"))
        state._last[ids] = values_of(batch.column("sequence"), np.uint64)
        return state

    def _assign_by_id(self, ids: npt.NDArray[np.int64]) -> _Sequences:
        distinct, codes, counts = np.unique(ids, return_inverse=True, return_counts=True)
        order = np.argsort(codes, kind="stable")
        starts = np.cumsum(counts) - counts
        rank_in_order = (np.arange(len(codes)) - np.repeat(starts, counts)).astype(np.uint64)
        base = self._last[distinct]
        sequences = np.empty(len(codes), dtype=np.uint64)
        sequences[order] = np.repeat(base, counts) + rank_in_order + np.uint64(1)
        self._last[distinct] = base + counts.astype(np.uint64)
        return sequences

    def _ids_of(self, instruments: pa.Array) -> npt.NDArray[np.int64]:
        ids = self.instruments.ids_of(instruments)
        known = len(self.instruments)
        if known > len(self._last):
            grown = np.zeros(max(2 * len(self._last), known), dtype=np.uint64)
            grown[: len(self._last)] = self._last
            self._last = grown
            self._place = np.zeros(len(grown), dtype=np.int64)
        return ids


def with_sequences(
    batch: pa.RecordBatch,
    kind: str,
    sequences: _Sequences,
    *,
    epoch: int,
    ts_sequenced_ns: int,
) -> pa.RecordBatch:
    """An ingest batch with the three assigned columns: the batch that goes to `sequenced`."""
    schema = mixed_schema(kinds_in(kind, batch)) if kind == MIXED else SEQUENCED_SCHEMAS[kind]
    rows = batch.num_rows
    assigned = (
        ("sequence", array_of(sequences, pa.uint64())),
        ("epoch", array_of(np.full(rows, epoch, dtype=np.uint32), pa.uint32())),
        ("ts_sequenced", array_of(np.full(rows, ts_sequenced_ns, dtype=np.int64), TIMESTAMP)),
    )
    for name, values in assigned:
        index = schema.get_field_index(name)
        batch = batch.add_column(index, schema.field(index), values)
    return batch
