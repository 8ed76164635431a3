"""Delivery topics and what is registered for them."""

import json
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest

from control_plane.broker_grants import BrokerGrants
from control_plane.domains.plans.delivery_topics import DeliveryTopics
from control_plane.domains.plans.models import ViewRow
from control_plane.domains.subscriptions.models import Subscription
from control_plane.errors import BrokerUnavailableError
from control_plane.fenced_topics import FencedTopics
from control_plane.pulsar_admin import PulsarAdmin
from marketdata.filters import compile_filter
from marketdata.plans import Delivery, ViewSpec, view_of
from marketdata.view_schemas import topic_schema


async def _ensured(
    spec: ViewSpec, *, there: bool, registers: int = 200, refused: list[None] | None = None
) -> list[tuple[str, str, Any]]:
    """What a broker is asked to change for a subscription to a view.

    `registers` is its answer to a schema; to `refused` is added how often one is told to be.
    """
    view = view_of(spec)
    changes: list[tuple[str, str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "GET":
            return httpx.Response(200, json={"partitions": 4, "authorizationEnabled": "false"})
        changes.append((request.method, path, json.loads(request.content or b"null")))
        if there and path.endswith("/partitions"):
            return httpx.Response(409, json={"reason": "This topic already exists"})
        if path.endswith("/schema"):
            return httpx.Response(registers, json={"reason": "so it is"})
        return httpx.Response(204)

    row = ViewRow(id=view.id, topic=view.topic, spec=msgspec.to_builtins(spec))
    subscription = Subscription(id="s1", consumer_id="c1", view=row, start="latest")
    transport = httpx.MockTransport(answer)
    async with PulsarAdmin("http://broker", transport=transport, retry_for_s=0) as admin:
        counted: list[None] = [] if refused is None else refused
        told = partial(counted.append, None)
        topics = DeliveryTopics(
            admin, BrokerGrants(admin), FencedTopics(admin), on_schema_refused=told
        )
        await topics.ensure([subscription], start="latest")
    return changes


def _spec(granularity: Any) -> ViewSpec:
    one = compile_filter("kind = 'trade'")
    delivery = Delivery(granularity=granularity)
    return ViewSpec(filter=one.canonical, predicate=one.to_json(), format="avro", delivery=delivery)


async def test_a_topic_of_single_events_has_its_schema_before_anybody_reads() -> None:
    """Also when a run before made the topic and ended there."""
    spec = _spec("event")
    schema = topic_schema(spec)
    assert schema is not None
    for there in (False, True):
        made, registered, cursor = await _ensured(spec, there=there)
        assert made[1].endswith("/partitions")
        path = made[1].replace("/v2/persistent/", "/v2/schemas/").removesuffix("/partitions")
        body = {"type": "AVRO", "schema": schema.definition, "properties": {}}
        assert registered == ("POST", f"{path}/schema", body)
        assert "/subscription/" in cursor[1]


@pytest.mark.parametrize("status", [409, 422])
async def test_a_schema_that_the_broker_refuses_is_counted_and_holds_nobody_up(
    status: int,
) -> None:
    refused: list[None] = []
    *_, cursor = await _ensured(_spec("event"), there=True, registers=status, refused=refused)
    assert "/subscription/" in cursor[1]
    assert len(refused) == 1


async def test_a_broker_that_may_take_the_schema_later_is_waited_for() -> None:
    refused: list[None] = []
    with pytest.raises(BrokerUnavailableError):
        await _ensured(_spec("event"), there=True, registers=500, refused=refused)
    assert refused == []


async def test_a_topic_of_frames_has_none() -> None:
    assert not [
        path for _, path, _ in await _ensured(_spec("frame"), there=False) if "schema" in path
    ]
