"""Why an event was or was not delivered, asked of the real stack after real deliveries."""

import time
import uuid
from collections.abc import Iterator
from itertools import islice, repeat
from typing import Any

import httpx
import pulsar
import pytest
from events import trades
from local_runtime import eventually

from marketdata.frames import read_frame
from marketdata.partitioning import partition_of
from marketdata.publisher import Publisher
from marketdata.topics import SEQUENCED_EVENTS, partition_topic

pytestmark = pytest.mark.integration

PARTITION = 1


@pytest.fixture
def http(stack: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{stack.control_plane_url}/v1", timeout=60) as client:
        yield client


def neighbours(count: int) -> list[str]:
    """Fresh instruments of one partition."""
    names = (uuid.uuid4().hex[:12].upper() for _ in repeat(None))
    return list(islice((name for name in names if partition_of(name, 4) == PARTITION), count))


def made(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = http.post(path, json=body)
    answer.raise_for_status()
    created: dict[str, Any] = answer.json()
    return created


def explained(http: httpx.Client, subscription: str, instrument: str, sequence: int) -> Any:
    query = {"subscription": subscription, "instrument": instrument, "sequence": sequence}
    answer = http.get("/explain", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def publish(service_url: str, names: list[str], frames: int) -> None:
    """One event of every instrument a frame; the price is that of the number, from 1."""
    with Publisher(service_url, name=f"e-{uuid.uuid4().hex}", max_delay_ms=None) as publisher:
        for number in range(1, frames + 1):
            publisher.publish(trades(names, price=[number * 10**9] * len(names)))
            publisher.flush()


def await_distributed(stack: Any, http: httpx.Client, instrument: str, sequence: int) -> None:
    """Until the distributor is done with it: what is under way when a view begins belongs to it."""
    topic = partition_topic(SEQUENCED_EVENTS, PARTITION).replace("://", "/")
    statistics = f"{stack.admin_url}/admin/v2/{topic}/stats"

    def is_sequenced() -> bool:
        told = http.get(f"/ordering/instruments/{instrument}").json()
        return bool(told.get("sequence") == sequence)

    def is_acknowledged() -> bool:
        found = httpx.get(statistics).raise_for_status().json()["subscriptions"]
        return bool(found["distributor"]["msgBacklog"] == 0)

    eventually(is_sequenced)
    eventually(is_acknowledged)


def received(subscription: dict[str, Any], count: int) -> dict[tuple[str, int], dict[str, Any]]:
    """What a subscription delivers: each event with the properties and the row that it came by."""
    client = pulsar.Client(subscription["service_url"])
    consumer = client.subscribe(subscription["topic"], subscription["subscription_name"])
    found = {}
    while len(found) < count:
        message = consumer.receive(timeout_millis=30_000)
        properties = message.properties()
        if properties["count"] == "0":
            continue
        place = message.message_id()
        for row, event in enumerate(read_frame(message.data()).to_pylist()):
            found[event["instrument"], event["sequence"]] = {
                "position": f"{place.ledger_id()}:{place.entry_id()}:0",
                "plan": int(properties["plan"]),
                "delivery_sequence": int(properties["delivery_sequence"]) + row,
            }
    client.close()
    return found


def test_what_was_and_was_not_delivered_is_explained(stack: Any, http: httpx.Client) -> None:
    inside, outside, early = neighbours(3)
    listed = f"set-{uuid.uuid4().hex[:8]}"
    consumer = made(http, "/consumers", name=f"explain-{listed}")["id"]
    made(http, "/instrument-sets", name=listed, instruments=[inside, early])
    publish(stack.service_url, [early], 3)
    await_distributed(stack, http, early, 3)
    condition = f"instrument IN SET '{listed}' AND price > 10"
    first = made(http, "/subscriptions", consumer=consumer, name="a", filter=condition)
    publish(stack.service_url, [inside, outside], 40)
    came = received(first, 30)
    assert set(came) == {(inside, number) for number in range(11, 41)}
    later = made(http, "/subscriptions", consumer=consumer, name="b", filter=condition)
    assert later["view"] == first["view"]

    for number in (11, 25, 40):
        said = explained(http, first["id"], inside, number)
        assert said["verdict"] == "delivered", said
        assert said["event"]["sequence"] == number
        assert said["event"]["partition"] == PARTITION
        assert said["filter"]["passes"] is True
        delivery = said["delivery"]
        assert {name: delivery[name] for name in came[inside, number]} == came[inside, number]
        assert said["plan"] >= delivery["plan"]
        assert said["sets"] == [
            {
                "name": listed,
                "version": 1,
                "plan": said["sets"][0]["plan"],
                "size": 2,
                "holds_instrument": True,
            }
        ]
        assert explained(http, later["id"], inside, number)["verdict"] == "before_start"

    cheap = explained(http, first["id"], inside, 10)
    assert (cheap["verdict"], cheap["filter"]["passes"]) == ("filtered", False)
    parts = {part["sql"]: part for part in cheap["filter"]["parts"]["parts"]}
    assert sorted(part["value"] for part in parts.values()) == [False, True]
    (failed,) = (part for part in parts.values() if not part["value"])
    assert failed["columns"] == {"price": "10.000000000"}
    foreign = explained(http, first["id"], outside, 20)
    assert foreign["verdict"] == "filtered"
    assert foreign["sets"][0]["holds_instrument"] is False

    # Not all that the subscription asks for are trades: a rule for those says nothing of its view.
    rule = {"name": listed, "effect": "prioritize", "priority": 3, "when": "kind = 'trade'"}
    made(http, "/rules", **rule, consumers={"names": [f"explain-{listed}"]})
    told = explained(http, first["id"], inside, 10)["priority"]
    http.delete(f"/rules/{listed}").raise_for_status()
    assert (told["priority"], [each["covers"] for each in told["rules"]]) == (1, ["some"])
    assert listed in told["reason"]
    assert explained(http, first["id"], early, 2)["verdict"] == "filtered"

    # The set changes afterwards: what was delivered stays delivered, and what was not, not.
    http.patch(
        f"/instrument-sets/{listed}", json={"add": [outside], "remove": [inside]}
    ).raise_for_status()
    gone = explained(http, first["id"], inside, 25)
    assert (gone["verdict"], gone["filter"]["passes"]) == ("delivered", False)
    assert "as they are now" in gone["reason"]
    new = explained(http, first["id"], outside, 20)
    assert (new["verdict"], new["filter"]["passes"]) == ("filtered", True)

    for asked, reason in (
        ({"sequence": 41}, "has not come to it yet"),
        ({"sequence": 1, "epoch": 2**32 - 1}, "has not come to it yet"),
        ({"sequence": 1, "epoch": 0}, "does not hold it any more, or never did"),
    ):
        query = {"subscription": first["id"], "instrument": inside, **asked}
        absent = http.get("/explain", params=query)
        assert absent.status_code == 404
        assert reason in absent.json()["detail"]


def test_what_came_before_the_view_is_told_as_before_the_start(
    stack: Any, http: httpx.Client
) -> None:
    (name,) = neighbours(1)
    consumer = made(http, "/consumers", name=f"explain-{uuid.uuid4().hex[:8]}")["id"]
    publish(stack.service_url, [name], 3)
    await_distributed(stack, http, name, 3)
    condition = f"instrument = '{name}'"
    late = made(http, "/subscriptions", consumer=consumer, name="late", filter=condition)
    assert explained(http, late["id"], name, 2)["verdict"] == "before_start"
    publish(stack.service_url, [name], 1)
    received(late, 1)
    assert explained(http, late["id"], name, 2)["verdict"] == "before_start"
    assert explained(http, late["id"], name, 4)["verdict"] == "delivered"
    http.delete(f"/subscriptions/{late['id']}").raise_for_status()
    publish(stack.service_url, [name], 1)
    while True:
        query = {"subscription": late["id"], "instrument": name, "sequence": 5}
        answer = http.get("/explain", params=query)
        if answer.status_code == 200:
            break
        assert "has not come to it yet" in answer.text
        time.sleep(0.2)
    assert answer.json()["verdict"] == "after_end"
    assert answer.json()["plan"] is None
