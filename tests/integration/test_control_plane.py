"""The control plane with a real broker, real functions and a real database."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pulsar
import pytest
from events import trades
from local_runtime import eventually

from marketdata.plans import Plan, decode_plan
from marketdata.publisher import Publisher
from marketdata.topics import PLANS
from scripts.access import authenticate

pytestmark = pytest.mark.integration


class Api:
    """The control plane's API and the broker's admin API, for one consumer of this test."""

    def __init__(self, stack: Any) -> None:
        self.http = httpx.Client(base_url=stack.control_plane_url, timeout=60, auth=authenticate)
        self.admin = httpx.Client(base_url=f"{stack.admin_url}/admin/v2", timeout=60)
        self.service_url: str = stack.service_url
        self.consumer = f"test-{uuid.uuid4().hex[:12]}"
        self.http.post("/v1/consumers", json={"name": self.consumer}).raise_for_status()

    def subscribe(self, name: str, **members: Any) -> dict[str, Any]:
        """A new subscription, active: where the broker is slow the answer comes before it is."""
        body = {"consumer": self.consumer, "name": name, **members}
        answer = self.http.post("/v1/subscriptions", json=body)
        assert answer.status_code == 201, answer.text
        path = f"/v1/subscriptions/{answer.json()['id']}"
        eventually(lambda: self.get(path)["state"] == "active")
        return dict(self.get(path))

    def get(self, path: str) -> Any:
        answer = self.http.get(path)
        answer.raise_for_status()
        return answer.json()

    def cursors(self, topic: str) -> set[str] | None:
        """The Pulsar subscriptions of a topic; None when there is no such topic."""
        path = "/persistent/" + topic.split("://", 1)[1]
        if self.admin.get(f"{path}/partitions").json().get("partitions", 0) == 0:
            return None
        return set(self.admin.get(f"{path}/subscriptions").json())

    def close(self) -> None:
        page = self.get(f"/v1/subscriptions?limit=1000&consumer={self.consumer}")
        for item in page["items"]:
            self.http.delete(f"/v1/subscriptions/{item['id']}")
        self.http.delete(f"/v1/consumers/{self.consumer}")
        self.http.close()
        self.admin.close()


@pytest.fixture
def api(stack: Any) -> Iterator[Api]:
    made = Api(stack)
    yield made
    made.close()


def unlike_any_other() -> str:
    """A filter whose view no other subscription shares."""
    return f"instrument = '{uuid.uuid4().hex[:16].upper()}'"


def plan_on_topic(service_url: str) -> Plan | None:
    client = pulsar.Client(service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        reader = client.create_reader(
            PLANS,
            pulsar.MessageId.latest,
            is_read_compacted=True,
            start_message_id_inclusive=True,
        )
        if not reader.has_message_available():
            return None
        return decode_plan(reader.read_next(timeout_millis=5000).data())
    finally:
        client.close()


def test_a_subscription_is_ready_to_be_read_when_it_is_active(api: Api) -> None:
    made = api.subscribe("one", filter=unlike_any_other(), format="json")
    assert made["subscription_name"] in (api.cursors(made["topic"]) or ())
    plan = plan_on_topic(api.service_url)
    assert plan is not None
    assert plan.number >= made["plan"]
    assert made["view"] in {view.id for view in plan.views}


def test_computed_columns_are_described_and_stand_in_the_plan(api: Api) -> None:
    computing = {
        "select": ["instrument", "sequence", "size"],
        "compute": {"mid": "(bid_price + ask_price) / 2", "notional": "round(price * size, 2)"},
        "mask": ["size"],
    }
    made = api.subscribe("one", filter=unlike_any_other(), transformation=computing)
    columns = {c["name"]: (c["type"], c["scale"]) for c in made["schema"]["columns"]["trade"]}
    assert (columns["mid"], columns["notional"]) == (("int64", 9), ("int64", 2))
    assert made["transformation"]["mask"] == ["size"]
    plan = plan_on_topic(api.service_url)
    assert plan is not None
    (view,) = [view for view in plan.views if view.id == made["view"]]
    assert set(view.computed or ()) == {"mid", "notional"}


def test_how_a_subscription_is_read_is_told(api: Api) -> None:
    name = uuid.uuid4().hex[:16].upper()
    made = api.subscribe("one", filter=f"instrument = '{name}'")
    path = f"/v1/subscriptions/{made['id']}/health"

    def health() -> dict[str, Any]:
        return dict(api.get(path))

    def events() -> tuple[int | None, list[int]]:
        """How many wait, and of the partition that has some: acknowledged, delivered, newest."""
        found = api.get(f"{path}?sequences=true")
        places = [
            [each["acknowledged"], each["delivered"], each["newest"]]
            for each in found["sequences"]
            if each["newest"]
        ]
        return found["backlog_events"], places[0] if places else []

    assert (health()["state"], health()["members"]) == ("gone", [])
    with Publisher(api.service_url, name=f"health-{name}") as publisher:
        publisher.publish(trades([name] * 3))
    eventually(lambda: health()["backlog_age_seconds"] is not None)
    assert health()["backlog_messages"] > 0
    eventually(lambda: events() == (3, [0, 0, 3]))
    client = pulsar.Client(api.service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        consumer = client.subscribe(
            made["topic"],
            made["subscription_name"],
            pulsar.ConsumerType.Failover,
            consumer_name="reader-1",
        )
        message = consumer.receive(timeout_millis=30_000)
        read = health()
        assert read["state"] in {"healthy", "lagging"}
        assert read["backlog_messages"] > 0
        (member,) = read["members"]
        assert (member["name"], member["partitions"]) == ("reader-1", [0, 1, 2, 3])
        said: list[dict[str, Any]] = []

        def all_is_read() -> bool:
            """Heartbeats come meanwhile; each answer is of one moment."""
            nonlocal message
            with suppress(pulsar.Timeout):
                consumer.acknowledge(message)
                message = consumer.receive(timeout_millis=100)
            said.append(health())
            return said[-1]["backlog_messages"] == 0

        eventually(all_is_read)
        assert (said[-1]["state"], said[-1]["reason"]) == ("healthy", "Everything is acknowledged.")
        assert said[-1]["last_acknowledged_at"] is not None
        assert events() == (0, [3, 3, 3])
    finally:
        client.close()
    eventually(lambda: health()["state"] == "gone")
    api.http.delete(f"/v1/subscriptions/{made['id']}").raise_for_status()
    assert health()["reason"] == "The subscription is closed."


def test_how_a_subscription_was_read_is_kept(api: Api) -> None:
    made = api.subscribe("one", filter=unlike_any_other())
    path = f"/v1/subscriptions/{made['id']}/health/history"
    eventually(lambda: api.get(path)["items"])
    (*_, newest) = api.get(path)["items"]
    assert (newest["state"], newest["members"]) == ("gone", 0)


def test_a_plan_reaches_every_distributor(api: Api) -> None:
    made = api.subscribe("one", filter=unlike_any_other())
    eventually(
        lambda: (
            api.get(f"/v1/plans/{made['plan']}")["rollout"]["state"] in ("applied", "superseded")
        ),
    )
    distributor = api.get("/v1/functions/distributor")
    assert distributor["plan"] >= made["plan"]
    assert distributor["reporting_instances"] == distributor["expected_instances"]


def test_a_plan_carries_the_request_id_that_caused_it(api: Api) -> None:
    answer = api.http.post(
        "/v1/subscriptions",
        json={"consumer": api.consumer, "name": "one", "filter": unlike_any_other()},
        headers={"X-Request-ID": "the-cause"},
    )
    assert answer.headers["x-request-id"] == "the-cause"
    assert api.get(f"/v1/plans/{answer.json()['plan']}")["correlation_id"] == "the-cause"


def test_a_closed_subscription_loses_its_cursor_and_its_view_its_topic(api: Api) -> None:
    shared = unlike_any_other()
    one, two = api.subscribe("one", filter=shared), api.subscribe("two", filter=shared)
    assert one["topic"] == two["topic"]
    api.http.delete(f"/v1/subscriptions/{one['id']}").raise_for_status()
    eventually(lambda: api.cursors(one["topic"]) == {two["subscription_name"]})
    api.http.delete(f"/v1/subscriptions/{two['id']}").raise_for_status()
    eventually(lambda: api.cursors(one["topic"]) is None)


def test_what_is_deleted_behind_our_back_is_made_again(api: Api) -> None:
    made = api.subscribe("one", filter=unlike_any_other())
    path = "/persistent/" + made["topic"].split("://", 1)[1]
    name = made["subscription_name"]
    api.admin.delete(f"{path}/subscription/{name}", params={"force": "true"}).raise_for_status()
    eventually(lambda: name in (api.cursors(made["topic"]) or ()))
    api.admin.delete(f"{path}/partitions", params={"force": "true"}).raise_for_status()
    eventually(lambda: name in (api.cursors(made["topic"]) or ()))


@pytest.mark.chaos
def test_a_control_plane_that_was_killed_goes_on_where_it_was(stack: Any) -> None:
    stack.kill("control_plane")
    stack.start("control_plane")
    again = Api(stack)
    try:
        made = again.subscribe("after", filter=unlike_any_other())
        assert made["state"] == "active"
        plan = plan_on_topic(again.service_url)
        assert plan is not None
        assert plan.digest == again.get("/v1/plans/current")["digest"]
    finally:
        again.close()
