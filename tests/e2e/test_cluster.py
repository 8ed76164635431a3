"""Any one container of the cluster may die: nothing lost, doubled or out of order, whatever it is.

Runs with `--stack=cluster` only, which needs a Docker engine and half an hour:

    python3 scripts/dev.py test --stack=cluster tests/e2e/test_cluster.py -rP

For each container that was killed a line of figures is printed, as docs/operations.md has them.
"""

import sys
import time

import pytest

from scripts.faults.flow import Flow
from scripts.verification.report import Report, Violation
from tests.e2e.scenario import Scenario
from tests.stacks.cluster import SERVICES, ClusterStack

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.cluster,
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]

RATE = 2_000
PARTITIONS = 4
DOWN_S = 30.0
"""How long it is away: longer than sessions with the metadata store and the workers' patience."""

AFTERWARDS_S = 10.0
LONGEST_S = 900.0


def never() -> bool:
    return False


@pytest.mark.parametrize("service", SERVICES)
def test_events_flow_without_any_one_container(stack: ClusterStack, service: str) -> None:
    """While it is away, and when it is back: every partition shows events published since."""
    flow = Flow(PARTITIONS)
    with Scenario(stack, flow=flow) as scenario:
        load = scenario.load(rate=RATE, seconds=LONGEST_S)
        flow.await_after(time.time_ns(), never)
        flow.longest_outage_s = 0.0

        killed_ns = time.time_ns()
        try:
            stack.kill(service)
            without_s = flow.await_after(killed_ns, never)
            time.sleep(max(0.0, DOWN_S - without_s))
            flow.await_after(time.time_ns(), never)
        finally:
            started_s = time.monotonic()
            stack.start(service)
        healthy_s = time.monotonic() - started_s
        flow.await_after(time.time_ns(), never)
        time.sleep(AFTERWARDS_S)
        flow.await_after(time.time_ns(), never)

        published = load.end(LONGEST_S)
        report = scenario.drain()
        row = figures(service, report, without_s, flow.longest_outage_s, healthy_s)
        sys.stdout.write(f"{row}\n")
        assert report.accepted == published
        assert report.ok, report.text()


def figures(service: str, report: Report, without: float, outage: float, healthy: float) -> str:
    """A row of the table in docs/operations.md."""
    found = [
        sum(stream.count(kind) for stream in report.streams)
        for kind in (Violation.MISSING, Violation.DUPLICATES, Violation.OUT_OF_ORDER)
    ]
    seconds = [f"{value:.1f}" for value in (without, outage, healthy)]
    return "| " + " | ".join([service, f"{report.accepted:,}", *map(str, found), *seconds]) + " |"
