"""A change that was tried on the real log delivers, once it is made, what the trial said."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pulsar
import pytest
from events import trades
from local_runtime import eventually

from marketdata.frames import read_frame
from marketdata.publisher import Publisher

pytestmark = pytest.mark.integration


@pytest.fixture
def http(stack: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{stack.control_plane_url}/v1", timeout=60) as client:
        yield client


def made(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = http.post(path, json=body)
    answer.raise_for_status()
    created: dict[str, Any] = answer.json()
    return created


def previewed(http: httpx.Client, **proposal: Any) -> dict[str, Any]:
    answer = http.post("/plans:preview", json={"minutes": 60, "max_events": 5_000_000, **proposal})
    assert answer.status_code == 200, answer.text
    [told] = answer.json()["subscriptions"]
    assert told["failed"] is None
    return dict(told)


def publish(service_url: str, names: list[str]) -> None:
    """Ten events of each instrument, at prices from 1 to 10."""
    with Publisher(service_url, name=f"p-{uuid.uuid4().hex}", max_delay_ms=None) as publisher:
        for price in range(1, 11):
            publisher.publish(trades(names, price=[price * 10**9] * len(names)))
            publisher.flush()


def await_sequenced(http: httpx.Client, names: list[str], count: int) -> None:
    """Wait until the log has so many events of each: partitions do not wait for each other."""

    def are_there() -> bool:
        told = (http.get(f"/ordering/instruments/{name}").json() for name in names)
        return all(one.get("sequence") == count for one in told)

    eventually(are_there)


def received(subscription: dict[str, Any], count: int) -> dict[tuple[str, int], dict[str, Any]]:
    client = pulsar.Client(subscription["service_url"])
    try:
        consumer = client.subscribe(subscription["topic"], subscription["subscription_name"])
        found: dict[tuple[str, int], dict[str, Any]] = {}
        while len(found) < count:
            message = consumer.receive(timeout_millis=60_000)
            if message.properties()["count"] == "0":
                continue
            for event in read_frame(message.data()).to_pylist():
                found[event["instrument"], event["sequence"]] = event
        return found
    finally:
        client.close()


def test_what_was_told_is_what_comes_when_the_change_is_made(
    stack: Any, http: httpx.Client
) -> None:
    first, second, foreign = (uuid.uuid4().hex[:12].upper() for _ in range(3))
    names = [first, second, foreign]
    listed = f"set-{uuid.uuid4().hex[:8]}"
    consumer = made(http, "/consumers", name=f"preview-{uuid.uuid4().hex[:8]}")["id"]
    made(http, "/instrument-sets", name=listed, instruments=[first])
    asked = {"consumer": consumer, "filter": f"instrument IN SET '{listed}'"}
    held = made(http, "/subscriptions", name="held", **asked)
    publish(stack.service_url, names)
    await_sequenced(http, names, 10)
    assert set(received(held, 10)) == {(first, number) for number in range(1, 11)}

    # A set that holds something else.
    change = {"instrument_sets": {listed: {"add": [second], "remove": [first]}}}
    told = previewed(http, **change)
    assert told["subscription"] == held["id"]
    assert told["appear"]["top_instruments"] == [{"instrument": second, "events": 10}]
    assert told["vanish"]["top_instruments"] == [{"instrument": first, "events": 10}]
    http.patch(f"/instrument-sets/{listed}", json=change["instrument_sets"][listed])
    before = http.get("/plans").json()["items"][1]["number"]

    # A subscription with columns of its own, which begins now: the same events come once more.
    wanted = {
        "consumer": consumer,
        "name": "new",
        "filter": f"instrument IN SET '{listed}' AND price > 7",
        "transformation": {"rename": {"price": "px"}, "compute": {"twice": "price * 2"}},
    }
    told = previewed(http, create=[wanted], samples=10)
    assert told["appear"]["events"] == 3
    assert told["delivered_after"] == 3
    sampled = {sample["sequence"]: sample["after"] for sample in told["appear"]["samples"]}
    new = made(http, "/subscriptions", **wanted)
    assert told["view_after"] == new["view"]
    publish(stack.service_url, names)
    came = received(new, 3)
    assert set(came) == {(second, number + 10) for number in sampled}
    for (_, sequence), event in came.items():
        sample = sampled[sequence - 10]
        assert set(sample) == {"kind", *event}
        assert round(float(sample["px"]) * 10**9) == event["px"]

    differs = http.get(f"/plans/{before}/diff/{new['plan']}").json()
    assert new["id"] in [each["subscription"] for each in differs["subscriptions"]["added"]]
    assert new["view"] in [view["id"] for view in differs["views"]["added"]]
    [held_set] = [each for each in differs["sets"] if each["name"] == listed]
    assert (held_set["added"], held_set["removed"]) == ([second], [first])

    def is_applied() -> bool:
        rollout = http.get(f"/rollouts/{new['plan']}").json()
        if rollout["state"] == "superseded":
            return True
        states = {each["state"] for each in rollout["instances"]}
        return bool(rollout["state"] == "applied" and states == {"applied"})

    eventually(is_applied)
