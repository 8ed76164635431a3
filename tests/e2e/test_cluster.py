"""Any one container of the cluster may die, or be replaced: nothing lost, doubled or out of order.

Runs with `--stack=cluster` only, which needs a Docker engine and half an hour:

    python3 scripts/dev.py test --stack=cluster tests/e2e/test_cluster.py -rP

For each container that was killed a line of figures is printed, as docs/operations.md has them.
"""

import sys
import time
from collections.abc import Sequence

import pytest

from scripts.faults.flow import Flow
from scripts.verification.load import Load
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

PULSAR = ("bookie", "bookie-2", "broker", "broker-2", "worker", "worker-2")
BEFORE_PULSAR = ("control-plane", "control-plane-2", "proxy")
"""With the job `deploy` between the two, the order of an upgrade."""

AFTERWARDS_S = 10.0
LONGEST_S = 1800.0


def never() -> bool:
    return False


@pytest.mark.parametrize("service", SERVICES)
def test_events_flow_without_any_one_container(stack: ClusterStack, service: str) -> None:
    """While it is away, and when it is back: every partition shows events published since."""
    flow = Flow(PARTITIONS)
    with Scenario(stack, flow=flow) as scenario:
        load = flowing(scenario, flow)
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

        report = judged(scenario, load)
        seconds = (without_s, flow.longest_outage_s, healthy_s)
        sys.stdout.write(f"{row(service, report, seconds)}\n")
        assert report.ok, report.text()


def test_events_flow_while_every_container_is_replaced(stack: ClusterStack) -> None:
    """A rolling upgrade, in the order and with the commands of docs/operations.md."""
    flow = Flow(PARTITIONS)
    with Scenario(stack, flow=flow) as scenario:
        load = flowing(scenario, flow)
        stack.build(version="replaced")
        outages = {}

        def replace(service: str) -> None:
            flow.longest_outage_s = 0.0
            before = stack.container(service)
            stack.replace(service)
            flow.await_after(time.time_ns(), never)
            assert stack.container(service) != before
            outages[service] = flow.longest_outage_s

        for service in PULSAR:
            replace(service)
        stack.run("run", "--rm", "--no-deps", "deploy")
        for service in BEFORE_PULSAR:
            replace(service)

        report = judged(scenario, load)
        for service, outage_s in outages.items():
            sys.stdout.write(f"| {service} | {outage_s:.1f} |\n")
        sys.stdout.write(f"{row('all', report, (max(outages.values()),))}\n")
        assert report.ok, report.text()


def flowing(scenario: Scenario, flow: Flow) -> Load:
    """A load whose events arrive in every partition."""
    load = scenario.load(rate=RATE, seconds=LONGEST_S)
    flow.await_after(time.time_ns(), never)
    flow.longest_outage_s = 0.0
    return load


def judged(scenario: Scenario, load: Load) -> Report:
    """End the load, and what the checker says of all that was published."""
    published = load.end(LONGEST_S)
    report = scenario.drain()
    assert report.accepted == published
    return report


def row(what: str, report: Report, seconds: Sequence[float]) -> str:
    """A row of a table in docs/operations.md."""
    found = [
        sum(stream.count(kind) for stream in report.streams)
        for kind in (Violation.MISSING, Violation.DUPLICATES, Violation.OUT_OF_ORDER)
    ]
    figures = [what, f"{report.accepted:,}", *map(str, found), *(f"{each:.1f}" for each in seconds)]
    return "| " + " | ".join(figures) + " |"
