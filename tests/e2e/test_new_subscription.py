"""A subscription made while events flow is complete from when its plan is applied."""

import time

import pytest

from tests.e2e.scenario import RECOVERY_S, Scenario, await_that, joining
from tests.stacks.interface import RunningStack

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.any_stack,
    pytest.mark.cluster,
    pytest.mark.timeout(900),
]

RATE = 10_000


def test_a_new_subscription_gets_every_event_from_its_plan_on(stack: RunningStack) -> None:
    # A filter that lets all pass and that no run before had: its view is new.
    fresh = joining("joins-midway", f"venue <> 'X{time.time_ns()}'")
    with Scenario(stack, fresh) as scenario:
        load = scenario.load(rate=RATE, seconds=600)
        await_that(lambda: scenario.history.log_events > RATE, RECOVERY_S, "event")

        answer = scenario.join()
        scenario.api.await_applied(answer["plan"])
        applied_ns = time.time_ns()

        behind = load.published + 2 * RATE
        await_that(lambda: load.published > behind, RECOVERY_S, "load")
        published = load.end(RECOVERY_S)
        required = {"joins-midway": applied_ns}
        report = scenario.drain(required_after_ns=required)
        frames = scenario.history.received["joins-midway"].frames

    assert report.ok, report.text()
    assert 0 < report.views["joins-midway"].delivered < published
    assert {frame.plan for frame in frames} == {answer["plan"]}
