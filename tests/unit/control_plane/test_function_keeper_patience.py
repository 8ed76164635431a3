"""The keeper of functions acts on what lasts, and ever more slowly on what does not help."""

from __future__ import annotations

from itertools import pairwise

from control_plane.function_keeper import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, Patience
from control_plane.topology import Change, FunctionState

DRIFT = Change("update", "function", "marketdata/functions/sequencer")
DOWN = Change("restart", "function", "marketdata/functions/sequencer")


def test_drift_is_repaired_at_the_second_look() -> None:
    patience = Patience(8)
    assert patience.due([DRIFT], 0) == []
    assert patience.due([DRIFT], 5) == [DRIFT]


def test_a_function_is_restarted_only_when_it_stays_down() -> None:
    patience = Patience(8)
    assert [patience.due([DOWN], now) for now in (0, 5, 7.9)] == [[], [], []]
    assert patience.due([DOWN], 8) == [DOWN]


def down(running: int, restarts: int) -> Change:
    state = FunctionState(DOWN.name, {}, 4, running, restarts)
    return Change("restart", "function", DOWN.name, actual=state)


def test_instances_that_come_or_that_the_worker_starts_again_are_left_to_it() -> None:
    patience = Patience(8)
    seen = [(0, 0), (1, 0), (2, 0), (2, 1), (1, 2)]
    for look, (running, restarts) in enumerate(seen):
        assert patience.due([down(running, restarts)], look * 7.0) == []
    stuck = down(*seen[-1])
    assert patience.due([stuck], 35.9) == []
    assert patience.due([stuck], 36) == [stuck]


def test_what_healed_in_between_is_forgotten() -> None:
    patience = Patience(8)
    patience.due([DOWN], 0)
    patience.due([], 5)
    assert patience.due([DOWN], 10) == []
    assert patience.due([DOWN], 15) == []


def test_a_redeployment_that_takes_an_instance_down_starts_the_wait_again() -> None:
    patience = Patience(8)
    patience.due([DRIFT], 0)
    assert patience.due([DOWN], 9) == []
    assert patience.due([DOWN], 16.9) == []
    assert patience.due([DOWN], 17) == [DOWN]


def test_attempts_come_ever_more_slowly_up_to_a_bound() -> None:
    patience = Patience(0)
    patience.due([DOWN], 0)
    now, attempts = 0.0, []
    while now < 3000:
        now += 1
        if patience.due([DOWN], now):
            attempts.append(now)
            patience.tried(DOWN.name, now)
    pauses = [after - before for before, after in pairwise(attempts)]
    assert pauses[0] == FIRST_RETRY_SECONDS
    assert pauses == sorted(pauses)
    assert max(pauses) == LONGEST_RETRY_SECONDS
