"""Who is slow never waits; who is fast gathers, and not for longer than he wants."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.pace import MOST_BEHIND, Pace

RATE, BURST, LONGEST_S = 100.0, 8, 0.05


def pace() -> Pace:
    return Pace(RATE, burst=BURST, longest_s=LONGEST_S)


@given(st.floats(1 / RATE, 10.0), st.integers(1, 200))
def test_who_sends_no_more_than_the_rate_never_waits(every_s: float, messages: int) -> None:
    one = pace()
    for number in range(messages):
        assert one.waits_s(number * every_s) == 0.0
        one.sent(number * every_s, number * every_s, 1, math.inf)


def test_after_a_pause_a_few_leave_at_once() -> None:
    one = pace()
    one.sent(50.0, 50.0, BURST + 1, math.inf)
    assert one.waits_s(50.0) == 0.0
    one.sent(50.0, 50.0, 1, 0.02)
    assert one.waits_s(50.0) == pytest.approx(0.02)
    assert one.waits_s(50.021) == 0.0


@given(st.integers(1, 10_000))
def test_one_time_is_free_however_many_are_sent(messages: int) -> None:
    one = pace()
    for now_s in (1.0, 2.0, 3.0):
        one.sent(now_s, now_s, messages, math.inf)
        assert one.waits_s(now_s) == 0.0


def test_what_nothing_gathered_for_changes_no_wait() -> None:
    one = pace()
    one.sent(1.0, 1.0, 1_000, None)
    assert one.waits_s(1.0) == 0.0
    one.sent(1.0, 1.0, 1_000, 0.04)
    one.sent(1.01, 1.01, 1, None)
    assert one.waits_s(1.01) == pytest.approx(0.03)


@given(
    st.lists(
        st.tuples(st.floats(0, 0.2), st.integers(0, 500), st.floats(0, math.inf)),
        min_size=1,
        max_size=50,
    )
)
def test_nobody_waits_for_longer_than_he_gathers_or_than_the_longest(
    turns: list[tuple[float, int, float]],
) -> None:
    one, now_s, most_s = pace(), 7.0, 0.0
    for pause_s, messages, gather_s in turns:
        now_s += pause_s
        one.sent(now_s, now_s, messages, gather_s)
        most_s = max(most_s - pause_s, min(LONGEST_S, gather_s))
        assert 0.0 <= one.waits_s(now_s) <= most_s + 1e-9


@given(st.integers(1, int(RATE * LONGEST_S)), st.integers(1, 200))
def test_who_waits_as_told_sends_little_more_than_the_rate(messages: int, turns: int) -> None:
    """As long as the longest wait is enough for it."""
    one, now_s = pace(), 0.0
    for _ in range(turns):
        now_s += one.waits_s(now_s)
        one.sent(now_s, now_s, messages, math.inf)
    assert messages * turns <= RATE * now_s + BURST + 3 * messages + 1e-6


def test_who_was_too_fast_goes_on_at_once_after_a_pause() -> None:
    one = pace()
    one.sent(1.0, 1.0, 10_000, math.inf)
    later_s = 1.0 + MOST_BEHIND * LONGEST_S
    one.sent(later_s, later_s, BURST, math.inf)
    assert one.waits_s(later_s) == 0.0


def test_without_a_longest_wait_nobody_waits() -> None:
    one = Pace(RATE, burst=BURST, longest_s=0.0)
    one.sent(1.0, 1.0, 10_000, math.inf)
    one.sent(1.0, 1.0, 10_000, math.inf)
    assert one.waits_s(1.0) == 0.0
