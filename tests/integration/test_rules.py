"""Routing rules change while events flow: a frame is routed by the rules of the plan it names.

And filters and sets with them, all of which a rollback puts back at once.
"""

from collections.abc import Iterator
from itertools import pairwise
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
        httpx.Client(base_url=f"{stack.control_plane_url}/v1", timeout=60) as client,
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


def bounded_desk(api: Api, names: list[str], chosen: str, rule: str) -> tuple[dict[str, Any], int]:
    """A subscription by a set, of a consumer by a rule; and the plan with all of it."""
    instruments = {"name": chosen, "instruments": names}
    api.http.post("/instrument-sets", json=instruments).raise_for_status()
    api.made.append(f"/instrument-sets/{chosen}")
    one = api.desk("one", VENUES, f"instrument IN SET '{chosen}'")
    member = {"workflow": f"workflow-{api.mark}"}
    api.http.patch(f"/consumers/{one['consumer']}", json=member).raise_for_status()
    body = {"name": rule, "effect": "deny", "when": "venue = 'XLON'"}
    selected = {"consumers": {"workflows": [member["workflow"]]}}
    made = api.http.post("/rules", json=body | selected).raise_for_status().json()
    api.made.append(f"/rules/{rule}")
    one = api.active(one)
    api.control.await_applied(made["plan"])
    return one, made["plan"]


def assert_two_whole_stretches(had: list[int], until: int) -> None:
    """By the old definitions before, and again: once and in order, with one hole between."""
    assert [after - before > 1 for before, after in pairwise(had)].count(True) == 1
    assert had == sorted(set(had))
    assert (had[0], had[-1]) == (1, until)


def test_events_flow_by_the_definitions_of_the_plan_that_is_rolled_back_to(
    stack: Any,
    api: Api,
) -> None:
    flow = Flow(stack.service_url)
    chosen, rule = f"set-{api.mark}", f"no-london-{api.mark}"
    other = api.desk("other", VENUES, f"{listed(flow.names)} AND kind = 'trade'")
    one, good = bounded_desk(api, flow.names, chosen, rule)
    first, untouched = Reading(one), Reading(other)
    between: list[Reading] = []

    def then(answer: httpx.Response) -> None:
        answer.raise_for_status()
        after = api.active(one)
        api.control.await_applied(after["plan"])
        between.append(Reading(after, from_plan=after["from_plan"]))
        flow.pass_by(50)

    with flow:
        flow.pass_by(50)
        then(api.http.patch(f"/rules/{rule}", json={"enabled": False}))
        wrong = {"filter": f"instrument IN SET '{chosen}' AND venue IN ('XNYS', 'XLON')"}
        then(api.http.patch(f"/subscriptions/{one['id']}", json=wrong))
        fewer = {"instruments": [name for name in flow.names if name != flow.names[1]]}
        answer = api.http.patch(f"/instrument-sets/{chosen}", json=fewer).raise_for_status()
        api.control.await_applied(answer.json()["plan"])
        flow.pass_by(50)
        path = f"/rollouts/{good}/rollback"
        dry = api.http.post(path, json={"dry_run": True}).raise_for_status()
        if_match = {"If-Match": dry.headers["ETag"]}
        told = api.http.post(path, json={}, headers=if_match).raise_for_status().json()
        back = api.active(one)
        api.control.await_applied(told["plan"])
        again = flow.frames
        flow.pass_by(50)
        eventually(lambda: first.seen.plans[-1] >= told["plan"])
    assert (dry.json()["put_back"], dry.json()["kept"]) == (told["put_back"], told["kept"])
    assert {each["kind"] for each in told["put_back"]} == {
        "subscription", "instrument_set", "rules",
    }  # fmt: skip
    assert told["kept"] == []
    assert told["plan"] > told["before"] > good
    assert api.http.get(f"/plans/{told['plan']}").json()["rolled_back_to"] == good
    # Nobody had the view meanwhile: it is the same topic, which is read on.
    assert (back["topic"], back["plan"], back["from_plan"]) == (
        one["topic"], told["plan"], one["from_plan"],
    )  # fmt: skip
    seen = first.end(XNAS=flow.frames, XNYS=flow.frames)
    bad = [reading.end() for reading in between]
    assert not any(good < plan < told["plan"] for plan in seen.plans)
    assert seen.sequences["XLON"] == []
    for venue in ("XNAS", "XNYS"):
        assert_two_whole_stretches(seen.sequences[venue], flow.frames)
        assert set(range(again + 1, flow.frames + 1)) <= set(seen.sequences[venue])
    # What went wrong was seen while it held.
    assert bad[-1].sequences["XLON"]
    assert bad[-1].sequences["XNAS"] == []
    assert bad[-1].sequences["XNYS"][-1] < again
    # Who has not changed keeps its topic, and has everything once.
    apart = untouched.end(**dict.fromkeys(VENUES, flow.frames))
    assert api.get(other)["topic"] == other["topic"]
    assert apart.sequences == dict.fromkeys(VENUES, flow.all)


def test_a_rule_gives_a_view_a_priority_and_takes_it_back_while_events_flow(
    stack: Any, api: Api
) -> None:
    flow = Flow(stack.service_url)
    one = api.desk("one", VENUES, f"{listed(flow.names)} AND kind = 'trade'")
    member = {"workflow": f"workflow-{api.mark}"}
    api.http.patch(f"/consumers/{one['consumer']}", json=member).raise_for_status()
    name = f"first-{api.mark}"
    body = {"name": name, "effect": "prioritize", "priority": 3, "when": "kind = 'trade'"}
    first = Reading(one)

    def then(answer: httpx.Response) -> dict[str, Any]:
        plan = answer.raise_for_status().json()["plan"]
        after = api.active(one)
        assert after["plan"] == plan
        api.control.await_applied(plan)
        return after

    with flow:
        flow.pass_by(50)
        selected = {"consumers": {"workflows": [member["workflow"]]}}
        high = then(api.http.post("/rules", json=body | selected))
        api.made.append(f"/rules/{name}")
        second = Reading(high, from_plan=high["from_plan"])
        # Nothing comes any more to what was left: what comes there later is from behind a hole.
        left = eventually(lambda: api.get(one)["draining"][0]["plan"], within_s=120)
        api.control.await_applied(left)
        flow.pass_by(50)
        back = then(api.http.patch(f"/rules/{name}", json={"enabled": False}))
        flow.pass_by(50)
    rest, seen = second.end(), first.end(**dict.fromkeys(VENUES, flow.frames))
    assert (high["delivery"]["priority"], high["asked_delivery"]) == (3, one["delivery"])
    assert high["topic"] != one["topic"]
    # Back, it reads on where it was.
    assert (back["topic"], back["delivery"]) == (one["topic"], one["delivery"])
    for venue in VENUES:
        between = rest.sequences[venue]
        assert between == list(range(between[0], between[-1] + 1))
        assert_two_whole_stretches(seen.sequences[venue], flow.frames)
        assert {*between, *seen.sequences[venue]} == set(flow.all)
