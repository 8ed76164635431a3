"""The short form of `scripts/interruptions.py`: each kind twice, then the desired state."""

import random
from collections import Counter

import pytest

from scripts.devstack.stack import Stack
from scripts.faults.interruptions import HASTE, Interrupter, Interruption
from scripts.faults.settled import Cluster
from tests.stacks.local import brought_up

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(1800)]

SEED = 5
BURST = 3
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
            seen = Interrupter(stack, cluster, SEED, said.append).run(kinds, most=BURST)
    finally:
        monkeypatch.undo()
        stack.kill("control_plane")
        brought_up(stack)

    assert not seen.failure, "\n".join([*said, seen.failure])
    assert seen.happened == Counter(kinds)
