"""How the benchmarks of recovery and memory judge what they saw."""

import pytest

from benchmarks.figures import BenchmarkFailed
from benchmarks.memory import trend
from benchmarks.recovery import recovery_s


def test_recovery_counts_to_the_first_arrival_of_what_was_published_after_the_kill() -> None:
    before = [(90, 80), (150, 99)]  # what was under way when the instance was killed
    after = [(3_000_000_100, 120), (2_000_000_100, 101)]
    assert recovery_s([*before, *after], killed_ns=100) == 2.0


def test_without_an_event_after_the_kill_there_is_no_figure() -> None:
    with pytest.raises(BenchmarkFailed, match="published after the kill"):
        recovery_s([(90, 80), (150, 100)], killed_ns=100)


def test_a_flat_course_has_no_slope_and_a_rising_one_has_its_own() -> None:
    times = [60.0 * minute for minute in range(60)]
    flat = trend(times, [100.0 + minute % 2 for minute in range(60)], after_s=0.0)
    assert abs(flat.per_hour) < 0.1
    assert flat.last - flat.first == pytest.approx(0.0, abs=1.0)
    rising = trend(times, [100.0 + minute / 60 * 12 for minute in range(60)], after_s=0.0)
    assert rising.per_hour == pytest.approx(12.0)
    assert rising.last - rising.first == pytest.approx(8.0)


def test_the_warm_up_is_left_out() -> None:
    times = [float(second) for second in range(100)]
    course = [second if second < 50 else 50.0 for second in range(100)]
    found = trend(times, course, after_s=50.0)
    assert (found.per_hour, found.first, found.last) == (0.0, 50.0, 50.0)


def test_too_few_samples_are_no_trend() -> None:
    with pytest.raises(BenchmarkFailed, match="too few samples"):
        trend([0.0, 1.0], [5.0, 5.0], after_s=0.0)
