"""Routing rules change while events flow: a frame is routed by the rules of the plan it names."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from local_runtime import eventually
from test_entitlements import VENUES, Api, Flow, Reading, listed

from scripts.verification.control_api import ControlApi

pytestmark = pytest.mark.integration


@pytest.fixture
def api(stack: Any) -> Iterator[Api]:
    with (
        httpx.Client(base_url=f"{stack.control_plane_url}/v1", timeout=20) as client,
        ControlApi(stack.control_plane_url) as control,
    ):
        api = Api(client, control)
        yield api
        for path in reversed(api.made):
            client.delete(path).raise_for_status()


def test_rules_are_made_disabled_and_ordered_while_events_flow(stack: Any, api: Api) -> None:
    flow = Flow(stack.service_url)
    workflow = f"workflow-{api.mark}"
    desk = api.desk("desk", VENUES, listed(flow.names))
    member = {"workflow": workflow, "region": "us"}
    api.http.patch(f"/consumers/{desk['consumer']}", json=member).raise_for_status()
    other = api.desk("other", VENUES, f"{listed(flow.names)} AND kind = 'trade'")
    untouched = Reading(other)
    # One after the other: what the subscription is, what it reads, and what it may see then.
    states, readings, venues, ends = [desk], [Reading(desk)], [set(VENUES)], []

    def then(answer: httpx.Response, allowed: set[str]) -> None:
        told = answer.raise_for_status().json()
        after = api.active(desk)
        assert after["plan"] == told["plan"] > states[-1]["plan"]
        # Behind what every instance has applied there is no frame of an earlier plan.
        api.control.await_applied(after["plan"])
        reading = Reading(after, from_plan=after["from_plan"])
        eventually(lambda: reading.seen.sequences["XNYS"])
        first = reading.seen.sequences["XNYS"][0]
        ends.append(readings[-1].end(XNYS=first - 1))
        states.append(after)
        readings.append(reading)
        venues.append(allowed)
        flow.pass_by(50)

    deny, allow = (
        {"name": f"{effect}-{api.mark}", "effect": effect, "consumers": {"workflows": [workflow]}}
        for effect in ("deny", "allow")
    )
    with flow:
        flow.pass_by(50)
        body = deny | {"when": "venue IN ('XNAS', 'XLON')"}
        then(api.http.post("/rules", json=body), {"XNYS"})
        api.made.append(f"/rules/{deny['name']}")
        body = allow | {"when": "venue = 'XNAS'", "position": 1}
        then(api.http.post("/rules", json=body), {"XNAS", "XNYS"})
        api.made.append(f"/rules/{allow['name']}")
        order = {"rules": [deny["name"], allow["name"]]}
        then(api.http.post("/rules:reorder", json=order), {"XNYS"})
        body = {"enabled": False}
        then(api.http.patch(f"/rules/{deny['name']}", json=body), set(VENUES))
    ends.append(readings[-1].end(**dict.fromkeys(VENUES, flow.frames)))
    # Who is not selected keeps its topic, and has everything once.
    apart = untouched.end(**dict.fromkeys(VENUES, flow.frames))
    assert api.get(other)["topic"] == other["topic"]
    assert apart.sequences == dict.fromkeys(VENUES, flow.all)
    for allowed, seen in zip(venues, ends, strict=True):
        assert {venue for venue, had in seen.sequences.items() if had} == allowed
        for had in filter(None, seen.sequences.values()):
            # Within its rules nothing is missing, doubled or out of order.
            assert had == list(range(had[0], had[-1] + 1))
    for following, seen in zip(states[1:], ends, strict=False):
        assert max(seen.plans) < following["plan"]
    # XNYS is never denied: over all changes nothing of it is missing.
    assert {sequence for seen in ends for sequence in seen.sequences["XNYS"]} == set(flow.all)
