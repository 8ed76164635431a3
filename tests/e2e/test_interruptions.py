"""The short form of `scripts/interruptions.py`: every kind once, and the desired state each time."""

import random

import pytest

from scripts.devstack.stack import Stack
from scripts.faults.interruptions import HASTE, Interrupter, Interruption, schedule
from scripts.faults.settled import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(1800)]

SEED = 5
OF_GRANTS = {Interruption.TAKE_GRANT, Interruption.GIVE_GRANT}
"""There are none on a stack that asks nobody who they are."""


def test_the_desired_state_comes_about_after_every_interruption(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in HASTE.items():
        monkeypatch.setenv(name, value)
    kinds = sorted(set(Interruption) - OF_GRANTS) * 2
    random.Random(SEED).shuffle(kinds)
    said: list[str] = []
    try:
        stack.kill("control_plane")
        stack.start("control_plane")
        with Cluster(stack) as cluster:
            seen = Interrupter(stack, cluster, SEED, said.append).run(kinds)
    finally:
        monkeypatch.undo()
        stack.kill("control_plane")
        stack.up()

    assert not seen.failure, "\n".join([*said, seen.failure])
    assert set(seen.happened) == set(kinds)


def test_a_schedule_is_dealt_by_its_seed() -> None:
    assert schedule(1, 300, secure=True) == schedule(1, 300, secure=True)
    assert schedule(1, 300, secure=True) != schedule(2, 300, secure=True)
    assert set(schedule(1, 100, secure=True)) == set(Interruption)
    assert not set(schedule(1, 300, secure=False)) & OF_GRANTS
