"""Kill -9 in the middle of a run at 50,000 events/s: nothing lost, doubled or out of order.

Publishers, functions and consumers recover by themselves; servers are started again as an
operator's supervisor would.
"""

import time

import httpx
import pytest

from marketdata.connection import Access
from scripts.access import authorization
from scripts.demonstration.subscriptions import single_event_subscriptions
from tests.e2e.scenario import EVERYTHING, RECOVERY_S, Scenario, await_ready, await_that, readiness
from tests.stacks.interface import RunningStack

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.any_stack,
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


def kill_functions(stack: RunningStack, *functions: str) -> list[int]:
    """Kill -9 every process of the functions; their pids."""
    killed = [pid for function in functions for pid in stack.function_pids(function)]
    assert len(killed) >= len(functions), "a function does not run"
    for pid in killed:
        stack.kill_instance(pid)
    return killed


@pytest.mark.parametrize(
    "functions", [("sequencer",), ("distributor",), ("sequencer", "distributor")], ids="+".join
)
def test_nothing_is_lost_or_doubled_when_functions_are_killed(
    stack: RunningStack, functions: tuple[str, ...]
) -> None:
    killed: list[int] = []
    with Scenario(stack) as scenario:
        report = scenario.survive(lambda: killed.extend(kill_functions(stack, *functions)))

        assert report.ok, report.text()
    alive = {pid for function in functions for pid in stack.function_pids(function)}
    assert alive, "the functions run again"
    assert not alive & set(killed)


def test_single_events_come_once_when_the_distributor_is_killed(stack: RunningStack) -> None:
    """Views with one event a message, read as a plain client does, Avro by the topic's schema."""
    views = single_event_subscriptions()
    with Scenario(stack, subscribed=[EVERYTHING, *views]) as scenario:
        report = scenario.survive(lambda: kill_functions(stack, "distributor"))

        assert report.ok, report.text()
        assert min(scenario.history.expected_events[view.name] for view in views) > 1000


def test_another_instance_takes_over_from_one_that_is_killed(stack: RunningStack) -> None:
    def kill_one_each() -> None:
        for function in ("sequencer", "distributor"):
            stack.kill_instance(stack.function_pids(function)[0])

    with Scenario(stack) as scenario:
        report = scenario.survive(kill_one_each)

        assert report.ok, report.text()


def test_nothing_is_lost_or_doubled_when_the_broker_is_killed(stack: RunningStack) -> None:
    """The control plane says so, answers 503, and recovers by itself."""

    def kill_broker() -> None:
        stack.kill("pulsar")
        try:
            await_missing(stack, "broker_client")
            refused = httpx.post(
                f"{stack.control_plane_url}/v1/subscriptions",
                json={"consumer": scenario.consumer, "name": "during-the-outage"},
                headers=authorization(),
                verify=Access.from_environment().tls(),
                timeout=60,
            )
            assert_unavailable(refused)
        finally:
            stack.start("pulsar")

    with Scenario(stack) as scenario:
        report = scenario.survive(kill_broker)

        assert report.ok, report.text()
        await_ready(stack)


def test_events_flow_on_while_postgresql_is_killed(stack: RunningStack) -> None:
    """The control plane says so, answers 503, and recovers by itself."""

    def kill_database() -> None:
        stack.kill("postgresql")
        try:
            await_missing(stack, "database")
            before = scenario.history.received["everything"].events
            refused = httpx.post(
                f"{stack.control_plane_url}/v1/consumers",
                json={"name": "too-late"},
                headers=authorization(),
                verify=Access.from_environment().tls(),
                timeout=60,
            )
            assert_unavailable(refused)
            await_that(
                lambda: scenario.history.received["everything"].events > before,
                RECOVERY_S,
                "event without PostgreSQL",
            )
        finally:
            stack.start("postgresql")

    with Scenario(stack) as scenario:
        report = scenario.survive(kill_database)

        assert report.ok, report.text()
        await_ready(stack)
        name = f"{scenario.run}-after"
        assert scenario.api.register(name)


def test_events_flow_on_while_the_control_plane_is_killed(stack: RunningStack) -> None:
    """It comes back with what it knew: the same plan, the same subscriptions."""

    def kill_control_plane() -> None:
        stack.kill("control_plane")
        before = scenario.history.received["everything"].events
        try:
            await_that(
                lambda: scenario.history.received["everything"].events > before,
                RECOVERY_S,
                "event without the control plane",
            )
        finally:
            stack.start("control_plane")

    with Scenario(stack) as scenario:
        plan = scenario.api.request("GET", "/v1/plans/current")["number"]
        report = scenario.survive(kill_control_plane)

        assert report.ok, report.text()
        await_ready(stack)
        assert scenario.api.request("GET", "/v1/plans/current")["number"] == plan


def await_missing(stack: RunningStack, dependency: str) -> None:
    """Wait until `/readyz` answers 503 with Retry-After and names the dependency."""
    deadline = time.monotonic() + RECOVERY_S
    while True:
        answer = readiness(stack)
        if answer.status_code == 503 and dependency in answer.json()["missing"]:
            assert int(answer.headers["Retry-After"]) > 0
            return
        assert time.monotonic() < deadline, f"/readyz does not miss {dependency}: {answer.text}"
        time.sleep(0.2)


def assert_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["status"] == 503
