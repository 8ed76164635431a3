"""A message is let through when it is old enough, and never waits longer than its delay."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.runtime import delay
from functions.runtime.delay import Delay, wait_s

TIMES = st.integers(0, 2**42)


@given(st.integers(1, 86_400), TIMES, TIMES)
def test_it_is_let_through_when_it_is_old_enough_or_has_waited_so_long(
    seconds: int, published_ms: int, now_ms: int
) -> None:
    wait = wait_s(seconds, published_ms, now_ms)
    assert wait <= seconds
    later_ms = now_ms + max(0.0, wait) * 1e3
    assert later_ms - published_ms >= seconds * 1e3 - 1 or wait == seconds


class Clock:
    """Time that passes by sleeping only; the wall clock may be set meanwhile."""

    def __init__(self, now_s: float, set_by_s: float = 0.0) -> None:
        self.now_s = self.slept_s = 0.0
        self.wall_s = now_s
        self._set_by_s = set_by_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept_s += seconds
        self.wall_s += seconds + self._set_by_s
        self._set_by_s = 0.0


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[..., float]:
    def hold(seconds: float, published_ms: int, clock: Clock) -> float:
        monkeypatch.setattr(delay.time, "sleep", clock.sleep)
        monkeypatch.setattr(delay.time, "monotonic", lambda: clock.slept_s)
        monkeypatch.setattr(delay.time, "time_ns", lambda: int(clock.wall_s * 1e9))
        Delay(seconds).hold(published_ms)
        return clock.slept_s

    return hold


def test_what_is_young_waits_for_the_rest_of_the_delay(held: Callable[..., float]) -> None:
    assert held(900, 1_000_000, Clock(1_300)) == pytest.approx(600)


def test_what_is_old_does_not_wait_as_after_a_stop(held: Callable[..., float]) -> None:
    assert held(900, 1_000_000, Clock(10_000)) == 0
    assert held(0, 1_000_000, Clock(1_000)) == 0


def test_a_publisher_whose_clock_is_ahead_holds_nobody_up_for_longer(
    held: Callable[..., float],
) -> None:
    assert held(900, 99_000_000, Clock(1_300)) == pytest.approx(900)


def test_a_clock_that_is_set_back_does_not_make_it_wait_for_longer_than_the_delay(
    held: Callable[..., float],
) -> None:
    assert held(900, 1_000_000, Clock(1_300, set_by_s=-10_000)) == pytest.approx(900)
    assert held(900, 1_000_000, Clock(1_300, set_by_s=10_000)) == 1.0
