"""Source order against an obvious oracle that looks at one event after the other."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from events import trades
from hypothesis import given
from hypothesis import strategies as st

from functions.operators import pairs, source_order
from functions.operators.found import Finding
from functions.operators.sequence import InstrumentSequences
from functions.operators.source_order import SourceOrder
from marketdata.schemas import GAP_BEFORE, LATE, OUT_OF_ORDER, REPEATED


class Row(NamedTuple):
    source: str
    instrument: str
    number: int | None
    at: int


rows_strategy = st.lists(
    st.builds(
        Row,
        st.sampled_from(("x", "y")),
        st.sampled_from(("A", "B", "a name longer than two words")),
        st.none() | st.integers(0, 12),
        st.integers(0, 20),
    ),
    min_size=1,
    max_size=25,
)
frames_strategy = st.lists(rows_strategy, max_size=8)


class Oracle:
    """Each pair's missing numbers as a set; what came is beyond the first and not missing."""

    def __init__(self) -> None:
        self.last: dict[tuple[str, str], int] = {}
        self.base: dict[tuple[str, str], int] = {}
        self.newest: dict[tuple[str, str], int] = {}
        self.missing: dict[tuple[str, str], set[int]] = {}

    def marks(self, row: Row) -> int:
        key = row.source, row.instrument
        if row.number is None:
            return 0
        n, last = row.number, self.last.get(key)
        if last is None:
            self.last[key], self.base[key] = n, n
            self.newest[key], self.missing[key] = row.at, set()
            return 0
        missing, newest = self.missing[key], self.newest[key]
        if n <= 1 and n <= last and row.at > newest and n not in missing:
            self.last[key], self.base[key], self.missing[key] = n, n, set()
            self.newest[key] = row.at
            return 0
        if n > last:
            mark = GAP_BEFORE if n > last + 1 else 0
            missing |= set(range(last + 1, n))
            self.last[key] = n
        elif n in missing:
            missing.remove(n)
            mark = OUT_OF_ORDER
        elif n < self.base[key]:
            mark = OUT_OF_ORDER
        else:
            return REPEATED
        self.newest[key] = max(newest, row.at)
        return mark


def _observe(
    sequences: InstrumentSequences,
    order: SourceOrder,
    rows: list[Row],
    position: int,
    **options: Any,
) -> tuple[list[int], list[Finding]]:
    batch = trades(
        [row.instrument for row in rows],
        source=[row.source for row in rows],
        source_sequence=[row.number for row in rows],
        ts_event=[row.at for row in rows],
    )
    grouped = sequences.group(batch)
    found = order.observe(order.compare(batch, grouped), position, **options)
    marks = np.zeros(len(rows), dtype=np.uint32) if found.marks is None else found.marks
    return marks.tolist(), found.findings


def _state() -> tuple[InstrumentSequences, SourceOrder]:
    sequences = InstrumentSequences()
    return sequences, SourceOrder(sequences.instruments)


def _gaps(order: SourceOrder) -> dict[tuple[str, str], list[pairs.Gap]]:
    return {order.names(pair): gaps for pair, gaps in order.gaps.items()}


def _missing(order: SourceOrder) -> dict[tuple[str, str], set[int]]:
    return {
        order.names(pair): {n for gap in gaps for n in range(gap.first, gap.last + 1)}
        for pair, gaps in order.gaps.items()
    }


@given(frames_strategy)
def test_every_row_is_marked_as_the_oracle_says(frames: list[list[Row]]) -> None:
    """Times that rise within a frame: a run's newest time is then that of its last row."""
    sequences, order = _state()
    oracle = Oracle()
    for position, frame in enumerate(frames):
        rows = [row._replace(at=100 * position + n) for n, row in enumerate(frame)]
        rows = [r._replace(at=r.at if r.number != 1 else frame[n].at) for n, r in enumerate(rows)]
        marks, _ = _observe(sequences, order, rows, position)
        assert marks == [oracle.marks(row) for row in rows]
    assert _missing(order) == {key: numbers for key, numbers in oracle.missing.items() if numbers}
    assert order.open_gaps == sum(map(len, order.gaps.values()))


@given(frames_strategy, st.integers(0, 8), st.integers(0, 8))
def test_state_from_any_snapshot_and_the_frames_behind_it_finds_the_same(
    frames: list[list[Row]], snapshot_at: int, cut_at: int
) -> None:
    snapshot_at, cut_at = sorted((snapshot_at, cut_at))
    sequences, order = _state()
    rebuilt: tuple[InstrumentSequences, SourceOrder] | None = None
    for position, frame in enumerate(frames):
        if position == snapshot_at:
            snapshot = order.snapshot()
            fresh = InstrumentSequences()
            rebuilt = fresh, SourceOrder.from_snapshot(fresh.instruments, *snapshot)
        limits = dict.fromkeys(range(2), 3)
        _, findings = _observe(sequences, order, frame, position, late_after_ns=limits)
        if rebuilt:
            _, again = _observe(*rebuilt, frame, position)  # as recovery does, without limits
            findings = [found for found in findings if found.type != "late_event"]
            names = [order.names(found.pair) for found in findings]
            assert [rebuilt[1].names(found.pair) for found in again] == names
            assert [f._replace(pair=0) for f in again] == [f._replace(pair=0) for f in findings]
            assert _gaps(rebuilt[1]) == _gaps(order)
    if rebuilt:
        assert _missing(rebuilt[1]) == _missing(order)
        assert len(rebuilt[1]) == len(order)


@given(frames_strategy)
def test_what_opens_closes_or_stays_open(frames: list[list[Row]]) -> None:
    sequences, order = _state()
    balance: dict[tuple[int, int], int] = {}
    for position, frame in enumerate(frames):
        for n, found in enumerate(_observe(sequences, order, frame, position)[1]):
            if found.type == "gap_opened":
                balance[position, n] = found.events
            elif found.type == "gap_closed":
                assert found.gap is not None
                balance[found.gap] -= found.events
                assert balance[found.gap] == found.remaining
    still: dict[tuple[int, int], int] = {}
    for gaps in order.gaps.values():
        for gap in gaps:
            name = gap.position, gap.n
            still[name] = still.get(name, 0) + gap.last - gap.first + 1
    assert still == {name: events for name, events in balance.items() if events}


def _rows(*numbers: int, at: int = 0) -> list[Row]:
    return [Row("x", "A", number, at) for number in numbers]


def test_a_repeated_frame_is_one_finding() -> None:
    sequences, order = _state()
    _observe(sequences, order, _rows(*range(1, 100)), 0)
    marks, findings = _observe(sequences, order, _rows(*range(1, 100)), 1)
    assert marks == [REPEATED] * 99
    assert [(f.type, f.first, f.last, f.events) for f in findings] == [("repeat", 1, 99, 99)]


def test_a_source_that_begins_again_closes_its_gaps() -> None:
    sequences, order = _state()
    _observe(sequences, order, _rows(1, 5, 8, at=1), 0)
    _, findings = _observe(sequences, order, _rows(1, 2, at=2), 1)
    assert [(f.type, f.first, f.last, f.closed_by) for f in findings] == [
        ("gap_closed", 2, 4, "reset"),
        ("gap_closed", 6, 7, "reset"),
        ("source_reset", 1, 2, ""),
    ]
    assert _observe(sequences, order, _rows(3, at=3), 2) == ([0], [])


def test_a_fill_is_told_from_a_late_arrival() -> None:
    sequences, order = _state()
    _observe(sequences, order, _rows(1, 5), 0)
    fill = np.ones(1, dtype=bool)
    closed = _observe(sequences, order, _rows(2), 1, fill=fill)[1][-1]
    assert (closed.closed_by, closed.remaining) == ("fill", 2)
    closed = _observe(sequences, order, _rows(4), 2)[1][-1]
    assert (closed.closed_by, closed.remaining, closed.gap) == ("late_arrival", 1, (0, 0))


def test_gaps_beyond_the_bounds_are_forgotten_and_their_rows_are_no_repeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pairs, "MAX_GAPS_A_PAIR", 2)
    sequences, order = _state()
    _observe(sequences, order, _rows(1, 3, 5, 7), 0)
    assert [gap.first for gap in order.gaps[0]] == [4, 6]
    assert _observe(sequences, order, _rows(2, 3), 1)[0] == [OUT_OF_ORDER, REPEATED]
    assert _observe(sequences, order, _rows(5), 2)[0] == [REPEATED]
    monkeypatch.setattr(source_order, "MAX_GAPS", 2)
    _observe(sequences, order, [Row("x", "B", n, 0) for n in (1, 3)], 3)
    assert order.open_gaps == 2
    assert _observe(sequences, order, [Row("x", "B", 2, 0)], 4)[0] == [OUT_OF_ORDER]


def test_a_wild_pair_is_reported_whole_and_not_walked() -> None:
    sequences, order = _state()
    wild = np.random.default_rng(7).permutation(2000).tolist()
    marks, findings = _observe(sequences, order, _rows(*wild), 0)
    assert marks == [OUT_OF_ORDER] * 2000
    assert [(f.type, f.first, f.last, f.events) for f in findings] == [("reversal", 0, 1999, 2000)]
    assert order.open_gaps == 0
    assert _observe(sequences, order, _rows(2000), 1) == ([0], [])
    assert _observe(sequences, order, _rows(7), 2)[0] == [OUT_OF_ORDER]


def test_events_far_behind_in_time_are_late() -> None:
    sequences, order = _state()
    rows = [Row("x", "A", n, at) for n, at in enumerate((100, 95, 89, 120, 111))]
    rows += [Row("y", "A", n, at) for n, at in enumerate((100, 0))]
    _observe(sequences, order, [Row("x", "A", None, 0), Row("y", "A", None, 0)], 0)
    order.sources.ids_of(trades(["A"], source=["x"]).column("source").dictionary)
    limits = {order.sources.find("x"): 10}
    marks, findings = _observe(sequences, order, rows, 1, late_after_ns=limits)
    assert marks == [0, 0, LATE, 0, 0, 0, 0]
    assert [(f.type, f.first, f.last, f.events, f.row) for f in findings] == [
        ("late_event", 2, 2, 1, 2)
    ]
    assert _observe(sequences, order, [Row("x", "A", 5, 109)], 2, late_after_ns=limits)[0] == [LATE]
    assert _observe(sequences, order, [Row("y", "A", 2, 0)], 3, late_after_ns=limits)[0] == [0]
