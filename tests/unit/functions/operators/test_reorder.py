"""The reorder buffer: nothing is lost, each pair leaves in order, nothing waits beyond its time."""

from typing import Any

import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from functions.operators.journal import apply_journal, decode_places, encode_places
from functions.operators.pairs import Pair
from functions.operators.release import assembled, segments
from functions.operators.reorder import Arrival, HeldRow, ReorderBuffer
from functions.runtime.held_rows import HeldInput
from marketdata.frames import decode_frame, encode_frame
from marketdata.mixed import MIXED, mixed_batch
from marketdata.schemas import INGEST_SCHEMAS


class Origin:
    """An input with a row for every number."""

    def __init__(self, kind: str = "trade", rows: int = 64) -> None:
        self.item: Any = None
        self.kind = kind
        self.batch = pa.record_batch({"n": pa.array(range(rows))})
        self.row_bytes = 8
        self.is_mixed = False

    def kind_of(self, row: int) -> str:  # noqa: ARG002
        return self.kind


class Log:
    """What was released, as the log would have it."""

    def __init__(self, last: int) -> None:
        self.pairs = {pair: Pair(last=last, newest_ns=0) for pair in range(3)}
        self.released: list[HeldRow] = []

    def __call__(self, pair: int) -> Pair:
        return self.pairs[pair].copy()

    def take(self, rows: list[HeldRow]) -> None:
        for held in rows:
            number, ts_ns = held.arrival.number, held.arrival.ts_event_ns
            pair = self.pairs[held.pair]
            for piece in pair.classify(number, number, ts_ns):
                pair.take(piece, ts_ns, 0, 0)
        self.released += rows


arrivals_strategy = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.lists(st.integers(2, 40), min_size=1, max_size=6),
        st.integers(0, 3),
        st.sampled_from(("trade", "quote")),
        st.booleans(),
    ),
    max_size=30,
)


@given(arrivals_strategy, st.integers(1, 20))
@example(
    # The second frame lets one kind leave only: then half of what waits is more than may wait.
    frames=[
        (0, [3], 0, "quote", False),
        (1, [2, 3, 4], 0, "trade", True),
        (0, [5, 6], 1, "trade", False),
    ],
    max_held=1,
)
def test_every_row_leaves_once_in_order_and_in_time(frames: list[Any], max_held: int) -> None:
    log = Log(last=1)
    buffer = ReorderBuffer(log)
    now_s, row = 0.0, 0
    given_rows: set[tuple[int, int]] = set()
    other: list[Arrival] = []
    for pair, numbers, pause_s, kind, one_kind in frames:
        now_s += pause_s
        arrivals = [Arrival(Origin(kind), row + n, number, 1) for n, number in enumerate(numbers)]
        row += len(numbers)
        admitted = buffer.admit(pair, arrivals, now_s + 5)
        other += admitted.at_once
        log_pair = log.pairs[pair]
        for arrival in admitted.at_once:  # they fill a gap of the log
            for piece in log_pair.classify(arrival.number, arrival.number, 1):
                assert piece.kind == "late"
                log_pair.take(piece, 1, 0, 0)
        given_rows |= {(pair, number) for number in numbers}
        rows = buffer.release(now_s, max_held=max_held, one_kind=one_kind, max_rows=None)
        assert not one_kind or len({held.arrival.origin.kind for held in rows}) <= 1
        log.take(rows)
        if not one_kind:
            assert len(buffer) <= max_held
            due_s = buffer.due_s()
            assert due_s is None or due_s > now_s
    log.take(buffer.release(now_s + 5, max_held=max_held))
    assert not len(buffer)
    assert buffer.due_s() is None
    assert not buffer.origins
    left = [(held.pair, held.arrival.number) for held in log.released]
    assert len(left) == len(set(left))
    late = {arrival.number for arrival in other}
    assert {number for _, number in left} | late == {number for _, number in given_rows}
    for pair in range(3):
        numbers = [number for each, number in left if each == pair]
        assert numbers == sorted(numbers)


def test_what_follows_a_new_start_waits_behind_all_before() -> None:
    log = Log(last=5)
    buffer = ReorderBuffer(log)
    origin = Origin()
    arrivals = [
        Arrival(origin, n, number, ts) for n, (number, ts) in enumerate(((8, 1), (1, 2), (3, 3)))
    ]
    assert buffer.admit(0, arrivals, 10.0) == ([], [])
    log.take(buffer.release(0.0, max_held=100))
    assert [held.arrival.number for held in log.released] == [8, 1]
    assert log.pairs[0].last == 1
    assert buffer.admit(0, [Arrival(origin, 3, 2, 4), Arrival(origin, 4, 3, 4)], 11.0).repeats
    log.take(buffer.release(0.0, max_held=100))
    assert [held.arrival.number for held in log.released] == [8, 1, 2, 3]


def test_rows_are_cut_by_kind_so_that_each_pair_stays_in_order() -> None:
    kinds = {"t": Origin("trade"), "q": Origin("quote")}
    rows = [
        HeldRow(pair, Arrival(kinds[kind], n, n, 0), 0.0)
        for n, (pair, kind) in enumerate(
            ((0, "q"), (0, "t"), (1, "t"), (1, "q"), (2, "t"), (2, "t"))
        )
    ]
    cut = segments(rows, kind="trade", rows=1, size_bytes=0, max_rows=3, max_bytes=1 << 20)
    assert [[held.arrival.row for held in each] for each in cut] == [[2, 4], [5], [0], [1], [3]]
    small = segments(rows[4:], kind="trade", rows=0, size_bytes=0, max_rows=9, max_bytes=8)
    assert [len(each) for each in small] == [1, 1]


def test_released_rows_follow_those_of_their_frame_in_their_order() -> None:
    from events import trades  # noqa: PLC0415 - only this test needs real events

    def held_input(*names: str) -> HeldInput:
        batch = trades(list(names), trade_id=[f"{name}-id" for name in names])
        return HeldInput(None, "trade", batch)  # type: ignore[arg-type]

    one, two = held_input("A", "B"), held_input("C", "D")
    rows = [HeldRow(0, Arrival(o, row, 0, 0), 0.0) for o, row in ((two, 1), (one, 0), (two, 0))]
    batch = assembled("trade", trades(["X"]), rows)
    assert batch.column("instrument").to_pylist() == ["X", "D", "A", "C"]
    assert sorted(batch.column("instrument").dictionary.to_pylist()) == ["A", "C", "D", "X"]
    assert assembled("trade", None, rows[:1]).column("instrument").to_pylist() == ["D"]


def test_rows_of_one_kind_that_waited_in_mixed_inputs_join_a_mixed_frame() -> None:
    from events import quotes, trades  # noqa: PLC0415 - as above

    batch = mixed_batch([("quote", quotes(["A"])), ("trade", trades(["B", "C"]))])
    held = HeldInput(None, MIXED, batch)  # type: ignore[arg-type]
    rows = [HeldRow(0, Arrival(held, row, 0, 0), 0.0) for row in (2, 1)]
    assert {row.arrival.kind for row in rows} == {"trade"}

    alone = assembled("trade", None, rows)
    assert alone.schema == INGEST_SCHEMAS["trade"]
    assert alone.column("instrument").to_pylist() == ["C", "B"]

    joined = assembled(MIXED, batch.slice(0, 1), rows)
    assert joined.column("instrument").to_pylist() == ["A", "C", "B"]
    assert joined.column("kind").to_pylist() == ["quote", "trade", "trade"]
    assert decode_frame(encode_frame(joined).to_pybytes()).equals(joined)


places = st.dictionaries(
    st.integers(0, 2**62), st.sets(st.integers(0, 8191), min_size=1, max_size=20), max_size=5
)


@given(places, places)
def test_the_journal_adds_what_waits_and_takes_what_left(
    held: dict[int, set[int]], released: dict[int, set[int]]
) -> None:
    assert decode_places(encode_places(held)) == held
    state = {position: set(rows) for position, rows in released.items()}
    apply_journal(state, {"held": encode_places(held), "released": encode_places(released)})
    expected = {p: rows - released.get(p, set()) for p, rows in held.items()}
    assert state == {p: rows for p, rows in expected.items() if rows}
