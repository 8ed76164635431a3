"""Sequencing: give every event of a partition the next number of its instrument.

`InstrumentSequences` is the whole state of one partition. It is a function of the log: absorbing
the frames of `sequenced` in order gives exactly the state that assigned their numbers, which is
what recovery relies on.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.arrays import array_of, codes_of, values_of
from marketdata.schemas import SEQUENCED_SCHEMAS, TIMESTAMP


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
        self._ids: dict[str, int] = {}
        self._last = np.zeros(1024, dtype=np.uint64)

    def __len__(self) -> int:
        """Number of instruments seen."""
        return len(self._ids)

    def last(self, instrument: str) -> int:
        """The last sequence given to an instrument; 0 when it has none yet."""
        number = self._ids.get(instrument)
        return 0 if number is None else int(self._last[number])

    @property
    def last_numbers(self) -> npt.NDArray[np.uint64]:
        """The last sequence of every instrument, in the order of its first event; a view."""
        return self._last[: len(self._ids)]

    def names(self, numbers: npt.NDArray[np.int64]) -> pa.StringArray:
        """The instruments at some places of `last_numbers`."""
        if not len(numbers):
            return pa.array([], pa.utf8())
        return pa.array(self._ids, pa.utf8()).take(array_of(numbers, pa.int64()))

    def assign(self, batch: pa.RecordBatch) -> npt.NDArray[np.uint64]:
        """The sequences of a batch's rows, in row order: uint64, one a row.

        Per instrument they follow the last one given, without holes or repeats.
        """
        column = batch.column("instrument")
        ids = self._ids_of(column.dictionary)
        codes = codes_of(column)
        order = np.argsort(codes, kind="stable")
        counts = np.bincount(codes, minlength=len(ids))
        starts = np.cumsum(counts) - counts
        rank_in_order = np.arange(len(codes)) - np.repeat(starts, counts)
        if len(np.unique(ids)) == len(ids):
            base = self._last[ids]
            self._last[ids] = base + counts.astype(np.uint64)
        else:  # a foreign writer repeated a dictionary value: number by value, not by code
            return self._assign_by_id(ids[codes])
        sequences = np.empty(len(codes), dtype=np.uint64)
        sequences[order] = np.repeat(base, counts) + rank_in_order.astype(np.uint64) + np.uint64(1)
        return sequences

    def absorb(self, instruments: pa.DictionaryArray, sequences: npt.NDArray[np.uint64]) -> None:
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
        return pa.RecordBatch.from_arrays(
            # A copy: the array goes on changing with every batch.
            [pa.array(self._ids, pa.utf8()), pa.array(self._last[: len(self._ids)].copy())],
            schema=schema,
        )

    @classmethod
    def from_snapshot(cls, batch: pa.RecordBatch) -> "InstrumentSequences":
        """The state that `snapshot` described."""
        state = cls(epoch=int(batch.schema.metadata[b"epoch"]))
        ids = state._ids_of(batch.column("instrument"))
        state._last[ids] = values_of(batch.column("sequence"), np.uint64)
        return state

    def _assign_by_id(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
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
        known = self._ids
        names: Iterable[str] = instruments.to_pylist()
        ids = np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)
        if len(known) > len(self._last):
            grown = np.zeros(max(2 * len(self._last), len(known)), dtype=np.uint64)
            grown[: len(self._last)] = self._last
            self._last = grown
        return ids


def with_sequences(
    batch: pa.RecordBatch,
    kind: str,
    sequences: npt.NDArray[np.uint64],
    *,
    epoch: int,
    ts_sequenced_ns: int,
) -> pa.RecordBatch:
    """An ingest batch with the three assigned columns: the batch that goes to `sequenced`."""
    schema = SEQUENCED_SCHEMAS[kind]
    rows = batch.num_rows
    assigned = {
        "sequence": array_of(sequences, pa.uint64()),
        "epoch": array_of(np.full(rows, epoch, dtype=np.uint32), pa.uint32()),
        "ts_sequenced": array_of(np.full(rows, ts_sequenced_ns, dtype=np.int64), TIMESTAMP),
    }
    given = iter(batch.columns)
    columns = [assigned[name] if name in assigned else next(given) for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
