"""Source order: what a frame's `source_sequence` and `ts_event` show against all that came before.

`SourceOrder` is the state of one partition: per (source, instrument) the highest number, the
newest event time and the open gaps. Like the sequences it is a function of the log alone: frames
of `sequenced`, observed in order, give exactly the state (and the ids of the gaps) that the one
who wrote them had. Sound rows are compared for a whole frame at once; only pairs with something
odd are walked, run by run (`pairs.py`). Rows without a number are not looked at.
"""

from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from functions.operators.found import WILD, Found, Observation
from functions.operators.pairs import Gap, Pair
from functions.operators.sequence import Grouped
from functions.operators.symbols import KeyTable, SymbolTable
from marketdata.arrays import array_of, codes_of, values_of
from marketdata.schemas import LATE, OUT_OF_ORDER

MAX_GAPS: Final = 65_536
"""Open gaps that are remembered of a partition; those that do not fit are forgotten."""

MAX_RUNS_A_PAIR: Final = 256
"""A pair with more runs in one frame is wild: it is marked and reported whole, and not walked."""

MAX_SOURCES_AT_HAND: Final = 16
"""Sources whose pairs are looked up by instrument alone."""


PAIRS_SCHEMA: Final = pa.schema(
    [
        ("source", pa.utf8()),
        ("instrument", pa.utf8()),
        ("last", pa.uint64()),
        ("newest_ns", pa.int64()),
        ("forgotten", pa.uint64()),
    ]
)
GAPS_SCHEMA: Final = pa.schema(
    [
        ("pair_row", pa.int64()),
        ("first", pa.uint64()),
        ("last", pa.uint64()),
        ("position", pa.int64()),
        ("n", pa.int64()),
    ]
)
"""Of a snapshot: the pairs, and the open gaps in rising order within a pair."""

_Ints = npt.NDArray[Any]
_Numbers = npt.NDArray[np.uint64]


class Rows(NamedTuple):
    """The numbered rows of a frame by (source, instrument), compared with the state.

    Attributes:
        size: rows of the whole frame.
        order: row numbers, grouped by pair, in row order within a pair: int64.
        pairs: the pairs' ids, one a group: int64.
        starts: where each group begins in `order`: int64.
        numbers: `source_sequence` in that order: uint64.
        times: `ts_event` in that order, ns: int64.
        odd: places in that order whose number does not follow the one before: int64.
        odd_groups: the groups that have such a place: int64.
    """

    size: int
    order: _Ints
    pairs: _Ints
    starts: _Ints
    numbers: _Numbers
    times: _Ints
    odd: _Ints
    odd_groups: _Ints

    def group(self, n: int) -> slice:
        """Where the rows of group `n` stand in `order`."""
        end = self.starts[n + 1] if n + 1 < len(self.starts) else len(self.order)
        return slice(int(self.starts[n]), int(end))

    def runs(self, n: int) -> list[slice]:
        """The rows of group `n` as ranges of numbers without holes, in row order."""
        span = self.group(n)
        odd = self.odd[np.searchsorted(self.odd, span.start + 1) :]
        breaks = [span.start, *odd[: np.searchsorted(odd, span.stop)].tolist(), span.stop]
        return [slice(a, b) for a, b in pairwise(breaks)]


class SourceOrder:
    """The order of the sources of one partition.

    Args:
        instruments: ids of the instruments, shared with the sequences.
    """

    def __init__(self, instruments: SymbolTable) -> None:
        self.sources = SymbolTable()
        self.gaps: dict[int, list[Gap]] = {}
        self.open_gaps = 0
        self._instruments = instruments
        self._pairs = KeyTable()
        self._lately: dict[int, _Ints] = {}
        self._last = np.zeros(1024, dtype=np.uint64)
        self._newest = np.zeros(1024, dtype=np.int64)
        self._forgotten = np.zeros(1024, dtype=np.uint64)
        self._seen = np.zeros(1024, dtype=bool)

    def __len__(self) -> int:
        """Number of pairs (source, instrument) that have had a number."""
        return int(np.count_nonzero(self._seen))

    def names(self, pair: int) -> tuple[str, str]:
        """Source and instrument of a pair."""
        instrument, source = self._pairs.key(pair)
        return self.sources.names[source], self._instruments.names[instrument]

    def source_of(self, pair: int) -> int:
        """The id of a pair's source."""
        return self._pairs.key(pair)[1]

    def pair(self, number: int) -> Pair:
        """A copy of what is known of a pair."""
        if not self._seen[number]:
            return Pair()
        return Pair(
            int(self._last[number]),
            int(self._newest[number]),
            int(self._forgotten[number]),
            list(self.gaps.get(number, ())),
        )

    def compare(self, batch: pa.RecordBatch, grouped: Grouped) -> Rows | None:
        """The numbered rows of a frame against the state, which stays; None without such rows.

        Args:
            batch: with columns `source`, `source_sequence` and `ts_event`.
            grouped: its rows by instrument.
        """
        numbers = batch.column("source_sequence")
        if numbers.null_count == len(numbers):
            return None
        order, starts, pairs = self._by_pair(batch, grouped)
        values = values_of(numbers, np.uint64)[order]
        times = values_of(batch.column("ts_event"), np.int64)[order]
        following = np.empty_like(values)
        following[1:] = values[:-1]
        following[starts] = self._last[pairs]
        following += np.uint64(1)
        wrong = values != following
        wrong[starts] &= self._seen[pairs]
        odd = wrong.nonzero()[0]
        groups = np.unique(np.searchsorted(starts, odd, side="right") - 1) if len(odd) else odd
        return Rows(batch.num_rows, order, pairs, starts, values, times, odd, groups)

    def observe(
        self,
        rows: Rows | None,
        position: int,
        *,
        fill: npt.NDArray[np.bool_] | None = None,
        late_after_ns: dict[int, int] | None = None,
    ) -> Observation:
        """Go on behind a frame of the log.

        Args:
            rows: `compare` of the frame with this very state.
            position: of the frame.
            fill: rows that answer a resend request, by row.
            late_after_ns: by source id, how far behind `ts_event` may be.
        """
        if rows is None:
            return Observation([])
        found = Found(rows.size)
        before, after = self._newest[rows.pairs], np.maximum.reduceat(rows.times, rows.starts)
        self._settle_sound(rows, before, after)
        for n in rows.odd_groups.tolist():
            self._walk(rows, n, position, fill, found)
        if late_after_ns:  # last: whoever reads the log numbers the gaps without these findings
            self._find_late(rows, before, after, late_after_ns, found)
        return Observation(found.findings, found.bits, found.forgotten)

    def snapshot(self) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """The state as two batches: the pairs, and their open gaps with their pair's row."""
        seen = np.flatnonzero(self._seen)
        names = [self.names(number) for number in seen.tolist()]
        row_of = {number: row for row, number in enumerate(seen.tolist())}
        pairs = pa.RecordBatch.from_arrays(
            [
                pa.array([source for source, _ in names], pa.utf8()),
                pa.array([instrument for _, instrument in names], pa.utf8()),
                array_of(self._last[seen], pa.uint64()),
                array_of(self._newest[seen], pa.int64()),
                array_of(self._forgotten[seen], pa.uint64()),
            ],
            schema=PAIRS_SCHEMA,
        )
        rows = [(row_of[number], *gap) for number, gaps in self.gaps.items() for gap in gaps]
        columns = zip(*rows, strict=True) if rows else ([] for _ in GAPS_SCHEMA)
        gaps = pa.RecordBatch.from_arrays(
            [
                pa.array(list(values), field.type)
                for values, field in zip(columns, GAPS_SCHEMA, strict=True)
            ],
            schema=GAPS_SCHEMA,
        )
        return pairs, gaps

    @classmethod
    def from_snapshot(
        cls, instruments: SymbolTable, pairs: pa.RecordBatch, gaps: pa.RecordBatch
    ) -> "SourceOrder":
        """The state that `snapshot` described.

        Raises:
            KeyError: the batches are no such state.
        """
        state = cls(instruments)
        numbers = state._ids_of(
            instruments.ids_of(pairs.column("instrument")),
            state.sources.ids_of(pairs.column("source")),
        )
        state._last[numbers] = values_of(pairs.column("last"), np.uint64)
        state._newest[numbers] = values_of(pairs.column("newest_ns"), np.int64)
        state._forgotten[numbers] = values_of(pairs.column("forgotten"), np.uint64)
        state._seen[numbers] = True
        for row, *gap in zip(*(column.to_pylist() for column in gaps.columns), strict=True):
            state.gaps.setdefault(int(numbers[row]), []).append(Gap(*gap))
        state.open_gaps = gaps.num_rows
        return state

    def _by_pair(self, batch: pa.RecordBatch, grouped: Grouped) -> tuple[_Ints, _Ints, _Ints]:
        """Numbered rows grouped by pair, where each group starts, and its pair."""
        column = batch.column("source")
        sources = self.sources.ids_of(column.dictionary)
        valid = batch.column("source_sequence")
        if len(sources) == 1 and not valid.null_count and grouped.distinct:
            counts, ids = grouped.counts, grouped.ids
            if not counts.all():
                ids, counts = ids[counts > 0], counts[counts > 0]
            pairs = self._ids_of_source(int(sources[0]), ids)
            return grouped.order, counts.cumsum() - counts, pairs
        ids = self._ids_of(grouped.ids[grouped.codes], sources[codes_of(column)])
        rows = np.flatnonzero(valid.is_valid().to_numpy(zero_copy_only=False))
        distinct, firsts, codes = np.unique(ids[rows], return_index=True, return_inverse=True)
        # By first row: ids differ after a recovery, and the order of pairs numbers the findings.
        by_row = np.argsort(firsts)
        rank = np.empty(len(distinct), dtype=np.int16)  # a frame has no more pairs than rows
        rank[by_row] = np.arange(len(distinct))
        places = rank[codes]
        counts = np.bincount(places)
        return rows[np.argsort(places, kind="stable")], np.cumsum(counts) - counts, distinct[by_row]

    def _ids_of_source(self, source: int, instruments: _Ints) -> _Ints:
        """The pairs of one source, looked up by instrument where the source was seen lately."""
        by_instrument = self._lately.pop(source, np.empty(0, dtype=np.int32))
        if len(by_instrument) < len(self._instruments):
            more = np.full(2 * len(self._instruments) - len(by_instrument), -1, dtype=np.int32)
            by_instrument = np.append(by_instrument, more)
        while len(self._lately) >= MAX_SOURCES_AT_HAND:
            del self._lately[next(iter(self._lately))]
        self._lately[source] = by_instrument
        pairs = by_instrument[instruments]
        if len(pairs) and pairs.min() < 0:
            pairs = self._ids_of(instruments, np.full(len(instruments), source))
            by_instrument[instruments] = pairs
        return pairs

    def _ids_of(self, instruments: _Ints, sources: _Ints) -> _Ints:
        pairs = self._pairs.ids_of(instruments.astype(np.uint64), sources.astype(np.uint64))
        if len(self._pairs) > len(self._last):
            self._grow()
        return pairs

    def _grow(self) -> None:
        more = 2 * len(self._pairs) - len(self._last)
        self._last = np.append(self._last, np.zeros(more, dtype=np.uint64))
        self._newest = np.append(self._newest, np.zeros(more, dtype=np.int64))
        self._forgotten = np.append(self._forgotten, np.zeros(more, dtype=np.uint64))
        self._seen = np.append(self._seen, np.zeros(more, dtype=bool))

    def _settle_sound(self, rows: Rows, before: _Ints, after: _Ints) -> None:
        """Go on behind the groups in which every number follows the one before."""
        pairs, starts = rows.pairs, rows.starts
        ends = np.append(starts[1:], len(rows.order)) - 1
        newest = np.maximum(before, after)
        if len(rows.odd_groups):
            sound = np.ones(len(pairs), dtype=bool)
            sound[rows.odd_groups] = False
            pairs, starts, ends, newest = pairs[sound], starts[sound], ends[sound], newest[sound]
        new = ~self._seen[pairs]
        if new.any():
            first = rows.numbers[starts[new]]
            self._forgotten[pairs[new]] = np.maximum(first, np.uint64(1)) - np.uint64(1)
            self._seen[pairs[new]] = True
        self._last[pairs] = rows.numbers[ends]
        self._newest[pairs] = newest

    def _walk(
        self,
        rows: Rows,
        n: int,
        position: int,
        fill: npt.NDArray[np.bool_] | None,
        found: Found,
    ) -> None:
        number = int(rows.pairs[n])
        pair = self.pair(number)
        known = len(pair.gaps)
        runs = rows.runs(n)
        if len(runs) > MAX_RUNS_A_PAIR:
            self._give_up(rows, rows.group(n), number, pair, found)
            runs = []
        for run in runs:
            first, last = int(rows.numbers[run.start]), int(rows.numbers[run.stop - 1])
            newest_ns = int(rows.times[run].max())
            for piece in pair.classify(first, last, int(rows.times[run.start])):
                at = run.start + piece.first - first
                places = rows.order[at : at + piece.last - piece.first + 1]
                filled = fill is not None and bool(fill[places[0]])
                opened = found.before(number, pair, piece, places, int(rows.times[at]))
                if piece.kind == "repeat":
                    continue
                room = self.open_gaps + len(pair.gaps) - known < MAX_GAPS
                found.forgotten += pair.take(piece, newest_ns, position, opened, room=room)
                found.after(number, pair, piece, places, int(rows.times[at]), filled=filled)
        self._put(number, pair, known)

    def _give_up(self, rows: Rows, span: slice, number: int, pair: Pair, found: Found) -> None:
        numbers, times = rows.numbers[span], rows.times[span]
        places, first, last = rows.order[span], int(numbers.min()), int(numbers.max())
        ts_event_ns = int(times[0])
        found.forgotten += pair.give_up(last, int(times.max()))
        found.add("reversal", number, first, last, len(numbers), places, ts_event_ns, reason=WILD)
        found.mark(places, OUT_OF_ORDER)

    def _put(self, number: int, pair: Pair, known_gaps: int) -> None:
        self._last[number], self._newest[number] = pair.last, pair.newest_ns
        self._forgotten[number], self._seen[number] = pair.forgotten, True
        self.open_gaps += len(pair.gaps) - known_gaps
        if pair.gaps:
            self.gaps[number] = pair.gaps
        else:
            self.gaps.pop(number, None)

    def _find_late(
        self,
        rows: Rows,
        before: _Ints,
        after: _Ints,
        late_after_ns: dict[int, int],
        found: Found,
    ) -> None:
        lowest = np.minimum.reduceat(rows.times, rows.starts)
        least = min(late_after_ns.values())
        for n in np.flatnonzero(lowest < np.maximum(before, after) - least).tolist():
            number = int(rows.pairs[n])
            allowed_ns = late_after_ns.get(self.source_of(number))
            if allowed_ns is None:
                continue
            span = rows.group(n)
            times = rows.times[span]
            newest = np.maximum.accumulate(np.append(before[n], times))[:-1]
            late = np.flatnonzero(times < newest - allowed_ns)
            if len(late):
                numbers, places = rows.numbers[span][late], rows.order[span][late]
                first, last = int(numbers.min()), int(numbers.max())
                ts_event_ns = int(times[late[0]])
                found.add("late_event", number, first, last, len(late), places, ts_event_ns)
                found.mark(places, LATE)
