"""Publisher and consumer against a real broker, restarts and planted faults included."""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pulsar
import pyarrow as pa
import pytest

import marketdata.lane
from marketdata.aio import AsyncConsumer, AsyncPublisher
from marketdata.connection import TopicNotReady
from marketdata.consumer import BadFrame, Consumer, ContinuityBroken, Frame
from marketdata.continuity import Duplicate, Finding, Gap, Reversal
from marketdata.errors import InvalidEvents, PublishError
from marketdata.formats import get_format
from marketdata.frames import encode_frame, frame_properties
from marketdata.publisher import NameTaken, Publisher, PublishTimeout
from marketdata.schemas import INGEST_SCHEMAS, SEQUENCED_SCHEMAS, TIMESTAMP
from marketdata.topics import partition_topic

pytestmark = pytest.mark.integration

PARTITIONS = 4
TENANT = "clienttest"
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
Event = tuple[str, int]


@pytest.fixture
def make_topic(stack: Any) -> Callable[[str], str]:
    """Makes a partitioned topic of the test's own, in a namespace that deduplicates.

    Not in one of the service: `marketdata/ingest` takes no subscriptions but the sequencer's.
    """
    clusters = json.loads(admin(stack, "GET", "clusters"))

    def make(namespace: str) -> str:
        for path, body in (
            (f"tenants/{TENANT}", {"allowedClusters": clusters}),
            (f"namespaces/{TENANT}/{namespace}", {}),
        ):
            with suppress(urllib.error.HTTPError):  # it is there from the test before
                admin(stack, "PUT", path, body)
        admin(stack, "POST", f"namespaces/{TENANT}/{namespace}/deduplication", True)
        name = f"clients-{uuid4().hex[:12]}"
        admin(stack, "PUT", f"persistent/{TENANT}/{namespace}/{name}/partitions", PARTITIONS)
        return f"persistent://{TENANT}/{namespace}/{name}"

    return make


@pytest.fixture
def topic(make_topic: Callable[[str], str]) -> str:
    return make_topic("ingest")


@pytest.fixture
def client(stack: Any) -> Iterator[pulsar.Client]:
    made = pulsar.Client(stack.service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    yield made
    made.close()


def admin(stack: Any, method: str, path: str, body: Any = None) -> bytes:
    request = urllib.request.Request(
        f"{stack.admin_url}/admin/v2/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return bytes(response.read())


def constant(value: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int16), pa.array([value]))


def batch_of(
    kind: str, names: list[str], start: int, rows: int, *, sequenced: bool = False
) -> pa.RecordBatch:
    """Rows go round the instruments; row i carries number start + i."""
    numbers = np.arange(start, start + rows)
    codes = (numbers % len(names)).astype(np.int16)
    columns = {
        "instrument": pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names)),
        "venue": constant("XNAS", rows),
        "source": constant("test", rows),
        "source_sequence": pa.array(numbers.astype(np.uint64)),
        "ts_event": pa.array(numbers + 1).view(TIMESTAMP),
        "ts_publish": pa.array(numbers + 1).view(TIMESTAMP),
        "sequence": pa.array((numbers // len(names) + 1).astype(np.uint64)),
        "epoch": pa.array(np.ones(rows, np.uint32)),
        "ts_sequenced": pa.array(numbers + 1).view(TIMESTAMP),
    }
    schema = (SEQUENCED_SCHEMAS if sequenced else INGEST_SCHEMAS)[kind]
    return pa.RecordBatch.from_arrays(
        [columns.get(field.name, pa.nulls(rows, field.type)) for field in schema], schema=schema
    )


NAMES = [f"CLIENT{number}" for number in range(50)]


def events_of(batch: pa.RecordBatch) -> list[Event]:
    names = batch.column("instrument").to_pylist()
    return list(zip(names, batch.column("source_sequence").to_pylist(), strict=True))


def read_all(service: Any, topic: str, total: int) -> list[Event]:
    """The events of a topic: at least `total` within 2 min, and what comes right behind them."""
    got: list[Event] = []
    deadline = time.monotonic() + 120
    with Consumer(service, topic, f"all-{uuid4().hex[:6]}") as consumer:
        while time.monotonic() < deadline:
            frame = consumer.receive(1.0)
            if frame is not None:
                got += events_of(frame.batch)
            elif len(got) >= total:
                break
    return got


def assert_complete_and_in_order(got: list[Event], total: int) -> None:
    """Every number 0…total-1 once, rising within each instrument."""
    assert sorted(number for _, number in got) == list(range(total))
    by_instrument = defaultdict(list)
    for name, number in got:
        by_instrument[name].append(number)
    assert all(a < b for numbers in by_instrument.values() for a, b in pairwise(numbers))


def test_published_events_arrive_once_and_in_order_across_kinds(
    client: pulsar.Client, topic: str
) -> None:
    confirmed: list[Event] = []
    with Publisher(client, name="mixed", topic=topic, max_events=300) as publisher:
        publisher.on_confirmed(lambda _p, _s, _m, batch: confirmed.extend(events_of(batch)))
        for call, kind in enumerate(("trade", "quote", "trade", "bar", "book") * 4):
            publisher.publish(batch_of(kind, NAMES, call * 1000, 1000))
        publisher.flush()
        assert_complete_and_in_order(confirmed, 20_000)
        statistics = publisher.statistics()
    assert statistics.events == 20_000
    assert (statistics.pending_frames, statistics.pending_bytes, statistics.buffered_events) == (
        0,
        0,
        0,
    )
    assert statistics.confirm_latency_p99_ms is not None
    assert_complete_and_in_order(read_all(client, topic, 20_000), 20_000)


def test_few_events_are_sent_without_a_flush_after_the_delay(
    client: pulsar.Client, topic: str
) -> None:
    stored = threading.Event()
    with Publisher(client, name="delay", topic=topic, max_delay_ms=10) as publisher:
        publisher.on_confirmed(lambda *_: stored.set())
        publisher.publish(batch_of("trade", NAMES, 0, 1))
        assert stored.wait(5)


def test_a_refused_batch_leaves_nothing_behind(client: pulsar.Client, topic: str) -> None:
    bad = batch_of("trade", NAMES, 0, 10)
    bad = bad.set_column(bad.schema.get_field_index("size"), bad.schema.field("size"), [-1] * 10)
    with Publisher(client, name="refused", topic=topic) as publisher:
        with pytest.raises(InvalidEvents, match="size"):
            publisher.publish(bad)
        publisher.publish(batch_of("trade", NAMES, 0, 10))
    assert_complete_and_in_order(read_all(client, topic, 10), 10)


def test_threads_may_share_a_publisher(client: pulsar.Client, topic: str) -> None:
    with Publisher(client, name="threads", topic=topic, max_events=100) as publisher:

        def run(number: int) -> None:
            # Instruments of its own: between threads there is no order.
            for call in range(20):
                start = (number * 20 + call) * 100
                publisher.publish(batch_of("trade", [f"T{number}"], start, 100))

        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert_complete_and_in_order(read_all(client, topic, 8000), 8000)


def test_a_publisher_of_the_same_name_goes_on_with_the_numbers(
    client: pulsar.Client, topic: str
) -> None:
    with Publisher(client, name="again", topic=topic) as first:
        first.publish(batch_of("trade", NAMES, 0, 1000))
        first.flush()
        ids = first.last_sequence_ids()
    assert set(ids) == set(range(PARTITIONS))
    with Publisher(client, name="again", topic=topic) as second:
        assert second.last_sequence_ids() == ids
        second.publish(batch_of("trade", NAMES, 1000, 1000))
    assert_complete_and_in_order(read_all(client, topic, 2000), 2000)


def test_a_repeating_publisher_stores_everything_once(client: pulsar.Client, topic: str) -> None:
    def replay(upto: int) -> int:
        with Publisher(
            client, name="replay", topic=topic, max_events=64, max_delay_ms=None
        ) as publisher:
            publisher.resume_from({})
            for call in range(upto):
                publisher.publish(batch_of("quote", NAMES, call * 250, 250))
                if call % 4 == 3:
                    publisher.flush()
            publisher.flush()
            return publisher.statistics().already_stored_frames

    assert replay(8) == 0
    assert replay(20) > 0
    assert_complete_and_in_order(read_all(client, topic, 5000), 5000)


def test_resuming_needs_frames_that_no_clock_cuts(client: pulsar.Client, topic: str) -> None:
    with (
        Publisher(client, name="clocked", topic=topic) as publisher,
        pytest.raises(ValueError, match="max_delay_ms"),
    ):
        publisher.resume_from({})


def test_a_name_in_use_is_refused(client: pulsar.Client, topic: str) -> None:
    with (
        Publisher(client, name="only", topic=topic),
        pytest.raises(NameTaken, match="choose another name"),
    ):
        Publisher(client, name="only", topic=topic, open_timeout_s=0.3)


def test_a_topic_without_partitions_is_refused(stack: Any) -> None:
    with pytest.raises(TopicNotReady, match="apply the topology"):
        Publisher(stack.service_url, name="x", topic="persistent://marketdata/ingest/nowhere")


def test_a_lost_producer_is_replaced_without_loss_or_repeat(
    client: pulsar.Client, topic: str
) -> None:
    with Publisher(client, name="lost", topic=topic, max_events=50) as publisher:
        for call in range(60):
            if call in (10, 30):
                for lane in publisher._lanes:
                    # Closed already where the first loss is still being healed.
                    with suppress(pulsar.AlreadyClosed):
                        lane._producer.close()
            publisher.publish(batch_of("trade", NAMES, call * 500, 500))
        publisher.flush(60)
        assert publisher.statistics().resent_frames > 0
    assert_complete_and_in_order(read_all(client, topic, 30_000), 30_000)


def test_a_producer_that_never_connects_again_is_replaced(
    client: pulsar.Client, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the client leaves one now and then when a broker restarts: no answer, and no failure."""

    class Unconnected:
        def __init__(self, producer: Any) -> None:
            self._producer = producer

        def send_async(self, *_: Any, **__: Any) -> None:
            """It waits in the client."""

        def is_connected(self) -> bool:
            return False

        def close(self) -> None:
            self._producer.close()

    monkeypatch.setattr(marketdata.lane, "UNCONNECTED_S", 0.5)
    with Publisher(client, name="left-alone", topic=topic) as publisher:
        publisher.publish(batch_of("trade", NAMES, 0, 500))
        publisher.flush(30)
        for lane in publisher._lanes:
            lane._producer = Unconnected(lane._producer)
        publisher.publish(batch_of("trade", NAMES, 500, 500))
        publisher.flush(60)
        assert publisher.statistics().resent_frames > 0
    assert_complete_and_in_order(read_all(client, topic, 1_000), 1_000)


def test_a_closed_client_ends_the_publisher_with_advice(stack: Any, topic: str) -> None:
    client = pulsar.Client(stack.service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    publisher = Publisher(client, name="orphan", topic=topic)
    client.close()
    publisher.publish(batch_of("trade", NAMES, 0, 10))
    with pytest.raises(PublishError, match="close it after its publishers"):
        publisher.flush(30)
    with pytest.raises(PublishError):
        publisher.publish(batch_of("trade", NAMES, 10, 10))
    with pytest.raises(PublishError):
        publisher.close()
    with pytest.raises(PublishError):
        publisher.publish(batch_of("trade", NAMES, 10, 10))


def test_a_terminated_topic_ends_the_publisher(
    stack: Any, client: pulsar.Client, topic: str
) -> None:
    publisher = Publisher(client, name="ended", topic=topic)
    path = topic.removeprefix("persistent://")
    for partition in range(PARTITIONS):
        admin(stack, "POST", f"persistent/{path}-partition-{partition}/terminate")
    publisher.publish(batch_of("trade", NAMES, 0, 10))
    with pytest.raises(PublishError, match="TopicTerminated"):
        publisher.flush(30)
    with pytest.raises(PublishError):
        publisher.close()


@pytest.mark.chaos
@pytest.mark.slow
def test_killing_the_broker_while_publishing_loses_and_doubles_nothing(
    stack: Any, topic: str
) -> None:
    confirmed: list[Event] = []
    got: list[Event] = []
    stop = threading.Event()
    failures: list[BaseException] = []

    def consume() -> None:
        try:
            with Consumer(stack.service_url, topic, "through-the-kill") as consumer:
                while not stop.is_set():
                    for frame in consumer.frames(1.0):
                        got.extend(events_of(frame.batch))
        except BaseException as error:
            failures.append(error)
            raise

    reader = threading.Thread(target=consume)
    reader.start()
    calls, down_at = 60, 20
    timed_out = 0
    starter: threading.Thread | None = None
    try:
        with Publisher(
            stack.service_url, name="chaos", topic=topic, max_events=500, max_pending_frames=40
        ) as publisher:
            publisher.on_confirmed(lambda _p, _s, _m, batch: confirmed.extend(events_of(batch)))
            for call in range(calls):
                if call == down_at:
                    stack.kill("pulsar")
                while True:
                    try:
                        publisher.publish(batch_of("trade", NAMES, call * 2000, 2000), timeout_s=2)
                        break
                    except PublishTimeout:
                        timed_out += 1
                        if starter is None:
                            starter = threading.Thread(target=stack.start, args=("pulsar",))
                            starter.start()
            publisher.flush(120)
        deadline = time.monotonic() + 120
        while len(got) < calls * 2000 and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(2)
    finally:
        if starter is not None:
            starter.join()
        stop.set()
        reader.join(60)
    assert failures == []
    assert timed_out > 0
    assert_complete_and_in_order(confirmed, calls * 2000)
    assert_complete_and_in_order(got, calls * 2000)
    assert_complete_and_in_order(read_all(stack.service_url, topic, calls * 2000), calls * 2000)


def deliver(
    client: pulsar.Client,
    topic: str,
    frames: list[tuple[int, int]],
    *,
    partition: int = 0,
    format_name: str = "arrow",
) -> None:
    """Write frames of (first delivery sequence, count) as the distributor does."""
    producer = client.create_producer(partition_topic(topic, partition))
    for first, count in frames:
        batch = batch_of("trade", ["CLIENT0"], first - 1, count, sequenced=True)
        properties = frame_properties(batch, "trade") | {
            "view": "v",
            "delivery_sequence": str(first),
            "format": format_name,
        }
        data = (
            encode_frame(batch).to_pybytes()
            if format_name == "arrow"
            else get_format(format_name).encode(batch)
        )
        producer.send(data, properties=properties)
    producer.close()


@pytest.fixture
def view_topic(make_topic: Callable[[str], str]) -> str:
    return make_topic("delivery")


def read(consumer: Consumer, count: int) -> list[Frame]:
    """At least `count` frames within 2 min, and what comes right behind them.

    A broker waits a second before it feeds a member that became active.
    """
    frames: list[Frame] = []
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        frame = consumer.receive(0.5 if frames else 1.5)
        if frame is not None:
            frames.append(frame)
        elif len(frames) >= count:
            break
    return frames


def firsts(consumer: Consumer, count: int) -> list[int | None]:
    """The delivery sequences of the frames that `read` gives."""
    return [frame.delivery_sequence for frame in read(consumer, count)]


def test_planted_gap_repeat_and_reversal_are_reported_and_nothing_else(
    client: pulsar.Client, view_topic: str
) -> None:
    deliver(client, view_topic, [(1, 5), (6, 5), (16, 5), (16, 5), (11, 5), (21, 5)])
    deliver(client, view_topic, [(100, 3), (103, 3)], partition=1)
    found: list[Finding] = []
    with Consumer(client, view_topic, "s", on_gap=found.append) as consumer:
        assert len(firsts(consumer, 8)) == 8
        statistics = consumer.statistics()
    assert [finding for finding in found if finding.key == "view:v"] == [
        Gap(0, "view:v", 0, 11, 15),
        Duplicate(0, "view:v", 0, 16, 20),
        Reversal(0, "view:v", 0, 11, 15),
    ]
    assert {finding.key for finding in found} == {"view:v", "CLIENT0"}
    assert (statistics.frames, statistics.gaps, statistics.duplicates) == (8, 1, 1)


def test_a_strict_consumer_raises_and_goes_on_behind(
    client: pulsar.Client, view_topic: str
) -> None:
    deliver(client, view_topic, [(1, 5), (11, 5), (16, 5)])
    with Consumer(client, view_topic, "s", strict=True) as consumer:
        assert consumer.receive(20) is not None
        with pytest.raises(ContinuityBroken, match="Gap") as raised:
            consumer.receive(20)
        consumer.ack(raised.value.frame)
        assert firsts(consumer, 1) == [16]


def test_json_frames_are_read_like_arrow_frames(client: pulsar.Client, view_topic: str) -> None:
    deliver(client, view_topic, [(1, 5), (6, 5)], format_name="json")
    with Consumer(client, view_topic, "s", strict=True) as consumer:
        events = [event for frame in read(consumer, 2) for event in frame.events()]
    assert [event["source_sequence"] for event in events] == list(range(10))
    assert events[0]["kind"] == "trade"
    assert events[0]["ts_event"] == 1
    assert events[0]["price"] is None


def test_a_message_that_is_no_frame_can_be_skipped(client: pulsar.Client, view_topic: str) -> None:
    deliver(client, view_topic, [(1, 5)])
    producer = client.create_producer(partition_topic(view_topic, 0))
    producer.send(b"rubbish")
    producer.send(b"rubbish", properties={"format": "morse"})
    producer.close()
    deliver(client, view_topic, [(6, 5)])
    with Consumer(client, view_topic, "s", strict=True) as consumer:
        assert consumer.receive(20) is not None
        for says in ("not an Arrow", "unknown format"):
            with pytest.raises(BadFrame, match=says) as raised:
                consumer.receive(20)
            consumer.ack(raised.value)
        assert firsts(consumer, 1) == [6]
    with Consumer(client, view_topic, "s") as consumer:
        assert firsts(consumer, 0) == []


def test_what_was_not_acknowledged_comes_to_the_next_consumer(
    client: pulsar.Client, view_topic: str
) -> None:
    deliver(client, view_topic, [(1, 5), (6, 5), (11, 5), (16, 5)])
    with Consumer(client, view_topic, "s", auto_ack=False) as consumer:
        frames = read(consumer, 4)
        consumer.ack_cumulative(frames[1])
    with Consumer(client, view_topic, "s") as consumer:
        assert firsts(consumer, 2) == [11, 16]
    with Consumer(client, view_topic, "s") as consumer:
        assert firsts(consumer, 0) == []


def test_repeats_of_the_broker_are_recognized(client: pulsar.Client, view_topic: str) -> None:
    deliver(client, view_topic, [(1, 5), (6, 5), (11, 5)])
    found: list[Finding] = []
    with Consumer(client, view_topic, "s", auto_ack=False, on_gap=found.append) as consumer:
        frames = read(consumer, 3)
        consumer.ack(frames[0])
        # The client forgets what it has, as after a reconnect, and the broker's cursor goes back.
        consumer._consumer.seek(pulsar.MessageId.earliest)
        again = read(consumer, 2)
        statistics = consumer.statistics()
    assert [(frame.delivery_sequence, frame.redelivered) for frame in again] == [
        (6, True),
        (11, True),
    ]
    assert (statistics.dropped_frames, statistics.redelivered_frames) == (1, 2)
    assert found == []


def test_a_frame_given_back_comes_again(client: pulsar.Client, view_topic: str) -> None:
    deliver(client, view_topic, [(1, 5), (6, 5)])
    with Consumer(client, view_topic, "s", redelivery_delay_ms=200) as consumer:
        first = consumer.receive(20)
        assert first is not None
        consumer.nack(first)
        assert sorted(x for x in firsts(consumer, 2) if x) in ([1, 6], [1, 6, 6])
        assert consumer.statistics().redelivered_frames >= 1


def test_seek_moves_to_the_start_a_frame_a_time_and_the_end(
    client: pulsar.Client, view_topic: str
) -> None:
    deliver(client, view_topic, [(1, 5), (6, 5), (11, 5)])
    deliver(client, view_topic, [(1, 5), (6, 5)], partition=2)
    time.sleep(0.1)
    between = datetime.now(UTC)
    time.sleep(0.1)
    deliver(client, view_topic, [(16, 5)])
    with Consumer(client, view_topic, "s", strict=True) as consumer:
        frames = read(consumer, 6)
        assert len(frames) == 6
        consumer.seek("earliest")
        assert len(firsts(consumer, 6)) == 6
        consumer.seek(between)
        assert firsts(consumer, 1) == [16]
        second = next(f for f in frames if f.partition == 0 and f.delivery_sequence == 6)
        restored = pulsar.MessageId.deserialize(second.message_id.serialize(), second.topic)
        for message_id in (second.message_id, restored):
            consumer.seek(message_id)
            assert firsts(consumer, 3) == [6, 11, 16]
        consumer.seek("latest")
        deliver(client, view_topic, [(21, 5)])
        assert firsts(consumer, 1) == [21]
        with pytest.raises(ValueError, match="time zone"):
            consumer.seek(datetime(2026, 1, 1))  # noqa: DTZ001  (what is refused)


def first_message_id(client: pulsar.Client, topic: str, partition: int) -> Any:
    """The id of a partition's first message."""
    reader = client.create_reader(partition_topic(topic, partition), pulsar.MessageId.earliest)
    try:
        return reader.read_next(20_000).message_id()
    finally:
        reader.close()


def test_seeking_in_one_partition_leaves_the_others_as_they_are(
    client: pulsar.Client, view_topic: str
) -> None:
    for partition in (0, 2):
        deliver(client, view_topic, [(n * 5 + 1, 5) for n in range(20)], partition=partition)
    by_partition: dict[int, list[int | None]] = {0: [], 2: []}
    with Consumer(client, view_topic, "s", strict=True) as consumer:
        for _ in range(10):
            frame = consumer.receive(20)
            assert frame is not None
            by_partition[frame.partition].append(frame.delivery_sequence)
            consumer.ack(frame)
            start = frame
        by_partition[start.partition] = []
        first = first_message_id(client, view_topic, start.partition)
        consumer.seek(first)
        for frame in read(consumer, 30):
            by_partition[frame.partition].append(frame.delivery_sequence)
        statistics = consumer.statistics()
    everything = [n * 5 + 1 for n in range(20)]
    assert by_partition == {0: everything, 2: everything}
    assert (statistics.gaps, statistics.duplicates, statistics.reversals) == (0, 0, 0)


def test_a_member_that_takes_over_reports_no_gaps(client: pulsar.Client, view_topic: str) -> None:
    deliver(client, view_topic, [(1, 5), (6, 5)])
    found: list[Finding] = []
    with Consumer(
        client, view_topic, "s", group=True, consumer_name="b", on_gap=found.append
    ) as one:
        assert firsts(one, 2) == [1, 6]
        # The name that sorts first takes the partition; it reads on and leaves.
        with Consumer(client, view_topic, "s", group=True, consumer_name="a") as other:
            deliver(client, view_topic, [(11, 5), (16, 5)])
            time.sleep(3)
            taken = firsts(other, 0)
        deliver(client, view_topic, [(21, 5)])
        rest = firsts(one, 3 - len(taken))
        statistics = one.statistics()
    assert sorted(x for x in (*taken, *rest) if x) == [11, 16, 21]
    assert found == []
    assert statistics.handovers == (1 if taken else 0)


def test_types_of_subscription_without_order_are_refused(client: pulsar.Client) -> None:
    with pytest.raises(ValueError, match="order"):
        Consumer(client, "t", "s", subscription_type="shared")  # type: ignore[arg-type]


async def test_asyncio_clients_keep_the_same_promises(stack: Any, topic: str) -> None:
    async with await AsyncPublisher.open(stack.service_url, name="aio", topic=topic) as publisher:
        for call in range(10):
            await publisher.publish(batch_of("trade", NAMES, call * 100, 100))
        await publisher.flush()
        assert publisher.statistics().events == 1000
    got: list[Event] = []
    async with await AsyncConsumer.open(stack.service_url, topic, "aio") as consumer:
        async for frame in consumer.frames(5):
            got += events_of(frame.batch)
        await consumer.seek("earliest")
        assert (await consumer.receive(20)) is not None
    assert_complete_and_in_order(got, 1000)


async def test_a_cancelled_receive_loses_no_frame(
    stack: Any, client: pulsar.Client, view_topic: str
) -> None:
    async with await AsyncConsumer.open(
        stack.service_url, view_topic, "s", auto_ack=False
    ) as consumer:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consumer.receive(), 0.3)
        await asyncio.to_thread(deliver, client, view_topic, [(n * 5 + 1, 5) for n in range(20)])
        got: list[int | None] = []
        while len(got) < 20:
            try:
                frame = await asyncio.wait_for(consumer.receive(), 0.0005)
            except TimeoutError:
                continue
            assert frame is not None
            got.append(frame.delivery_sequence)
            await consumer.ack(frame)
    assert got == [n * 5 + 1 for n in range(20)]


def run_example(stack: Any, name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=os.environ
        | {"DDS_PULSAR_SERVICE_URL": stack.service_url, "PYTHONPATH": str(EXAMPLES.parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_examples_run(stack: Any, topic: str) -> None:
    assert "stored 3 events" in run_example(stack, "publish.py", topic)
    assert "read 3 events, 0 gaps, 0 duplicates" in run_example(stack, "consume.py", topic)
    for example in ("consume_plain_pulsar.py", "consume_async.py"):
        assert "read 3 events" in run_example(stack, example, topic)


def test_the_documentation_runs(
    stack: Any,
    client: pulsar.Client,
    view_topic: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DDS_PULSAR_SERVICE_URL", stack.service_url)
    monkeypatch.setenv("TOPIC", view_topic)
    deliver(client, view_topic, [(1, 5), (6, 5), (16, 5)])
    text = (EXAMPLES.parent / "consuming.md").read_text("utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(snippets) == 5
    said = []
    for snippet in snippets:
        exec(compile(snippet, "consuming.md", "exec"), {})
        said.append(capsys.readouterr().out)
    first, control, plain, filled, strict = said
    assert "15 1 0 0" in first
    assert control.count("events trade") == 3
    assert "expected 11, got 16" in plain
    assert "give the view's own filter" in filled or "do not name their position" in filled
    assert "GapNotFilled" in strict
