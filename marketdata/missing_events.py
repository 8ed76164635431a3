"""Telling the events of a gap from all others, whatever is read again. Pure.

`MissingDeliveries` and `MissingInstruments` take from frames exactly the events that are missing,
each once. `rows_in_front` does it for the log, whose events carry no delivery sequences.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.arrays import values_of
from marketdata.findings import Gap
from marketdata.holes import Holes


class MissingDeliveries:
    """Missing delivery sequences of one view's partition.

    Args:
        gap: of delivery sequences.
    """

    def __init__(self, gap: Gap) -> None:
        self._holes = Holes()
        self._holes.add(gap.first, gap.last)

    def take(self, batch: pa.RecordBatch, first: int) -> list[tuple[int, pa.RecordBatch]]:
        """The missing events of a frame whose first has delivery sequence `first`.

        Returns:
            Runs of events, each with the delivery sequence of its first. They are missing no more.
        """
        return [
            (start, batch.slice(start - first, end - start + 1))
            for missing, start, end in self._holes.fill(first, first + batch.num_rows - 1)
            if missing
        ]

    def ranges(self) -> list[tuple[int, int]]:
        """What is still missing, as (first, last)."""
        return self._holes.ranges()


class MissingInstruments:
    """Missing sequences of the instruments of a partition.

    Args:
        gaps: of instruments, those of one instrument in rising order.
    """

    def __init__(self, gaps: Iterable[Gap]) -> None:
        self._gaps = list(gaps)
        self._holes: dict[tuple[str, int], Holes] = {}
        for gap in self._gaps:
            self._holes.setdefault((gap.key, gap.epoch), Holes()).add(gap.first, gap.last)
        self._names = pa.array(sorted({gap.key for gap in self._gaps}), pa.utf8())

    def take(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The missing events of a frame, in its order. They are missing no more.

        Args:
            batch: with `instrument`, `sequence` and `epoch`, none null.
        """
        instruments = batch.column("instrument")
        if not pa.types.is_dictionary(instruments.type):
            instruments = instruments.dictionary_encode()
        concerned = pc.is_in(instruments.dictionary, self._names).to_numpy(zero_copy_only=False)
        codes = instruments.indices.to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(concerned[codes])
        chosen = np.zeros(batch.num_rows, dtype=np.bool_)
        if len(rows):
            names = instruments.dictionary.to_pylist()
            sequences = values_of(batch.column("sequence").cast(pa.uint64()), np.uint64)
            epochs = values_of(batch.column("epoch").cast(pa.uint32()), np.uint32)
            order = rows[np.lexsort((rows, epochs[rows], codes[rows]))]
            groups = np.flatnonzero(np.diff(codes[order]) | np.diff(epochs[order])) + 1
            for group in np.split(order, groups):
                holes = self._holes.get((names[codes[group[0]]], int(epochs[group[0]])))
                if holes is not None:
                    chosen[group] = _fill(holes, sequences[group])
        return batch.filter(pa.array(chosen))

    def left(self, gap: Gap) -> list[tuple[int, int]]:
        """What is still missing of a gap, as (first, last)."""
        ranges = self._holes[gap.key, gap.epoch].ranges()
        return [(a, b) for a, b in ranges if gap.first <= a and b <= gap.last]


def rows_in_front(
    kept: Sequence[pa.RecordBatch], shown: pa.RecordBatch
) -> list[pa.RecordBatch] | None:
    """What a view lacks before a message: the log's rows without those that the message holds.

    A view's message holds all events that its filter lets pass behind the message before it, up to
    its position. So it must hold the last ones of what was read from the log up to there.

    Args:
        kept: events that the filter lets pass, behind the message before the gap and up to the
            position of the message behind it, in the log's order.
        shown: the events of the message behind the gap; none for a heartbeat.

    Returns:
        The rows in front, one batch for each of `kept`; None when the message holds others.
    """
    left = sum(batch.num_rows for batch in kept) - shown.num_rows
    if left < 0:
        return None
    front: list[pa.RecordBatch] = []
    back: list[pa.RecordBatch] = []
    for batch in kept:
        cut = min(left, batch.num_rows)
        left -= cut
        front.append(batch.slice(0, cut))
        back.append(batch.slice(cut))
    if shown.num_rows and _keys(back) != _keys([shown]):
        return None
    return front


def _keys(batches: Iterable[pa.RecordBatch]) -> list[tuple[str, int]]:
    """(instrument, sequence) of all rows; views keep both under their own names."""
    return [
        key
        for batch in batches
        for key in zip(
            batch.column("instrument").to_pylist(),
            batch.column("sequence").to_pylist(),
            strict=True,
        )
    ]


def _fill(holes: Holes, sequences: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which of an instrument's events fill holes."""
    chosen = np.zeros(len(sequences), dtype=np.bool_)
    # Runs without holes, as the log has them, are one step each.
    numbers = sequences.astype(np.int64) - np.arange(len(sequences))
    start = 0
    for _, run in groupby(numbers.tolist()):
        count = sum(1 for _ in run)
        first = int(sequences[start])
        for missing, a, b in holes.fill(first, first + count - 1):
            if missing:
                chosen[start + a - first : start + b - first + 1] = True
        start += count
    return chosen
