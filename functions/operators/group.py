"""Merging: adjacent frames of one kind become one batch, so that small frames cost little.

Under load frames pile up and are merged; when idle each goes alone, so nothing waits for company.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from functions.operators.route import Rows


class Positioned(Protocol):
    """Something read from a log."""

    @property
    def position(self) -> int:
        """Its place in the log, packed."""


Item = TypeVar("Item", bound=Positioned)


class _Span(NamedTuple):
    """Rows `start` to `end` of the merged batch, of one frame, and the place behind them."""

    frame: int
    start: int
    end: int
    place: int


def merged(
    frames: Iterable[tuple[Item, str, pa.RecordBatch]], *, max_rows: int, max_bytes: int
) -> Iterator["FrameGroup[Item]"]:
    """Groups of adjacent frames, in log order.

    Args:
        frames: what was read, its kind and its batch.
        max_rows, max_bytes: bounds of a merged batch; a single frame always fits.
    """
    group: FrameGroup[Item] | None = None
    for item, kind, batch in frames:
        if group is None or not group.add(item, kind, batch):
            if group is not None:
                yield group
            group = FrameGroup(kind, max_rows=max_rows, max_bytes=max_bytes)
            group.add(item, kind, batch)
    if group is not None:
        yield group


class FrameGroup(Generic[Item]):
    """Frames of one kind in log order, and where each begins in the merged batch.

    Args:
        kind: of all frames.
        max_rows, max_bytes: bounds of the merged batch; a first frame always fits.
    """

    def __init__(self, kind: str, *, max_rows: int, max_bytes: int) -> None:
        self.kind = kind
        self.items: list[Item] = []
        self.rows = 0
        self._bytes = 0
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._batches: list[pa.RecordBatch] = []
        self._starts: list[int] = []

    def add(self, item: Item, kind: str, batch: pa.RecordBatch) -> bool:
        """Append a frame; False when it is of another kind or would burst the bounds."""
        size = batch.nbytes
        if self.items and (
            kind != self.kind
            or self.rows + batch.num_rows > self._max_rows
            or self._bytes + size > self._max_bytes
        ):
            return False
        self.items.append(item)
        self._batches.append(batch)
        self._starts.append(self.rows)
        self.rows += batch.num_rows
        self._bytes += size
        return True

    def batch(self) -> pa.RecordBatch:
        """All rows in log order, on shared dictionaries."""
        if len(self._batches) == 1:
            return self._batches[0]
        table = pa.Table.from_batches(self._batches).unify_dictionaries()
        return table.combine_chunks().to_batches()[0]

    def runs_after(
        self, position: int, rows: Rows | None, *, max_rows: int, max_message_rows: int
    ) -> Iterator[tuple[list[Item], Rows | None, int]]:
        """The frames behind a position with the selected rows in them, in runs of whole frames.

        A frame with more rows than a message may have is cut, after every so many of *its* rows.
        The pieces take the places before the frame's own, which the last piece has. Where they lie
        depends on the frame alone and not on what is selected, so a position tells which of its
        rows are done with, even when a set of instruments has changed since.

        Args:
            position: what is at or before it is left out.
            rows: ascending row numbers of the merged batch; None stands for every row.
            max_rows: most selected rows of a run of several frames.
            max_message_rows: most selected rows of a message, at least 8, the same at every call.

        Yields:
            The frames of a run, their selected rows, at least one (None when that is every row of
            the batch), and the position of the message.
        """
        spans = self._spans(max_message_rows)
        first = next((n for n, span in enumerate(spans) if span.place > position), None)
        if first is None:
            return
        most = min(max_rows, max_message_rows)
        lacking = spans[first:]
        ends = np.array([lacking[0].start, *(span.end for span in lacking)])
        counts = ends if rows is None else np.searchsorted(rows, ends)
        if first == 0 and counts[-1] <= most:
            if counts[-1]:
                yield self.items, rows, self.items[-1].position
            return
        every = np.arange(self.rows) if rows is None else rows
        begin = 0
        for end in range(1, len(counts)):
            # A run ends with the last span, or before the one that would burst it.
            if end + 1 < len(counts) and counts[end + 1] - counts[begin] <= most:
                continue
            if counts[end] > counts[begin]:
                last = lacking[end - 1]
                items = self.items[lacking[begin].frame : last.frame + 1]
                yield items, every[counts[begin] : counts[end]], last.place
            begin = end

    def _spans(self, max_message_rows: int) -> list[_Span]:
        """The frames, those that do not fit a message in pieces."""
        spans = []
        for frame, (start, end) in enumerate(pairwise([*self._starts, self.rows])):
            place = self.items[frame].position
            cuts = [*range(start, end, max_message_rows), end]
            for left, (first, last) in enumerate(pairwise(cuts), start=2 - len(cuts)):
                spans.append(_Span(frame, first, last, place + 2 * left))
        return spans
