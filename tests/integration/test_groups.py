"""Members of one subscription come and die; the API tells who reads what, and what has moved."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from local_runtime import eventually
from test_entitlements import VENUES, Api, api

pytestmark = pytest.mark.integration

__all__ = ["api"]

MEMBER = """
import sys

import pulsar

url, topic, subscription, name = sys.argv[1:]
consumer = pulsar.Client(url).subscribe(
    topic, subscription, consumer_type=pulsar.ConsumerType.Failover, consumer_name=name
)
sys.stdin.read()
"""


@contextmanager
def member(subscription: dict[str, Any], name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A client in a process of its own, which can be killed."""
    place = [subscription[key] for key in ("service_url", "topic", "subscription_name")]
    process = subprocess.Popen(
        [sys.executable, "-c", MEMBER, *place, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def reads(api: Api, subscription: dict[str, Any]) -> dict[str, list[int]]:
    """What each member reads now; nothing while a partition is read by nobody."""
    group = api.http.get(f"/groups/{subscription['id']}").raise_for_status().json()
    if group["unread"] or not group["partitions"]:
        return {}
    return {each["name"]: each["partitions"] for each in group["members"]}


def listed(api: Api, subscription: dict[str, Any]) -> list[str]:
    """The members as the control plane has noted them."""
    found = api.http.get("/groups", params={"consumer": subscription["consumer"]}).json()["items"]
    return [each["name"] for group in found for each in group["members"]]


def test_partitions_of_a_member_that_dies_go_to_the_others(api: Api) -> None:
    subscription = api.desk("group", VENUES, "instrument = 'NOBODY'")
    with ExitStack() as clients:
        clients.enter_context(member(subscription, "one"))
        dying = clients.enter_context(member(subscription, "two"))
        both = eventually(
            lambda: (
                (found := reads(api, subscription))
                and set(found) == {"one", "two"}
                and all(found.values())
                and found
            ),
        )
        eventually(lambda: set(listed(api, subscription)) == {"one", "two"})
        dying.kill()
        every = sorted(both["one"] + both["two"])
        eventually(lambda: reads(api, subscription) == {"one": every})
        eventually(lambda: listed(api, subscription) == ["one"])
        gone = api.http.get(f"/groups/{subscription['id']}").json()["departed"]
        assert [each["name"] for each in gone] == ["two"]
        told = until_all_are_read_by(api, subscription, dict.fromkeys(every, "one"))
    assert (sorted(told["group.joined"]), told["group.left"]) == (["one", "two"], ["two"])


def until_all_are_read_by(
    api: Api, subscription: dict[str, Any], wanted: dict[int, str]
) -> dict[str, list[str]]:
    """Members that joined and left, when what events say leads from nobody to who reads now."""
    told: dict[str, list[str]] = {"group.joined": [], "group.left": []}
    owner: dict[int, str] = {}
    params = {"subscription": subscription["id"]}
    with api.http.stream("GET", "/events", params=params, headers={"Last-Event-ID": "0"}) as lines:
        for line in lines.iter_lines():
            if not line.startswith("data: "):
                continue
            event = json.loads(line.removeprefix("data: "))
            if event["type"] in told:
                told[event["type"]] += event["data"]["members"]
            if event["type"] == "group.rebalanced":
                for moved in event["data"]["moved"]:
                    assert owner.get(moved["partition"]) == moved["from"]
                    owner[moved["partition"]] = moved["to"]
                if told["group.left"] and owner == wanted:
                    return told
    raise AssertionError(f"the stream ended early: {told}, {owner}")
