"""Views with one event a message on a real broker: each once, whatever happens meanwhile."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import pulsar
import pytest
from local_runtime import Cluster, LocalInstance, connect, eventually
from pulsar.schema import AvroSchema, ProtobufNativeSchema
from test_distributor import Log, Plans, _spec

from control_plane.pulsar_admin import AdminConflict, PulsarAdmin
from functions.distributor import DistributorFunction
from marketdata.consumer import Consumer
from marketdata.formats.protobuf import event_class
from marketdata.plans import Delivery, View, ViewSpec
from marketdata.topics import partition_topic
from marketdata.view_schemas import topic_schema

pytestmark = pytest.mark.integration

BY_EVENT = Delivery(granularity="event")


@pytest.fixture
def cluster(stack: Any) -> Iterator[Cluster]:
    cluster = Cluster(stack.service_url, stack.admin_url)
    yield cluster
    cluster.client.close()


def _by_event(format_: str) -> ViewSpec:
    return _spec("kind = 'trade'", format=format_, delivery=BY_EVENT)


def _register(stack: Any, view: View) -> None:
    """As the control plane does, twice, as after a crash; another type is refused."""

    async def register() -> None:
        schema = topic_schema(view)
        async with PulsarAdmin(stack.admin_url) as admin:
            if schema is not None:
                await admin.set_schema(view.topic, schema.type, schema.definition)
                await admin.set_schema(view.topic, schema.type, schema.definition)
                with pytest.raises(AdminConflict):
                    await admin.set_schema(view.topic, "STRING", "")

    asyncio.run(register())


def _run_instance(place: Any) -> None:
    """A distributor in a process of its own, that can be killed."""
    LocalInstance(place, DistributorFunction, "sequenced")
    threading.Event().wait()


def _arrived(cluster: Cluster, topic: str) -> Callable[[], int]:
    """Counts the events of a topic partition as they come."""
    reader = cluster.client.create_reader(topic, pulsar.MessageId.earliest)
    counts: list[int] = []

    def arrived() -> int:
        while reader.has_message_available():
            counts.append(int(reader.read_next(20_000).properties()["count"]))
        return sum(counts)

    return arrived


def _typed(cluster: Cluster, view: View, schema: Any, count: int) -> list[pulsar.Message]:
    """What a plain client with a schema receives of partition 0."""
    consumer = cluster.client.subscribe(
        partition_topic(view.topic, 0),
        "typed",
        consumer_type=pulsar.ConsumerType.Exclusive,
        initial_position=pulsar.InitialPosition.Earliest,
        schema=schema,
    )
    found: list[pulsar.Message] = []
    while len(found) < count:
        message = consumer.receive(20_000)
        if message.properties()["count"] != "0":
            found.append(message)
        consumer.acknowledge(message)
    consumer.close()
    return found


def test_each_event_comes_once_over_kills_and_fencing(cluster: Cluster, stack: Any) -> None:
    views = Plans(cluster).publish(**{name: _by_event(name) for name in ("json", "avro")})
    for view in views.values():
        _register(stack, view)
    log, topic = Log(cluster), {name: partition_topic(v.topic, 0) for name, v in views.items()}
    arrived = {name: _arrived(cluster, one) for name, one in topic.items()}
    place = SimpleNamespace(
        service_url=cluster.service_url, topics=cluster.topics, partitions=cluster.partitions
    )
    for _ in range(3):
        process = get_context("spawn").Process(target=_run_instance, args=(place,), daemon=True)
        process.start()
        before = len(log.events)
        log.write(10, rows=100)
        # Killed while most of it is on its way.
        eventually(lambda n=before: arrived["json"]() > n)
        process.kill()
        process.join()
    instance = LocalInstance(cluster, DistributorFunction, "sequenced")
    eventually(lambda: arrived["avro"]() == len(log.events))
    log.write(5, rows=50)
    cluster.usurp(topic["avro"], "distributor")
    instance.close()
    last = LocalInstance(cluster, DistributorFunction, "sequenced")
    try:
        expected = [event["price"] for event in log.events]
        for name in views:
            eventually(lambda name=name: arrived[name]() >= len(expected))
        read = cluster.read(topic["json"])
        assert [int(json.loads(m.data())["price"]) * 10**9 for m in read] == expected
        avro = cluster.read(topic["avro"])
        for messages in (read, avro):
            numbers = [int(m.properties()["delivery_sequence"]) for m in messages]
            assert numbers == list(range(1, len(expected) + 1))
            assert {m.properties()["count"] for m in messages} == {"1"}
            assert [m.partition_key() for m in messages] == [e["instrument"] for e in log.events]
        definition = json.loads(topic_schema(views["avro"]).definition)  # type: ignore[union-attr]
        typed = _typed(cluster, views["avro"], AvroSchema(None, definition), len(expected))
        assert [int(m.value()["price"].scaleb(9)) for m in typed] == expected
        assert all(m.schema_version() for m in typed), "each says which schema it is of"
    finally:
        last.close()


def test_our_client_reads_every_format_and_checks_it(cluster: Cluster, stack: Any) -> None:
    names = ("json", "avro", "protobuf", "msgpack", "csv", "fix")
    views = Plans(cluster).publish(**{name: _by_event(name) for name in names})
    for view in views.values():
        _register(stack, view)
    log = Log(cluster)
    log.write(3)
    instance = LocalInstance(cluster, DistributorFunction, "sequenced")
    try:
        for view in views.values():
            with Consumer(cluster.service_url, view.topic, "reader", strict=True) as consumer:
                frames = []
                for frame in consumer.frames(timeout_s=30):
                    assert frame.batch.num_rows == 1
                    frames.append(frame)
                    if len(frames) == len(log.events):
                        break
                assert [f.batch.to_pylist()[0] for f in frames] == log.events
                assert consumer.statistics().events == len(log.events)
        (first, *_) = _typed(cluster, views["protobuf"], ProtobufNativeSchema(event_class()), 1)
        assert first.value().trade.price == log.events[0]["price"]
    finally:
        instance.close()


def test_keys_shared_by_several_consumers_keep_the_order(cluster: Cluster) -> None:
    """The broker deals out whole entries, so all events of a partition have one ordering key."""
    (view,) = Plans(cluster).publish(one=_by_event("json")).values()
    log = Log(cluster)
    log.write(20, rows=50)
    others = connect(cluster.service_url)
    members = [
        client.subscribe(
            view.topic,
            "shared",
            consumer_type=pulsar.ConsumerType.KeyShared,
            initial_position=pulsar.InitialPosition.Earliest,
        )
        for client in (cluster.client, others)
    ]
    instance = LocalInstance(cluster, DistributorFunction, "sequenced")
    received: list[tuple[int, int]] = []

    def all_received() -> bool:
        for n, member in enumerate(members):
            with suppress(pulsar.Timeout):
                while True:
                    message = member.receive(200)
                    member.acknowledge(message)
                    if message.properties()["count"] == "1":
                        received.append((n, int(message.properties()["delivery_sequence"])))
        return len(received) >= len(log.events)

    try:
        eventually(all_received)
        assert [number for _, number in received] == list(range(1, len(log.events) + 1))
        assert len({n for n, _ in received}) == 1
    finally:
        instance.close()
        others.close()
