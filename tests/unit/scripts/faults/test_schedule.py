"""The schedule of faults is a function of the seed and keeps its bounds."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.faults.kinds import INTERVALS_S, LANES, FaultKind
from scripts.faults.schedule import PARALLELISM, PAUSE_S, Fault, plan_faults

SEEDS = st.integers(0, 2**32)
SECONDS = st.floats(1.0, 900.0)
KINDS = st.sets(st.sampled_from(FaultKind), min_size=1)


@settings(deadline=None)
@given(SEEDS, SECONDS, KINDS)
def test_the_same_seed_gives_the_same_faults(
    seed: int, seconds: float, kinds: set[FaultKind]
) -> None:
    assert plan_faults(seed, seconds, kinds) == plan_faults(seed, seconds, sorted(kinds))


@settings(deadline=None)
@given(SEEDS, SECONDS, KINDS)
def test_faults_are_of_the_kinds_asked_for_within_the_time_and_in_order(
    seed: int, seconds: float, kinds: set[FaultKind]
) -> None:
    faults = plan_faults(seed, seconds, kinds)

    assert {fault.kind for fault in faults} <= kinds
    assert all(0 < fault.at_s <= seconds for fault in faults)
    assert all(one.at_s <= two.at_s for one, two in pairwise(faults))
    assert all(fault.kind in LANES[fault.lane] for fault in faults)


@settings(deadline=None)
@given(SEEDS, SECONDS)
def test_what_a_fault_says_is_within_its_bounds(seed: int, seconds: float) -> None:
    for fault in plan_faults(seed, seconds):
        pauses = "pause" in fault.kind or fault.kind is FaultKind.SLOW_CONSUMER
        assert (PAUSE_S[0] <= fault.pause_s <= PAUSE_S[1]) if pauses else fault.pause_s == 0
        scales = fault.kind is FaultKind.SCALE
        low, high = PARALLELISM
        assert (low <= fault.parallelism <= high) if scales else fault.parallelism == 0
        rolls_out = {FaultKind.SCALE, FaultKind.REDEPLOY, FaultKind.RESTART_FUNCTION}
        assert bool(fault.function) == (fault.kind in rolls_out)


@settings(deadline=None)
@given(SEEDS, st.floats(20.0, 900.0))
def test_every_kind_has_its_turn_however_short_the_run(seed: int, seconds: float) -> None:
    assert {fault.kind for fault in plan_faults(seed, seconds)} == set(FaultKind)


@settings(deadline=None)
@given(SEEDS, SECONDS)
def test_no_kind_of_a_lane_comes_again_before_every_other_has_come(
    seed: int, seconds: float
) -> None:
    for lane, kinds in LANES.items():
        mine = [fault.kind for fault in plan_faults(seed, seconds) if fault.lane == lane]
        for start in range(0, len(mine), len(kinds)):
            deal = mine[start : start + len(kinds)]
            assert len(set(deal)) == len(deal)


@settings(deadline=None)
@given(SEEDS, SECONDS, st.sampled_from(sorted(LANES)))
def test_leaving_a_lane_out_changes_no_other(seed: int, seconds: float, left_out: str) -> None:
    kinds = [kind for lane, members in LANES.items() if lane != left_out for kind in members]

    assert plan_faults(seed, seconds, kinds) == [
        fault for fault in plan_faults(seed, seconds) if fault.lane != left_out
    ]


def test_seeds_differ() -> None:
    runs: set[Sequence[Fault]] = {tuple(plan_faults(seed, 600)) for seed in range(20)}

    assert len(runs) == 20


def test_every_kind_has_one_lane_and_every_lane_a_pace() -> None:
    kinds = [kind for members in LANES.values() for kind in members]

    assert sorted(kinds) == sorted(FaultKind)
    assert set(LANES) == set(INTERVALS_S)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (
            Fault(1.0, "functions", FaultKind.PAUSE_SEQUENCER, scope="all", pause_s=2.5),
            "pause-sequencer all for 2.5 s",
        ),
        (
            Fault(1.0, "functions", FaultKind.SCALE, function="distributor", parallelism=3),
            "scale distributor to 3",
        ),
        (Fault(1.0, "plans", FaultKind.CHANGE_PLAN), "change-plan"),
    ],
)
def test_a_fault_says_what_it_is(fault: Fault, text: str) -> None:
    assert str(fault) == text
