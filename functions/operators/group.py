"""Merging: adjacent frames become one batch, so that small frames cost little.

Under load frames pile up and are merged; when idle each goes alone, so nothing waits for company.
Frames of one kind are merged as they are; for views that take kinds together, frames of any kind
become one mixed batch.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from functions.operators.route import Routed, Router, Rows
from marketdata.arrays import joined
from marketdata.mixed import MIXED, mixed_batch


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
    frames: Iterable[tuple[Item, str, pa.RecordBatch]],
    *,
    max_rows: int,
    max_bytes: int,
    together: bool = False,
) -> Iterator["FrameGroup[Item]"]:
    """Groups of adjacent frames, in log order.

    Args:
        frames: what was read, its kind and its batch.
        max_rows, max_bytes: bounds of a merged batch; a single frame always fits.
        together: for the views that take kinds together, and not for the others.
    """
    group: FrameGroup[Item] | None = None
    for item, kind, batch in frames:
        if group is None or not group.add(item, kind, batch):
            if group is not None:
                yield group
            made = MixedGroup if together else FrameGroup
            group = made(kind, max_rows=max_rows, max_bytes=max_bytes)
            group.add(item, kind, batch)
    if group is not None:
        yield group


class FrameGroup(Generic[Item]):
    """Frames of one kind in log order, and where each begins in the merged batch.

    Args:
        kind: of the first frame.
        max_rows, max_bytes: bounds of the merged batch; a first frame always fits.

    Attributes:
        kind: of the batch.
    """

    def __init__(self, kind: str, *, max_rows: int, max_bytes: int) -> None:
        self.kind = kind
        self.items: list[Item] = []
        self.rows = 0
        self._bytes = 0
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._kinds: list[str] = []
        self._batches: list[pa.RecordBatch] = []
        self._starts: list[int] = []
        self._spans_of: dict[int, list[_Span]] = {}

    def add(self, item: Item, kind: str, batch: pa.RecordBatch) -> bool:
        """Append a frame; False when its kind does not fit or it would burst the bounds."""
        size = batch.get_total_buffer_size()  # never less than `nbytes`, which costs much more
        if self.items and (
            not self._takes(kind)
            or self.rows + batch.num_rows > self._max_rows
            or self._bytes + size > self._max_bytes
        ):
            return False
        self.items.append(item)
        self._kinds.append(kind)
        self._batches.append(batch)
        self._starts.append(self.rows)
        self.rows += batch.num_rows
        self._bytes += size
        self._spans_of.clear()
        return True

    def singles(self) -> Iterator["FrameGroup[Item]"]:
        """Each frame as a group of its own."""
        for item, kind, batch in zip(self.items, self._kinds, self._batches, strict=True):
            group = type(self)(kind, max_rows=self._max_rows, max_bytes=self._max_bytes)
            group.add(item, kind, batch)
            yield group

    def batch(self) -> pa.RecordBatch:
        """All rows in log order, on shared dictionaries."""
        return joined(self._batches)

    def routed(
        self, batch: pa.RecordBatch, router: Router, failed: dict[str, Exception]
    ) -> list[Routed]:
        """The views that get rows, with the rows' numbers in log order.

        Args:
            batch: what `batch` gave.
            failed: see `Router.route`.
        """
        return list(router.route(batch, self.kind, failed))

    def _takes(self, kind: str) -> bool:
        return kind == self.kind

    def parts(self, rows: Rows) -> Iterator[tuple[Item, slice]]:
        """The frames that some rows are of, each with the part of `rows` that is.

        Args:
            rows: row numbers as `runs_after` gives them.
        """
        bounds = np.searchsorted(rows, [*self._starts, self.rows]).tolist()
        for item, (start, end) in zip(self.items, pairwise(bounds), strict=True):
            if end > start:
                yield item, slice(start, end)

    def places(self, rows: Rows, *, max_message_rows: int) -> Rows:
        """The place of each of some rows: that of the piece of its frame, as `runs_after` cuts it.

        Args:
            rows: ascending row numbers of the merged batch.
            max_message_rows: see `runs_after`.
        """
        spans = self._spans(max_message_rows)
        found = np.searchsorted([span.start for span in spans], rows, side="right") - 1
        return np.array([span.place for span in spans], np.int64)[found]

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
        selected = self.rows if rows is None else len(rows)
        if first == 0 and selected <= most:
            if selected:
                yield self.items, rows, self.items[-1].position
            return
        lacking = spans[first:]
        ends = np.array([lacking[0].start, *(span.end for span in lacking)])
        counts = ends if rows is None else np.searchsorted(rows, ends)
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
        if max_message_rows in self._spans_of:
            return self._spans_of[max_message_rows]
        spans = self._spans_of[max_message_rows] = []
        for frame, (start, end) in enumerate(pairwise([*self._starts, self.rows])):
            place = self.items[frame].position
            cuts = [*range(start, end, max_message_rows), end]
            for left, (first, last) in enumerate(pairwise(cuts), start=2 - len(cuts)):
                spans.append(_Span(frame, first, last, place + 2 * left))
        return spans


class MixedGroup(FrameGroup[Item]):
    """Frames of any kind in log order.

    The rows of its batch stand kind by kind, as they are routed; `runs_after` takes row numbers in
    log order and gives the numbers of the batch's rows, in log order, too.
    """

    def __init__(self, kind: str, *, max_rows: int, max_bytes: int) -> None:  # noqa: ARG002
        super().__init__(MIXED, max_rows=max_rows, max_bytes=max_bytes)

    def batch(self) -> pa.RecordBatch:
        """All rows as one mixed batch, kind by kind."""
        return mixed_batch([(kind, batch) for kind, batch, _ in self._by_kind])

    def routed(
        self,
        batch: pa.RecordBatch,  # noqa: ARG002 - filters look at each kind's own columns
        router: Router,
        failed: dict[str, Exception],
    ) -> list[Routed]:
        """See `FrameGroup.routed`; of the views that take kinds together."""
        found: dict[str, list[Rows]] = {}
        for kind, of_kind, numbers in self._by_kind:
            for view, rows in router.route(of_kind, kind, failed, together=True):
                found.setdefault(view.id, []).append(numbers if rows is None else numbers[rows])
        return [
            (router.views[view_id], np.sort(np.concatenate(rows)))
            for view_id, rows in found.items()
            if view_id not in failed
        ]

    def runs_after(
        self, position: int, rows: Rows | None, *, max_rows: int, max_message_rows: int
    ) -> Iterator[tuple[list[Item], Rows | None, int]]:
        """See `FrameGroup.runs_after`."""
        for items, chosen, place in super().runs_after(
            position, rows, max_rows=max_rows, max_message_rows=max_message_rows
        ):
            yield items, self._stored if chosen is None else self._stored[chosen], place

    def parts(self, rows: Rows) -> Iterator[tuple[Item, slice]]:
        """See `FrameGroup.parts`."""
        return super().parts(self._logged[rows])

    def _takes(self, kind: str) -> bool:  # noqa: ARG002
        return True

    @cached_property
    def _by_kind(self) -> list[tuple[str, pa.RecordBatch, Rows]]:
        """Of each kind its rows as one batch, and their numbers in log order."""
        frames: dict[str, list[int]] = {}
        for number, kind in enumerate(self._kinds):
            frames.setdefault(kind, []).append(number)
        return [
            (
                kind,
                joined([self._batches[number] for number in numbers]),
                np.concatenate([self._numbers(number) for number in numbers]),
            )
            for kind, numbers in frames.items()
        ]

    @cached_property
    def _stored(self) -> Rows:
        """Where each row of the log stands in the batch."""
        stored = np.empty_like(self._logged)
        stored[self._logged] = np.arange(len(stored))
        return stored

    @cached_property
    def _logged(self) -> Rows:
        """Where each row of the batch stands in the log."""
        return np.concatenate([numbers for _, _, numbers in self._by_kind])

    def _numbers(self, frame: int) -> Rows:
        start = self._starts[frame]
        return np.arange(start, start + self._batches[frame].num_rows)
