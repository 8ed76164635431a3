"""Merging: adjacent frames become one batch, so that small frames cost little.

Under load frames pile up and are merged; when idle each goes alone, so nothing waits for company.
For views that take kinds apart runs of one kind are merged (`FrameGroup`); for the log, frames of
any kind, as far as a mixed frame may hold them (`LogGroup`); for views that take kinds together,
frames of any kind (`MixedGroup`).
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import ClassVar, Final, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from functions.operators.route import Routed, Router, Rows
from marketdata.arrays import codes_of, joined
from marketdata.filters.columns import FrameColumns
from marketdata.frames import compact_dictionaries
from marketdata.mixed import (
    MAX_KIND_RUNS,
    MAX_MIXED_BYTES,
    MAX_MIXED_ROWS,
    MIXED,
    kind_runs,
    mixed_batch,
    single_kinds,
)
from marketdata.schemas import KINDS


class Positioned(Protocol):
    """Something read from a log."""

    @property
    def position(self) -> int:
        """Its place in the log, packed."""


Item = TypeVar("Item", bound=Positioned)

_EVENTS: Final = frozenset((*KINDS, MIXED))
"""The kinds of frames that hold events."""


class _Span(NamedTuple):
    """Rows `start` to `end` of the merged batch, of one frame, and the place behind them."""

    frame: int
    start: int
    end: int
    place: int


class Part(NamedTuple):
    """What of a frame goes into a group: all of it, or a run of one kind.

    Attributes:
        later: rows of each run behind it in the frame.
    """

    kind: str
    batch: pa.RecordBatch
    later: tuple[int, ...] = ()


def merged(
    frames: Iterable[tuple[Item, str, pa.RecordBatch]],
    made: "type[FrameGroup[Item]]",
    *,
    max_rows: int,
    max_bytes: int,
) -> Iterator["FrameGroup[Item]"]:
    """Groups of adjacent frames or their runs, in log order.

    Args:
        frames: what was read, its kind or `MIXED`, and its batch.
        made: the sort of the groups.
        max_rows, max_bytes: bounds of a merged batch; a single frame always fits.
    """
    group: FrameGroup[Item] | None = None
    for item, kind, batch in frames:
        for part in made.parts_of(kind, batch):
            if group is None or not group.add(item, *part):
                if group is not None:
                    yield group
                group = made(part.kind, max_rows=max_rows, max_bytes=max_bytes)
                group.add(item, *part)
    if group is not None:
        yield group


class FrameGroup(Generic[Item]):
    """Runs of one kind in log order, and where each begins in the merged batch.

    Args:
        kind: of the first run.
        max_rows, max_bytes: bounds of the merged batch; a first frame always fits.

    Attributes:
        kind: of the batch.
        of_runs: whether mixed frames are taken run by run, or as they are.
    """

    of_runs: ClassVar[bool] = True

    def __init__(self, kind: str, *, max_rows: int, max_bytes: int) -> None:
        self.kind = kind
        self.items: list[Item] = []
        self.rows = 0
        self._bytes = 0
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._kinds: list[str] = []
        self._batches: list[pa.RecordBatch] = []
        self._later: list[tuple[int, ...]] = []
        self._starts: list[int] = []
        self._spans_of: dict[int, list[_Span]] = {}

    @classmethod
    def parts_of(cls, kind: str, batch: pa.RecordBatch) -> Iterator[Part]:
        """What such groups take of a frame, one after the other."""
        if kind != MIXED or not cls.of_runs:
            yield Part(kind, batch)
            return
        runs = list(single_kinds(kind, batch))
        sizes = tuple(run.num_rows for _, run in runs)
        for n, (one, run) in enumerate(runs, start=1):
            yield Part(one, compact_dictionaries(run), sizes[n:])

    def add(
        self, item: Item, kind: str, batch: pa.RecordBatch, later: tuple[int, ...] = ()
    ) -> bool:
        """Append a part of a frame; False when its kind does not fit or it would burst the bounds.

        Args:
            item, kind, batch, later: see `merged` and `Part`.
        """
        size = batch.get_total_buffer_size()  # never less than `nbytes`, which costs much more
        if self.items and (
            not self._takes(kind, batch, size)
            or self.rows + batch.num_rows > self._max_rows
            or self._bytes + size > self._max_bytes
        ):
            return False
        self.items.append(item)
        self._kinds.append(kind)
        self._batches.append(batch)
        self._later.append(later)
        self._starts.append(self.rows)
        self.rows += batch.num_rows
        self._bytes += size
        self._spans_of.clear()
        return True

    def singles(self) -> Iterator["FrameGroup[Item]"]:
        """Each frame or run as a group of its own."""
        for item, *part in zip(self.items, self._kinds, self._batches, self._later, strict=True):
            group = type(self)(part[0], max_rows=self._max_rows, max_bytes=self._max_bytes)
            group.add(item, *part)
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

    def begins_at(self, max_message_rows: int) -> int:
        """The place of the first piece; see `runs_after`."""
        return self._spans(max_message_rows)[0].place

    def _takes(self, kind: str, batch: pa.RecordBatch, size_bytes: int) -> bool:  # noqa: ARG002
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

    def runs_after(
        self, position: int, rows: Rows | None, *, max_rows: int, max_message_rows: int
    ) -> Iterator[tuple[list[Item], Rows | None, int]]:
        """The frames behind a position with the selected rows in them, in runs of whole frames.

        A frame with more rows than a message may have is cut, after every so many of *its* rows,
        and a mixed one before where its kind changes. The pieces take the places before the frame's
        own, which the last piece has. Where they lie depends on the frame alone and not on what is
        selected, so a position tells which of its rows are done with, even when a set of
        instruments has changed since.

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
                yield self.items, rows, spans[-1].place
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
            behind = sum(-(-rows // max_message_rows) for rows in self._later[frame])
            place = self.items[frame].position - 2 * behind
            cuts = [*range(start, end, max_message_rows), end]
            for left, (first, last) in enumerate(pairwise(cuts), start=2 - len(cuts)):
                spans.append(_Span(frame, first, last, place + 2 * left))
        return spans


class LogGroup(FrameGroup[Item]):
    """Frames for one frame of the log: of one kind, or of any as far as a mixed frame may hold."""

    of_runs = False

    def __init__(self, kind: str, *, max_rows: int, max_bytes: int) -> None:
        super().__init__(kind, max_rows=max_rows, max_bytes=max_bytes)
        self._runs = 0

    def add(
        self, item: Item, kind: str, batch: pa.RecordBatch, later: tuple[int, ...] = ()
    ) -> bool:
        """See `FrameGroup.add`."""
        if not super().add(item, kind, batch, later):
            return False
        self._runs += kind_runs(kind, batch)
        if kind != self.kind:
            self.kind = MIXED
        return True

    def batch(self) -> pa.RecordBatch:
        """All rows in log order, on shared dictionaries."""
        if self.kind != MIXED:
            return super().batch()
        return mixed_batch(list(zip(self._kinds, self._batches, strict=True)))

    def _takes(self, kind: str, batch: pa.RecordBatch, size_bytes: int) -> bool:
        if kind == self.kind != MIXED:
            return True
        return (
            {kind, self.kind} <= _EVENTS
            and self.rows + batch.num_rows <= MAX_MIXED_ROWS
            and self._bytes + size_bytes <= MAX_MIXED_BYTES
            and self._runs + kind_runs(kind, batch) <= MAX_KIND_RUNS
        )


class MixedGroup(FrameGroup[Item]):
    """Frames of any kind in log order, as one mixed batch."""

    of_runs = False

    def __init__(self, kind: str, *, max_rows: int, max_bytes: int) -> None:  # noqa: ARG002
        super().__init__(MIXED, max_rows=max_rows, max_bytes=max_bytes)

    def batch(self) -> pa.RecordBatch:
        """All rows in log order, on shared dictionaries."""
        return mixed_batch(list(zip(self._kinds, self._batches, strict=True)))

    def routed(
        self, batch: pa.RecordBatch, router: Router, failed: dict[str, Exception]
    ) -> list[Routed]:
        """See `FrameGroup.routed`; of the views that take kinds together.

        Each kind's events are asked about with the conditions as they stand on that kind.
        """
        found: dict[str, list[Rows]] = {}
        columns, codes = FrameColumns(batch, MIXED), codes_of(batch.column(0))
        for code, kind in enumerate(batch.column(0).dictionary.to_pylist()):
            numbers = np.flatnonzero(codes == code)
            of_kind = columns.of_kind(kind, numbers)
            for view, rows in router.route(of_kind, kind, failed, together=True):
                found.setdefault(view.id, []).append(numbers if rows is None else numbers[rows])
        return [
            (router.views[view_id], np.sort(np.concatenate(rows)))
            for view_id, rows in found.items()
            if view_id not in failed
        ]

    def _takes(self, kind: str, batch: pa.RecordBatch, size_bytes: int) -> bool:  # noqa: ARG002
        return True
