"""Subscriptions are changed while events flow: nothing is lost but what they give up."""

from __future__ import annotations

from typing import Any

import pytest
from local_runtime import eventually
from test_entitlements import Api, Flow, Reading, api, listed

pytestmark = pytest.mark.integration

__all__ = ["api"]


def test_a_change_divides_what_came_before_from_what_comes_after(stack: Any, api: Api) -> None:
    """One of two that share a topic asks for less: at one plan, and without a loss."""
    flow = Flow(stack.service_url)
    sql = listed(flow.names)
    one, two = (api.desk(name, ["XNAS", "XNYS"], sql) for name in ("one", "two"))
    assert one["topic"] == two["topic"]
    old, other = Reading(one), Reading(two)
    with flow:
        flow.pass_by(100)
        path = f"/subscriptions/{one['id']}"
        change = {"filter": f"{sql} AND venue = 'XNYS'"}
        asked = api.http.patch(path, json=change, headers={"If-Match": '"0"'})
        assert asked.status_code == 412
        api.http.patch(path, json=change).raise_for_status()
        after = api.active(one)
        new = Reading(after, from_plan=after["from_plan"])
        api.control.await_applied(after["plan"])
        flow.pass_by(100)
    rest = new.end(XNYS=flow.frames)
    first = rest.sequences["XNYS"][0]
    before = old.end(XNAS=flow.frames, XNYS=flow.frames)
    untouched = other.end(XNAS=flow.frames, XNYS=flow.frames)
    (left,) = after["draining"]
    assert (left["topic"], left["from_plan"], left["plan"]) == (one["topic"], 0, after["plan"])
    # The shared topic is read out and on: its plans say what of it was before the change.
    assert (
        before.sequences == untouched.sequences == {"XNAS": flow.all, "XNYS": flow.all, "XLON": []}
    )
    was = [plan < left["plan"] for plan in before.plans]
    until = sum(was)
    assert was == [True] * until + [False] * (len(was) - until)
    assert 0 < until < len(was)  # frames may have been merged
    # What comes after is whole, too, and begins not behind it.
    assert rest.sequences == {"XNAS": [], "XNYS": flow.all[first - 1 :], "XLON": []}
    assert first > 1
    (moved,) = (
        entry
        for entry in api.http.get(f"{path}/history").json()["items"]
        if entry["type"] == "subscription.moved"
    )
    assert moved["plan"] == after["plan"]
    assert moved["data"]["before"] == {"filter": sql}
    assert moved["data"]["after"] == change


def test_the_oldest_of_a_backlog_is_dropped_and_told(stack: Any, api: Api) -> None:
    flow = Flow(stack.service_url)
    one = api.desk("one", ["XNAS", "XNYS"], listed(flow.names))
    path = f"/subscriptions/{one['id']}"
    with flow:
        flow.pass_by(100)
        eventually(lambda: api.http.get(f"{path}/health").json()["backlog_messages"] > 1)
        set_policy(api, path, {"policy": "drop_oldest", "messages": 1})
        eventually(lambda: dropped(api, path))
        set_policy(api, path, {"policy": "hold"})
        reading = Reading(api.get(one))
        flow.pass_by(100)
    seen = reading.end(XNAS=flow.frames).sequences["XNAS"]
    # The beginning did not come, and the end did.
    assert seen == sorted(set(seen))
    assert seen[0] > 1
    assert seen[-1] == flow.frames
    for entry in (entry["data"] for entry in dropped(api, path)):
        parts = entry["partitions"]
        assert entry["beyond"]["messages"] > 1
        assert sum(part["messages"] for part in parts) == entry["messages"]
        assert all(position(part["from"]) < position(part["to"]) for part in parts)
    assert "were dropped at" in api.http.get(f"{path}/health").json()["reason"]


def set_policy(api: Api, path: str, policy: dict[str, Any]) -> None:
    api.http.patch(path, json={"on_backlog": policy}).raise_for_status()


def dropped(api: Api, path: str) -> list[dict[str, Any]]:
    entries = api.http.get(f"{path}/history").json()["items"]
    return [entry for entry in entries if entry["type"] == "subscription.backlog_dropped"]


def position(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(":")))
