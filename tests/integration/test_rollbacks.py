"""A filter, a set and a rule change while events flow; a rollback puts all of them back at once."""

from itertools import pairwise
from typing import Any

import httpx
import pytest
from local_runtime import eventually
from test_entitlements import VENUES, Api, Flow, Reading, listed
from test_rules import api  # noqa: F401 - a fixture

pytestmark = pytest.mark.integration


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
    api: Api,  # noqa: F811
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
