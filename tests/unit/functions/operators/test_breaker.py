"""The breaker opens after failures in a row, tries again ever more rarely, closes by a success."""

from hypothesis import given
from hypothesis import strategies as st

from functions.operators.breaker import FAILURES, FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker


def test_failures_with_successes_between_never_open_it() -> None:
    breaker = Breaker()
    for _ in range(10):
        for _ in range(FAILURES - 1):
            breaker.failed(0.0)
        assert breaker.allows(0.0)
        breaker.succeeded()


def test_it_opens_is_tried_after_the_pause_and_closes_by_one_success() -> None:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.failed(10.0)
    assert breaker.is_open
    assert not breaker.allows(10.0 + FIRST_PAUSE_S * 0.99)
    assert breaker.allows(10.0 + FIRST_PAUSE_S)
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.allows(10.0)


def test_one_failure_that_cost_others_their_time_opens_it() -> None:
    breaker = Breaker()
    breaker.failed(0.0, at_once=True)
    assert not breaker.allows(0.0)


@given(st.lists(st.booleans(), max_size=12))
def test_the_pause_doubles_with_each_trial_that_fails_up_to_the_longest(trials: list[bool]) -> None:
    """Against a plain model: what is allowed when, over any course of trials."""
    breaker, now, pause = Breaker(), 0.0, 0.0
    for goes_well in trials:
        if goes_well:
            breaker.succeeded()
            pause = 0.0
        else:
            breaker.failed(now, at_once=True)
            pause = min(LONGEST_PAUSE_S, pause * 2 or FIRST_PAUSE_S)
        assert breaker.allows(now + pause)
        assert breaker.allows(now + pause * 0.99) == (pause == 0.0)
        now += pause
