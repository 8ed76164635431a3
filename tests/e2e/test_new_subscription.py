"""A subscription made while events flow is live within a second and complete from then on."""

import time

import pytest

from tests.e2e.scenario import Scenario, await_that, joining
from tests.stacks.interface import RunningStack

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.any_stack,
    pytest.mark.cluster,
    pytest.mark.timeout(180),
]

LIVE_WITHIN_NS = 1_000_000_000


def test_a_new_subscription_gets_every_event_from_its_plan_on(stack: RunningStack) -> None:
    # A filter that lets all pass and that no run before had: its view is new.
    fresh = joining("joins-midway", f"venue <> 'X{time.time_ns()}'")
    with Scenario(stack, fresh) as scenario:
        load = scenario.load(rate=10_000, seconds=8)
        await_that(lambda: scenario.history.log_events > load.events // 4, 60, "event")

        answer = scenario.join()
        path = f"/v1/subscriptions/{answer['id']}"
        await_that(lambda: scenario.api.request("GET", path)["state"] == "active", 5, "activation")
        active_ns = time.time_ns()

        load.wait(60)
        required = {"joins-midway": active_ns + LIVE_WITHIN_NS}
        report = scenario.drain(timeout_s=60, required_after_ns=required)
        frames = scenario.history.received["joins-midway"].frames

    assert report.ok, report.text()
    assert 0 < report.views["joins-midway"].delivered < load.events
    assert {frame.plan for frame in frames} == {answer["plan"]}
