"""The short form of `scripts/chaos.py`: a minute and a half of faults of most kinds, fixed seed.

What the long form does in half an hour; see docs/chaos.md.
"""

from collections import Counter
from contextlib import suppress

import pytest

from scripts.devstack.errors import ComponentError
from scripts.devstack.stack import Stack
from scripts.faults.kinds import LANES, FaultKind
from scripts.faults.report import markdown
from scripts.faults.run import Chaos, Settings
from scripts.faults.topology import own_topology
from tests.stacks.local import brought_up

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(900)]

SEED = 4
SECONDS = 80.0
RATE = 6_000


def test_nothing_is_lost_doubled_or_reordered_in_chaos(stack: Stack) -> None:
    settings = Settings(seed=SEED, seconds=SECONDS, rate=RATE, instruments=200)
    said: list[str] = []
    try:
        with own_topology(stack) as topology:
            outcome = Chaos(stack, topology, settings, said.append).run()
    finally:
        # With the project's topology again, for the tests that follow. The control plane ends first
        # (if it runs): it would put back what the chaos's topology says while ours is applied.
        with suppress(ComponentError):
            stack.kill("control_plane")
        brought_up(stack)

    assert outcome.ok, "\n".join([*said, markdown(outcome)])
    happened = Counter(each.fault.lane for each in outcome.injected)
    assert set(happened) == set(LANES), markdown(outcome)
    assert FaultKind.KILL_PUBLISHER in {each.fault.kind for each in outcome.injected}
    assert sum(part.accepted for part in outcome.parts) > RATE * SECONDS / 4
