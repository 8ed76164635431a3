"""Subscriptions are changed while events flow: nothing is lost but what they give up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pulsar
import pytest
from local_runtime import eventually
from test_entitlements import Api, Flow, Reading, Seen, api, listed

from marketdata.frames import read_frame
from marketdata.topics import partition_topic

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


def test_who_falls_behind_is_conflated_until_it_has_caught_up(stack: Any, api: Api) -> None:
    """Every event is delivered, or told as skipped, on the topics in the order of their plans."""
    flow = Flow(stack.service_url)
    one = api.desk("one", ["XNAS", "XNYS"], listed(flow.names))
    path = f"/subscriptions/{one['id']}"
    set_policy(api, path, {"policy": "conflate", "messages": 20, "every_ms": 500})
    with flow:  # and nobody reads
        eventually(lambda: api.get(one)["conflated_since"])
        during = api.active(one)
        api.control.await_applied(during["plan"])
        flow.pass_by(100)
    assert during["delivery"]["conflate"] == {"every_ms": 500}
    assert during["asked_delivery"] == one["delivery"]
    assert [left["topic"] for left in during["draining"]] == [one["topic"]]
    old, new = Reading(one), Reading(during, from_plan=during["from_plan"])
    # The old topic goes on until its lane has come to where the new one begins.
    (left,) = eventually(lambda: (d := api.get(one)["draining"]) and d[0]["plan"] and d)
    until = dict.fromkeys(("XNAS", "XNYS"), flow.frames)
    eventually(lambda: ends(new) == until and begins(new, flow) <= ends(old)["XNYS"] + 1)
    # Before it comes back to that topic, where this one would read on.
    start = begins(new, flow) - 1
    before = old.end(XNAS=start, XNYS=start)
    let_time_pass(stack, one["id"])
    eventually(lambda: not api.get(one)["conflated_since"])
    after = api.active(one)
    back = Reading(after, from_plan=after["from_plan"])
    api.control.await_applied(after["plan"])
    with Flow(stack.service_url, flow.names) as again:
        again.pass_by(100)
    assert (after["topic"], after["delivery"]) == (one["topic"], one["delivery"])
    total = flow.frames + again.frames
    last = back.end(XNAS=total, XNYS=total)
    first = last.sequences["XNYS"][0]
    rest = new.end(XNAS=first - 1, XNYS=first - 1)
    # Before: all, up to where it goes on. After: all again, from there on.
    every = list(range(1, total + 1))
    for number, venue in enumerate(until):
        seen = before.sequences[venue]
        assert seen == every[: len(seen)]
        ranges = conflated_ranges(rest, venue, flow.names[number])
        assert ranges[0][0] <= len(seen) + 1
        assert [begin for begin, _ in ranges[1:]] == [end + 1 for _, end in ranges[:-1]]
        assert ranges[-1][1] >= first - 1
        assert last.sequences[venue] == every[first - 1 :]
    assert max(before.plans) < left["plan"]
    assert len(rest.sequences["XNAS"]) < flow.frames - begins(new, flow)
    entries = api.http.get(f"{path}/history").json()["items"]
    told = [entry for entry in reversed(entries) if "conflated" in entry["type"]]
    assert [entry["type"].partition(".")[2] for entry in told] == ["conflated", "unconflated"]
    assert told[0]["data"]["beyond"]["messages"] > 20


def ends(reading: Reading) -> dict[str, int]:
    sequences = reading.seen.sequences
    return {venue: max(sequences[venue], default=0) for venue in ("XNAS", "XNYS")}


def begins(reading: Reading, flow: Flow) -> int:
    """The first sequence that a conflated topic accounts for."""
    return min(
        conflated_ranges(reading.seen, venue, flow.names[number])[0][0]
        for number, venue in enumerate(("XNAS", "XNYS"))
    )


def conflated_ranges(seen: Seen, venue: str, instrument: str) -> list[tuple[int, int]]:
    """What was delivered of an instrument and what was told as skipped, in order."""
    return sorted([*((n, n) for n in seen.sequences[venue]), *seen.skipped[instrument]])


def let_time_pass(stack: Any, subscription: str) -> None:
    """As if what may still be read could be no longer, and it had been conflated for long."""
    statements = (
        "UPDATE subscription_moves SET drain_until = now() WHERE subscription_id = %s",
        "UPDATE subscriptions SET conflated_since = '2000-01-01Z' WHERE id = %s",
    )
    with psycopg.connect(stack.database_url) as connection:
        for statement in statements:
            connection.execute(statement, [subscription])


def test_reading_begins_at_a_time_or_at_a_sequence(stack: Any, api: Api) -> None:
    """Two who join a view while it is written get it from the message on that they name."""
    flow = Flow(stack.service_url)
    sql, venues = listed(flow.names), ["XNAS", "XNYS"]
    one = api.desk("one", venues, sql)
    with flow:
        flow.pass_by(100)
        eventually(lambda: len(written(one)) > 20)
        stored = written(one)
        chosen = stored[len(stored) // 2]
        at = datetime.fromtimestamp(chosen.publish_timestamp() / 1e3, UTC)
        since = next(each for each in stored if each.publish_timestamp() >= at.timestamp() * 1e3)
        # Its second event: the message that holds it is the first one that comes.
        count = {
            "partition": 0,
            "delivery_sequence": int(chosen.properties()["delivery_sequence"]) + 1,
            "delivery_epoch": int(chosen.properties()["delivery_epoch"]),
        }
        two = api.desk("two", venues, sql, start={"time": at.isoformat()})
        three = api.desk("three", venues, sql, start={"sequences": [count]})
        readings = [Reading(each) for each in (two, three)]
        flow.pass_by(100)
    assert {each["topic"] for each in (two, three)} == {one["topic"]}
    assert {each["begins"][0]["at"] for each in (two, three)} == {"asked"}
    for reading, first in zip(readings, (since, chosen), strict=True):
        begun = read_frame(first.data()).to_pylist()[0]["sequence"]
        assert begun > 1
        seen = reading.end(XNAS=flow.frames, XNYS=flow.frames).sequences
        assert seen == {"XNAS": flow.all[begun - 1 :], "XNYS": flow.all[begun - 1 :], "XLON": []}
    late = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    ahead = {**count, "delivery_sequence": 10**9}
    for refused in ({"time": late}, {"sequences": [ahead]}, {"sequences": [ahead], "time": late}):
        body = {"consumer": one["consumer"], "name": "x", "filter": sql, "start": refused}
        answer = api.http.post("/subscriptions", json=body)
        assert answer.status_code == 422, answer.text


def test_who_is_drained_reads_to_its_end_and_is_closed(stack: Any, api: Api) -> None:
    """One on a topic of its own, one on a topic that goes on for somebody else."""
    flow = Flow(stack.service_url)
    sql = listed(flow.names)
    shared, other = (api.desk(name, ["XNAS", "XNYS"], sql) for name in ("shared", "other"))
    own, brief = (api.desk(name, [venue], sql) for name, venue in (("own", "XNYS"), ("b", "XLON")))
    with flow:
        flow.pass_by(100)
        for each, seconds in ((shared, 300), (own, 300), (brief, 1)):
            path = f"/subscriptions/{each['id']}"
            api.http.delete(path, params={"drain": seconds}).raise_for_status()
        after = [api.get(each) for each in (shared, own)]
        (ends, own_ends) = (each["draining"][0]["plan"] for each in after)
        api.control.await_applied(max(ends, own_ends))
        # Only now it begins to read.
        readings = [Reading(each) for each in after]
        flow.pass_by(100)
    assert [(each["state"], each["draining"][0]["topic"]) for each in after] == [
        ("draining", shared["topic"]),
        ("draining", own["topic"]),
    ]
    goes_on = readings[0].end(XNAS=flow.frames, XNYS=flow.frames)
    health = f"/subscriptions/{own['id']}/health"
    eventually(lambda: api.http.get(health).json()["backlog_messages"] == 0)
    ended = readings[1].end()
    # All that was routed before the plan, and nothing behind it.
    seen = ended.sequences["XNYS"]
    assert seen == flow.all[: len(seen)]
    assert 0 < len(seen) < flow.frames
    assert max(ended.plans) < own_ends
    # Where others read on, the plan says what is for whom.
    assert goes_on.sequences == {"XNAS": flow.all, "XNYS": flow.all, "XLON": []}
    was = [plan < ends for plan in goes_on.plans]
    assert was == sorted(was, reverse=True)
    assert 0 < sum(was) < len(was)
    for each in (shared, own):
        api.http.delete(f"/subscriptions/{each['id']}").raise_for_status()
        assert api.get(each)["state"] == "closed"
    eventually(lambda: api.get(brief)["state"] == "closed")
    again = pulsar.Client(own["service_url"], operation_timeout_seconds=5)
    for each in (shared, brief):
        with pytest.raises(pulsar.PulsarException):
            again.subscribe(each["topic"], each["subscription_name"])
    again.close()
    assert api.get(other)["state"] == "active"


def written(subscription: dict[str, Any]) -> list[pulsar.Message]:
    """The messages with events that the first partition of a view's topic holds."""
    client = pulsar.Client(subscription["service_url"])
    topic = partition_topic(subscription["topic"], 0)
    reader = client.create_reader(topic, pulsar.MessageId.earliest)
    found = []
    while reader.has_message_available():
        found.append(reader.read_next(60_000))
    client.close()
    return [message for message in found if message.properties()["count"] != "0"]


def set_policy(api: Api, path: str, policy: dict[str, Any]) -> None:
    api.http.patch(path, json={"on_backlog": policy}).raise_for_status()


def dropped(api: Api, path: str) -> list[dict[str, Any]]:
    entries = api.http.get(f"{path}/history").json()["items"]
    return [entry for entry in entries if entry["type"] == "subscription.backlog_dropped"]


def position(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(":")))
