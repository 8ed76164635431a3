"""From whatever is read again exactly the missing events are taken, each once."""

from collections import Counter

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.findings import Gap
from marketdata.missing_events import MissingDeliveries, MissingInstruments, rows_in_front

Row = tuple[str, int, int]


def frame(rows: list[Row], *, dictionary: bool = True) -> pa.RecordBatch:
    names = pa.array([row[0] for row in rows], pa.utf8())
    return pa.record_batch(
        {
            "instrument": names.dictionary_encode() if dictionary else names,
            "sequence": pa.array([row[1] for row in rows], pa.uint64()),
            "epoch": pa.array([row[2] for row in rows], pa.uint32()),
        }
    )


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    return [
        (name, sequence, epoch)
        for name, sequence, epoch in zip(
            *(batch.column(c).to_pylist() for c in ("instrument", "sequence", "epoch")), strict=True
        )
    ]


@st.composite
def gaps_of_instruments(draw: st.DrawFn) -> list[Gap]:
    gaps = []
    for name in draw(st.lists(st.sampled_from("ABC"), unique=True)):
        for epoch in draw(st.lists(st.integers(1, 2), unique=True)):
            at = 1
            for skip, size in draw(
                st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), max_size=3)
            ):
                gaps.append(Gap(0, name, epoch, at + skip, at + skip + size - 1))
                at += skip + size
    return gaps


rows_strategy = st.lists(
    st.tuples(st.sampled_from("ABCD"), st.integers(1, 15), st.integers(1, 3)), max_size=30
)


@settings(deadline=None)
@given(
    gaps=gaps_of_instruments(),
    frames=st.lists(rows_strategy, max_size=4),
    dictionary=st.booleans(),
)
def test_instruments_agree_with_sets(
    gaps: list[Gap], frames: list[list[Row]], dictionary: bool
) -> None:
    missing = MissingInstruments(gaps)
    wanted = {
        (gap.key, number, gap.epoch) for gap in gaps for number in range(gap.first, gap.last + 1)
    }
    for rows in frames:
        expected = []
        for row in rows:
            if row in wanted:
                wanted.discard(row)
                expected.append(row)
        assert rows_of(missing.take(frame(rows, dictionary=dictionary))) == expected
    left = Counter(
        (gap.key, number, gap.epoch)
        for gap in gaps
        for a, b in missing.left(gap)
        for number in range(a, b + 1)
    )
    assert left == Counter(wanted)


@settings(deadline=None)
@given(
    first=st.integers(1, 30),
    size=st.integers(1, 30),
    frames=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), max_size=6),
)
def test_deliveries_agree_with_sets(first: int, size: int, frames: list[tuple[int, int]]) -> None:
    missing = MissingDeliveries(Gap(0, "view:v", 0, first, first + size - 1))
    wanted = set(range(first, first + size))
    for start, count in frames:
        batch = pa.record_batch({"number": list(range(start, start + count))})
        taken = missing.take(batch, start)
        numbers = [n for _, run in taken for n in run.column("number").to_pylist()]
        assert numbers == [n for n in range(start, start + count) if n in wanted]
        assert all(run.column("number")[0].as_py() == begin for begin, run in taken)
        wanted -= set(numbers)
    assert {n for a, b in missing.ranges() for n in range(a, b + 1)} == wanted


@settings(deadline=None)
@given(data=st.data(), sizes=st.lists(st.integers(1, 6), max_size=5))
def test_what_a_message_holds_is_left_out_of_what_stands_in_front(
    data: st.DataObject, sizes: list[int]
) -> None:
    total = sum(sizes)
    tail = data.draw(st.integers(0, total))
    rows = [("AB"[n % 2], n + 1, 1) for n in range(total)]
    kept, at = [], 0
    for size in sizes:
        kept.append(frame(rows[at : at + size]))
        at += size
    front = rows_in_front(kept, frame(rows[total - tail :], dictionary=False))
    assert front is not None
    assert [row for batch in front for row in rows_of(batch)] == rows[: total - tail]
    assert len(front) == len(kept)


def test_a_message_that_holds_other_events_is_told() -> None:
    kept = [frame([("A", 1, 1), ("A", 2, 1)]), frame([("B", 1, 1)])]
    assert rows_in_front(kept, frame([("A", 2, 1), ("B", 1, 1)])) is not None
    assert rows_in_front(kept, frame([("A", 2, 1), ("B", 2, 1)])) is None
    assert rows_in_front(kept, frame([("C", n, 1) for n in range(4)])) is None
    heartbeat = pa.RecordBatch.from_arrays([], schema=pa.schema([]))
    assert rows_in_front(kept, heartbeat) == kept
