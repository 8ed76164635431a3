"""Routing rules change while events flow: each frame is routed by the rules of the plan it names."""

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
    desk = api.desk("desk", ["XNAS", "XNYS", "XLON"], listed(flow.names))
    consumer = f"/consumers/{desk['consumer']}"
    api.http.patch(consumer, json={"workflow": workflow, "region": "us"}).raise_for_status()
    other = api.desk("other", ["XNAS", "XNYS", "XLON"], listed(flow.names))
    assert other["topic"] == desk["topic"]
    # What is delivered under which rules: the plan from which, and the venues.
    states = [(desk, {"XNAS", "XNYS", "XLON"})]
    readings = [Reading(desk)]
    untouched = Reading(other)

    def then(answer: httpx.Response, venues: set[str]) -> dict[str, Any]:
        told = dict(answer.raise_for_status().json())
        after = api.active(desk)
        assert after["plan"] == told["plan"]
        assert after["plan"] > states[-1][0]["plan"]
        # Only what is seen by every instance is a line that no frame behind it can cross.
        api.control.await_applied(after["plan"])
        states.append((after, venues))
        readings.append(Reading(after, from_plan=after["from_plan"]))
        flow.pass_by(50)
        return told

    deny, allow = f"deny-{api.mark}", f"allow-{api.mark}"
    mine = {"workflows": [workflow]}
    with flow:
        flow.pass_by(50)
        body = {"name": deny, "effect": "deny", "when": "venue IN ('XNAS', 'XLON')"}
        then(api.http.post("/rules", json=body | {"consumers": mine}), {"XNYS"})
        api.made.append(f"/rules/{deny}")
        body = {"name": allow, "effect": "allow", "when": "venue = 'XNAS'", "position": 1}
        then(api.http.post("/rules", json=body | {"consumers": mine}), {"XNAS", "XNYS"})
        api.made.append(f"/rules/{allow}")
        everything = [rule["name"] for rule in api.http.get("/rules").json()["items"]]
        order = [deny, allow, *(name for name in everything if name not in (deny, allow))]
        then(api.http.post("/rules:reorder", json={"rules": order}), {"XNYS"})
        then(api.http.patch(f"/rules/{deny}", json={"enabled": False}), set(VENUES))
    ends = [reading.end() for reading in readings[:-1]]
    ends.append(readings[-1].end(**dict.fromkeys(VENUES, flow.frames)))
    apart = untouched.end(**dict.fromkeys(VENUES, flow.frames))
    # Who is not selected keeps its topic, and has everything once.
    assert api.get(other)["topic"] == other["topic"]
    assert apart.sequences == {venue: flow.all for venue in VENUES}
    for (_, venues), seen in zip(states, ends, strict=True):
        for venue, sequences in seen.sequences.items():
            assert bool(sequences) == (venue in venues)
            # Within its rules nothing is missing, doubled or out of order.
            assert sequences == list(range(sequences[0], sequences[-1] + 1)) if sequences else True
    for (_, _), (following, _), seen in zip(states, states[1:], ends, strict=False):
        assert max(seen.plans) < following["plan"]
    # XNYS is never denied: over all changes it is there from the first to the last.
    had = {sequence for seen in ends for sequence in seen.sequences["XNYS"]}
    assert sorted(had) == flow.all
    explained = api.http.get(
        "/explain",
        params={"subscription": desk["id"], "instrument": flow.names[0], "sequence": flow.frames},
    ).raise_for_status()
    (first,) = explained.json()["rules"]
    assert (first["name"], first["effect"], first["matches"]) == (allow, "allow", True)
    assert first["parts"]["columns"] == {"venue": "XNAS"}
    preview = {"rules": {"change": {deny: {"enabled": True}}}, "minutes": 5}
    told = api.http.post("/plans:preview", json=preview, timeout=60).raise_for_status().json()
    (mine_only,) = told["subscriptions"]
    assert (mine_only["subscription"], mine_only["appear"]["events"]) == (desk["id"], 0)
    assert mine_only["vanish"]["events"] > 0
    eventually(lambda: api.get(desk)["state"] == "active")
