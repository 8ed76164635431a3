"""Pace and repetition, with a clock that only moves when slept on."""

from itertools import islice

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.sources.batches import assemble
from marketdata.sources.pacing import event_times, paced, repeated

SECOND = 1_000_000_000


def batch_of(times: list[int]) -> pa.RecordBatch:
    ts_event = pa.array(times, pa.int64())
    columns = {"instrument": "A", "venue": "X", "source": "s", "ts_event": ts_event}
    return assemble("status", columns, len(times))


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def play(
        self, batches: list[pa.RecordBatch], speed: float, max_gap_s: float | None = None
    ) -> list[tuple[float, int]]:
        """(seconds from the start, ts_event) of every event as it comes out."""
        out = []
        for piece in paced(batches, speed, max_gap_s=max_gap_s, clock=self.clock, sleep=self.sleep):
            out += [(self.now - 100.0, int(time)) for time in event_times(piece)]
        return out


@pytest.mark.parametrize("speed", [1.0, 10.0])
def test_events_come_when_they_are_due(speed: float) -> None:
    batches = [batch_of([0, SECOND]), batch_of([]), batch_of([3 * SECOND])]
    got = FakeClock().play(batches, speed)
    assert [time for _, time in got] == [0, SECOND, 3 * SECOND]
    assert [at for at, _ in got] == pytest.approx([0, 1 / speed, 3 / speed])


def test_long_gaps_are_cut_short() -> None:
    hour = 3600 * SECOND
    got = FakeClock().play([batch_of([0, hour, hour + SECOND])], 1.0, max_gap_s=2.0)
    assert [at for at, _ in got] == pytest.approx([0, 2, 3])


def test_full_speed_passes_batches_as_they_are() -> None:
    batches = [batch_of([0, SECOND]), batch_of([])]
    assert [id(b) for b in paced(batches, None)] == [id(b) for b in batches]


@given(st.lists(st.lists(st.integers(0, 5 * SECOND), max_size=20), max_size=5))
def test_nothing_is_lost_or_reordered_and_nothing_is_early(parts: list[list[int]]) -> None:
    got = FakeClock().play([batch_of(part) for part in parts], 1.0)
    flat = [time for part in parts for time in part]
    assert [time for _, time in got] == flat
    for at, time in got:
        # Events of the same hundredth of a second go out together.
        assert at >= (time - flat[0]) / SECOND - 0.0100001


def test_a_repeated_set_moves_on_in_time() -> None:
    passes = repeated(lambda: [batch_of([10, 20]), batch_of([]), batch_of([30])])
    times = [int(time) for batch in islice(passes, 6) for time in event_times(batch)]
    assert times == [10, 20, 30, 40, 50, 60, 70, 80, 90]


def test_a_repeated_set_never_leaves_the_range_of_time() -> None:
    century = 100 * 365 * 86_400 * SECOND
    passes = repeated(lambda: [batch_of([0, century])])
    times = [int(time) for batch in islice(passes, 6) for time in event_times(batch)]
    assert times == [0, century] * 6


def test_an_empty_set_is_not_repeated_for_ever() -> None:
    assert list(repeated(list)) == []
