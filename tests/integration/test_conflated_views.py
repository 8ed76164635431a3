"""The conflator on a real broker, killed while a window is open and entries are under way."""

import functools
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pulsar
import pytest
from events import quotes, trades
from local_runtime import Cluster, LocalInstance, eventually
from test_distributor import Plans

from functions.conflator import ConflatorFunction
from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.consumer import Consumer
from marketdata.frames import encode_frame, read_frame
from marketdata.plans import Conflate, Delivery, View, ViewSpec
from marketdata.skipped import Skipped
from marketdata.topics import partition_topic

pytestmark = pytest.mark.integration

EVERY_MS = 100
CONFLATED = ViewSpec(delivery=Delivery(conflate=Conflate(EVERY_MS)))
RATED = ViewSpec(delivery=Delivery(max_rate=4))
"""Of two partitions: two events a second in each, and there are six instruments and kinds."""


@pytest.fixture
def cluster(stack: Any) -> Iterator[Cluster]:
    cluster = Cluster(stack.service_url, stack.admin_url)
    yield cluster
    cluster.client.close()


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Any]:
    running: list[LocalInstance] = []

    def start() -> LocalInstance:
        """Start an instance in the place of the one before, which is killed."""
        while running:
            running.pop().close()
        config = {"heartbeat_interval_s": 0.2, "lane": "conflated"}
        running.append(LocalInstance(cluster, ConflatorFunction, "sequenced", **config))
        return running[-1]

    yield start
    for instance in running:
        instance.close()


class Log:
    """Writes frames as the sequencer does."""

    def __init__(self, cluster: Cluster) -> None:
        self._sequences = InstrumentSequences()
        self._frames = 0
        self._producer = cluster.client.create_producer(
            partition_topic(cluster.topics["sequenced"], 0), batching_enabled=False
        )

    def write(self, frames: int) -> None:
        """Frames of trades and quotes of three instruments, spread over some intervals."""
        for _ in range(frames):
            self._frames += 1
            kind = "quote" if self._frames % 3 == 0 else "trade"
            names = ["A", "B", "A", "C"][: 1 + self._frames % 4]
            made = quotes(names) if kind == "quote" else trades(names)
            numbers = self._sequences.assign(made)
            batch = with_sequences(made, kind, numbers, epoch=1, ts_sequenced_ns=time.time_ns())
            self._producer.send(encode_frame(batch).to_pybytes(), properties={"kind": kind})
            time.sleep(EVERY_MS / 5_000)  # the log's time is that of publishing

    def beat(self) -> None:
        """Let time pass in the log."""
        self._producer.send(b"", properties={"kind": "heartbeat", "count": "0"})


def keys(message: pulsar.Message) -> list[tuple[str, str, int]]:
    rows = read_frame(message.data()).select(["instrument", "sequence"]).to_pylist()
    return [(message.properties()["kind"], *row.values()) for row in rows]


def test_kill_in_an_open_window(cluster: Cluster, start: Any) -> None:
    plans, log = Plans(cluster), Log(cluster)
    views = plans.publish(conflated=CONFLATED, rated=RATED)
    log.write(20)
    start()
    of = functools.partial(_messages, cluster)
    eventually(lambda: len(of(views["conflated"])) > 2)
    log.write(12)
    second = start()  # nothing is handed over: what the first one held is gone
    log.write(25)
    logged = cluster.read(partition_topic(cluster.topics["sequenced"], 0))
    last = Counter(name for message in logged for _, name, _ in keys(message))
    wanted = {}
    for message in logged:
        for kind, name, sequence in keys(message):
            wanted[message.publish_timestamp() // EVERY_MS, kind, name] = sequence

    def complete() -> bool:
        log.beat()
        return all(_accounted(of(view)) == last for view in views.values())

    eventually(complete)
    _assert_in_order(of(views["conflated"]))
    _assert_in_order(of(views["rated"]))
    delivered = [key for message in of(views["conflated"]) for key in keys(message)]
    assert Counter(delivered) == Counter((kind, n, s) for (_, kind, n), s in wanted.items())
    seconds = Counter(
        int(message.properties()["interval_begin_ms"]) // 1_000
        for message in of(views["rated"])
        for _ in keys(message)
    )
    assert max(seconds.values()) <= 2
    with Consumer(
        cluster.client, views["conflated"].topic, "reader", strict=True, contiguous=True
    ) as consumer:
        read = 0
        while read < len(delivered):
            frame = consumer.receive(timeout_s=10)
            assert frame is not None
            read += frame.batch.num_rows
        assert not consumer.statistics().gaps
    # What is done with is acknowledged, and no more.
    eventually(lambda: log.beat() or _backlog_ends(second))


def _messages(cluster: Cluster, view: View) -> list[pulsar.Message]:
    return cluster.read(partition_topic(view.topic, 0))


def _accounted(messages: list[pulsar.Message]) -> Counter[str]:
    """Of each instrument how many events were delivered or told as skipped."""
    found: Counter[str] = Counter()
    for message in messages:
        found.update(name for _, name, _ in keys(message))
        told = Skipped.told_by(message.properties())
        for name, events in zip(told.instrument, told.events, strict=True):
            found[name] += events
    return found


def _assert_in_order(messages: list[pulsar.Message]) -> None:
    """Each sequence is delivered or skipped once, in order; deliveries have no holes."""
    reached: Counter[str] = Counter()
    following = 1
    for message in messages:
        properties = message.properties()
        assert int(properties["delivery_sequence"]) == following
        following += int(properties["count"])
        told = Skipped.told_by(properties)
        ranges = [(name, n, n) for _, name, n in keys(message)]
        ranges += zip(told.instrument, told.first, told.last, strict=True)
        for name, begin, end in sorted(ranges):
            assert begin == reached[name] + 1
            reached[name] = end


def _backlog_ends(instance: LocalInstance) -> bool:
    partition = instance.function._partitions[0]
    return all(not item.held for item in partition.inputs) and len(partition.inputs) < 5
