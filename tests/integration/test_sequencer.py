"""The sequencer on a real broker: exactly once and in order through lost producers and restarts."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pulsar
import pytest
from events import trades
from local_runtime import Cluster, LocalInstance, eventually

from functions.sequencer import SequencerFunction
from marketdata.control_frames import TICK
from marketdata.frames import decode_frame, encode_frame, read_frame
from marketdata.partitioning import partition_of
from marketdata.topics import partition_topic

pytestmark = pytest.mark.integration

NAMES = [name for name in (f"I{n}" for n in range(40)) if partition_of(name, 2) == 0][:5]
ROWS = 7


@pytest.fixture
def cluster(stack: Any) -> Iterator[Cluster]:
    cluster = Cluster(stack.service_url, stack.admin_url)
    yield cluster
    cluster.client.close()


def _frame(n: int) -> bytes:
    batch = trades([NAMES[(n + k) % len(NAMES)] for k in range(ROWS)], source_sequence=[n] * ROWS)
    return encode_frame(batch).to_pybytes()


def _sequencer(cluster: Cluster, **config: Any) -> LocalInstance:
    return LocalInstance(cluster, SequencerFunction, "ingest", **config)


def _sequenced(cluster: Cluster) -> list[dict[str, Any]]:
    """The events of partition 0 of the log."""
    return [
        event
        for message in cluster.read_partition("sequenced", 0)
        for event in read_frame(message.data()).to_pylist()
    ]


def _sequenced_frames(cluster: Cluster) -> int:
    """How many of the published frames the log holds; it may hold them merged."""
    return len(_sequenced(cluster)) // ROWS


def _assert_exactly_once(cluster: Cluster, frames: int) -> None:
    eventually(lambda: _sequenced_frames(cluster) >= frames)
    events = _sequenced(cluster)
    assert [event["source_sequence"] for event in events] == [
        n for n in range(frames) for _ in range(ROWS)
    ]
    last: dict[str, int] = {}
    for event in events:
        assert event["sequence"] == last.get(event["instrument"], 0) + 1
        last[event["instrument"]] = event["sequence"]


def _backlog_is_acknowledged(cluster: Cluster, instance: LocalInstance) -> None:
    partitions = instance.function._partitions
    eventually(lambda: not any(len(partition.inputs) for partition in partitions.values()))
    instance.close()
    consumer = cluster.client.subscribe(
        cluster.topics["ingest"], "sequencer", consumer_type=pulsar.ConsumerType.Failover
    )
    left = []
    with contextlib.suppress(pulsar.Timeout):
        while True:
            left.append(consumer.receive(1_500).properties().get("kind"))
    consumer.close()
    assert set(left) <= {TICK}  # one may have been under way when the instance was cut off


def test_good_frames_are_sequenced_and_bad_ones_kept_with_their_reason(cluster: Cluster) -> None:
    foreign = next(n for n in (f"I{n}" for n in range(40)) if partition_of(n, 2) == 1)
    bad = {
        "not_arrow": b"nonsense",
        "wrong_partition": encode_frame(trades([foreign])).to_pybytes(),
        "trailing_bytes": _frame(0) + b"!",
    }
    cluster.send(cluster.topics["ingest"], 0, _frame(0), *bad.values(), _frame(1))
    instance = _sequencer(cluster)
    _assert_exactly_once(cluster, 2)
    letters = eventually(
        lambda: (m := cluster.read_partition("deadletter", 0)) and len(m) == 3 and m
    )
    assert [m.data() for m in letters] == list(bad.values())
    assert [m.properties()["reason_code"] for m in letters] == list(bad)
    for letter in letters:
        properties = letter.properties()
        assert properties["function"] == "sequencer"
        assert properties["source_topic"] == partition_topic(cluster.topics["ingest"], 0)
        assert properties["source_position"].count(":") == 2
        assert properties["reason"]
    eventually(lambda: instance.context.metrics.get("dead_letters") == 3)
    assert instance.context.metrics["events_out"] == 14
    _backlog_is_acknowledged(cluster, instance)


def test_the_sequenced_frame_keeps_what_the_publisher_sent(cluster: Cluster) -> None:
    batch = trades([NAMES[0], NAMES[1]])
    cluster.send(
        cluster.topics["ingest"],
        0,
        encode_frame(batch).to_pybytes(),
        properties={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    )
    instance = _sequencer(cluster)
    message = eventually(lambda: cluster.read_partition("sequenced", 0))[0]
    sequenced = decode_frame(message.data(), sequenced=True)
    assert sequenced.select(batch.schema.names).equals(batch)
    properties = message.properties()
    assert properties["traceparent"].startswith("00-0af7")
    assert (properties["kind"], properties["count"]) == ("trade", "2")
    instance.close()


@pytest.mark.parametrize("snapshot_interval_s", [0.0, 3600.0])
def test_a_new_instance_continues_where_the_last_one_was_cut_off(
    cluster: Cluster, snapshot_interval_s: float
) -> None:
    for turn in range(3):
        instance = _sequencer(cluster, snapshot_interval_s=snapshot_interval_s)
        cluster.send(
            cluster.topics["ingest"], 0, *(_frame(n) for n in range(turn * 10, turn * 10 + 10))
        )
        if turn < 2:
            eventually(lambda: cluster.read_partition("sequenced", 0))
        else:
            _assert_exactly_once(cluster, 30)
        instance.close()


def test_a_snapshot_of_an_idle_log_covers_it_all_and_nothing_is_read_again(
    cluster: Cluster,
) -> None:
    first = _sequencer(cluster, snapshot_interval_s=3600.0)
    cluster.send(cluster.topics["ingest"], 0, *(_frame(n) for n in range(5)))
    newest = eventually(lambda: cluster.read_partition("sequenced", 0))[-1].properties()["position"]
    eventually(
        lambda: any(
            message.properties()["position"] >= newest
            for message in cluster.read_partition("state", 0)
        )
    )
    first.close()
    second = _sequencer(cluster)
    cluster.send(cluster.topics["ingest"], 0, _frame(5))
    _assert_exactly_once(cluster, 6)
    second.close()


def test_a_fenced_instance_takes_its_partition_back_without_loss_or_repeat(
    cluster: Cluster,
) -> None:
    instance = _sequencer(cluster)
    log = partition_topic(cluster.topics["sequenced"], 0)
    for turn in range(4):
        cluster.send(
            cluster.topics["ingest"], 0, *(_frame(n) for n in range(turn * 10, turn * 10 + 10))
        )
        if turn % 2:  # once fenced while idle, once while sending
            eventually(lambda sent=turn * 10 + 10: _sequenced_frames(cluster) >= sent)
        cluster.usurp(log, "sequencer")
    _assert_exactly_once(cluster, 40)
    assert instance.function.reporter.counters["recoveries"] >= 2
    _backlog_is_acknowledged(cluster, instance)


def test_two_instances_that_both_hold_inputs_do_not_double_them(cluster: Cluster) -> None:
    first = _sequencer(cluster)
    cluster.send(cluster.topics["ingest"], 0, *(_frame(n) for n in range(20)))
    second = _sequencer(cluster)
    cluster.send(cluster.topics["ingest"], 0, *(_frame(n) for n in range(20, 40)))
    eventually(lambda: _sequenced_frames(cluster) > 5)
    first.consumer.close()  # its partitions move; what it holds unconfirmed it still finishes
    cluster.send(cluster.topics["ingest"], 0, *(_frame(n) for n in range(40, 60)))
    _assert_exactly_once(cluster, 60)
    first.close()
    second.close()


def test_what_the_broker_delivers_again_is_recognised(cluster: Cluster) -> None:
    instance = _sequencer(cluster)
    for turn in range(5):
        cluster.send(
            cluster.topics["ingest"], 0, *(_frame(n) for n in range(turn * 10, turn * 10 + 10))
        )
        instance.consumer.redeliver_unacknowledged_messages()
    _assert_exactly_once(cluster, 50)
    _backlog_is_acknowledged(cluster, instance)


def test_frames_in_a_producers_batch_are_all_sequenced(cluster: Cluster) -> None:
    producer = cluster.client.create_producer(
        partition_topic(cluster.topics["ingest"], 0),
        batching_enabled=True,
        batching_max_publish_delay_ms=200,
    )
    for n in range(12):
        producer.send_async(_frame(n), lambda *_: None)
    producer.flush()
    producer.close()
    instance = _sequencer(cluster)
    _assert_exactly_once(cluster, 12)
    _backlog_is_acknowledged(cluster, instance)
