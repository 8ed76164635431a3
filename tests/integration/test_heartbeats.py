"""Heartbeats and epoch frames on a real broker: idle partitions tell what comes next."""

from collections.abc import Iterator
from typing import Any

import pulsar
import pyarrow as pa
import pytest
from events import trades
from local_runtime import Cluster, LocalInstance, eventually

from functions.distributor import DistributorFunction
from functions.sequencer import SequencerFunction
from marketdata.control_frames import EPOCH, HEARTBEAT, NEXT_SEQUENCES, NO_EVENTS
from marketdata.frames import encode_frame, read_frame
from marketdata.partitioning import partition_of
from marketdata.plans import PLAN_KEY, Plan, View, ViewSpec, compile_plan, encode_plan
from marketdata.topics import partition_topic

pytestmark = pytest.mark.integration

NAMES = [name for name in (f"I{n}" for n in range(40)) if partition_of(name, 2) == 0][:3]
FAST: dict[str, Any] = {"heartbeat_interval_s": 0.2, "heartbeat_max_interval_s": 1.0}


@pytest.fixture
def cluster(stack: Any) -> Iterator[Cluster]:
    cluster = Cluster(stack.service_url, stack.admin_url)
    yield cluster
    cluster.client.close()


def _sequencer(cluster: Cluster, **config: Any) -> LocalInstance:
    return LocalInstance(cluster, SequencerFunction, "ingest", **FAST, **config)


def _distributor(cluster: Cluster) -> LocalInstance:
    return LocalInstance(cluster, DistributorFunction, "sequenced", **FAST)


def _publish(cluster: Cluster, *names: str) -> None:
    batch = trades(list(names))
    cluster.send(cluster.topics["ingest"], 0, encode_frame(batch).to_pybytes())


def _log(cluster: Cluster, partition: int = 0) -> list[pulsar.Message]:
    return cluster.read_all(partition_topic(cluster.topics["sequenced"], partition))


def _heartbeats(messages: list[pulsar.Message]) -> list[pulsar.Message]:
    return [m for m in messages if m.properties()["kind"] == HEARTBEAT]


def _told(messages: list[pulsar.Message]) -> dict[str, int]:
    """What the heartbeats of the log say comes next; later ones overrule."""
    told = {}
    for message in _heartbeats(messages):
        batch = read_frame(message.data())
        assert batch.schema == NEXT_SEQUENCES
        told.update({row["instrument"]: row["sequence"] for row in batch.to_pylist()})
    return told


def _positions_rise(messages: list[pulsar.Message]) -> None:
    positions = [int(m.properties()["position"]) for m in messages]
    assert positions == sorted(set(positions))


def _plan(cluster: Cluster, number: int, *specs: ViewSpec) -> list[View]:
    views = []
    for view in compile_plan(number, specs, created_at_ns=1).views:
        fields = {name: getattr(view, name) for name in ViewSpec.__struct_fields__}
        views.append(View(**fields, id=view.id, topic=cluster.create_view(view.id)))
    producer = cluster.client.create_producer(cluster.topics["plans"])
    plan = Plan(number, f"digest-{number}", 1, "test", tuple(views))
    producer.send(encode_plan(plan), partition_key=PLAN_KEY)
    producer.close()
    return views


def test_an_idle_system_beats_on_every_partition(cluster: Cluster) -> None:
    instance = _sequencer(cluster)
    for partition in range(2):
        beats = eventually(lambda p=partition: len(b := _heartbeats(_log(cluster, p))) > 3 and b)
        for beat in beats:
            properties = beat.properties()
            assert (properties["count"], properties["epoch"]) == ("0", "1")
            assert read_frame(beat.data()).num_rows == 0
        _positions_rise(_log(cluster, partition))
    instance.close()


def test_after_a_burst_a_heartbeat_tells_the_next_sequences_once(cluster: Cluster) -> None:
    instance = _sequencer(cluster)
    _publish(cluster, NAMES[0], NAMES[1], NAMES[0])
    eventually(lambda: _told(_log(cluster)) == {NAMES[0]: 3, NAMES[1]: 2})
    _publish(cluster, NAMES[1], NAMES[2])
    expected = {NAMES[0]: 3, NAMES[1]: 3, NAMES[2]: 2}
    eventually(lambda: _told(_log(cluster)) == expected)
    messages = _log(cluster)
    rows = [read_frame(m.data()).num_rows for m in _heartbeats(messages)]
    assert sum(rows) == 4  # two instruments, then two: nothing is told twice
    _positions_rise(messages)
    instance.close()


def test_who_succeeds_an_owner_that_died_in_idle_time_goes_on_beating(cluster: Cluster) -> None:
    first, second = _sequencer(cluster), _sequencer(cluster)
    _publish(cluster, *NAMES)
    eventually(lambda: len(_told(_log(cluster))) == 3)
    for dying in (first, second):
        if dying is second:
            third = _sequencer(cluster)
        dying.close()
        before = [len(_log(cluster, partition)) for partition in range(2)]
        for partition in range(2):
            eventually(
                lambda p=partition, least=before[partition]: len(_log(cluster, p)) > least + 2
            )
    _publish(cluster, *NAMES)
    eventually(lambda: _told(_log(cluster)) == dict.fromkeys(NAMES, 3))
    events = [m for m in _log(cluster) if m.properties()["kind"] == "trade"]
    numbers = [n for m in events for n in read_frame(m.data()).column("sequence").to_pylist()]
    assert numbers == [1, 1, 1, 2, 2, 2]
    _positions_rise(_log(cluster))
    third.close()


def test_every_view_beats_with_its_next_delivery_also_without_any_row(cluster: Cluster) -> None:
    everything, nothing = _plan(cluster, 1, ViewSpec(), ViewSpec(format="json"))
    if everything.format == "json":
        everything, nothing = nothing, everything
    sequencer, distributor = _sequencer(cluster), _distributor(cluster)
    other = partition_topic(nothing.topic, 1)
    assert eventually(lambda: _heartbeats(cluster.read_all(other)))[0].data() == b""
    topic = partition_topic(everything.topic, 0)
    eventually(lambda: _heartbeats(cluster.read_all(topic)))
    _publish(cluster, NAMES[0], NAMES[1], NAMES[0])
    eventually(lambda: int(cluster.read_all(topic)[-1].properties()["delivery_sequence"]) == 4)
    messages = cluster.read_all(topic)
    _check_deliveries(messages)
    last = messages[-1]
    assert last.properties()["view"] == everything.id
    assert read_frame(last.data()).schema == NO_EVENTS
    assert messages[0].properties()["kind"] == HEARTBEAT  # the count began with it

    distributor.close()
    successor = _distributor(cluster)
    behind = len(cluster.read_all(topic))
    eventually(lambda: len(cluster.read_all(topic)) > behind)
    _publish(cluster, NAMES[2])
    eventually(lambda: int(cluster.read_all(topic)[-1].properties()["delivery_sequence"]) == 5)
    _check_deliveries(cluster.read_all(topic))
    for instance in (sequencer, successor):
        instance.close()


def _check_deliveries(messages: list[pulsar.Message]) -> None:
    expected = 1
    epochs = {m.properties()["delivery_epoch"] for m in messages}
    assert len(epochs) == 1
    for message in messages:
        properties = message.properties()
        assert int(properties["delivery_sequence"]) == expected
        expected += int(properties["count"])
    _positions_rise(messages)


def test_heartbeats_of_a_view_come_ever_more_rarely(cluster: Cluster) -> None:
    (view,) = _plan(cluster, 1, ViewSpec())
    sequencer, distributor = _sequencer(cluster), _distributor(cluster)
    log = partition_topic(cluster.topics["sequenced"], 0)
    eventually(lambda: len(_heartbeats(cluster.read_all(log))) > 25)
    beats = len(_heartbeats(cluster.read_all(partition_topic(view.topic, 0))))
    assert 1 <= beats < len(_heartbeats(cluster.read_all(log)))
    for instance in (sequencer, distributor):
        instance.close()


def test_a_raised_epoch_floor_starts_anew_with_an_explicit_message(cluster: Cluster) -> None:
    (view,) = _plan(cluster, 1, ViewSpec())
    distributor = _distributor(cluster)
    first = _sequencer(cluster)
    _publish(cluster, NAMES[0], NAMES[0])
    eventually(lambda: _told(_log(cluster)) == {NAMES[0]: 3})
    first.close()
    second = _sequencer(cluster, epoch={"floor": 7, "reason": "a test"})
    _publish(cluster, NAMES[0], NAMES[1])
    eventually(lambda: _told(_log(cluster)) == {NAMES[0]: 2, NAMES[1]: 2})
    third = _sequencer(cluster, epoch={"floor": 7, "reason": "a test"})
    second.close()
    _publish(cluster, NAMES[0])
    eventually(lambda: _told(_log(cluster)) == {NAMES[0]: 3, NAMES[1]: 2})
    _one_epoch_frame_before_the_events_of_it(_log(cluster))
    _positions_rise(_log(cluster))
    topic = partition_topic(view.topic, 0)
    eventually(lambda: int(cluster.read_all(topic)[-1].properties()["delivery_sequence"]) == 6)
    delivered = cluster.read_all(topic)
    _one_epoch_frame_before_the_events_of_it(delivered)
    _check_deliveries(delivered)
    for instance in (third, distributor):
        instance.close()


def _one_epoch_frame_before_the_events_of_it(messages: list[pulsar.Message]) -> None:
    kinds = [m.properties()["kind"] for m in messages]
    assert kinds.count(EPOCH) == 1
    frame = messages[kinds.index(EPOCH)].properties()
    assert (frame["epoch"], frame["reason"], frame["count"]) == ("7", "a test", "0")
    numbers = []
    for message in messages:
        if message.properties()["kind"] == "trade":
            numbers += _numbers(read_frame(message.data()))
    assert numbers == [
        (1, NAMES[0], 1),
        (1, NAMES[0], 2),
        (7, NAMES[0], 1),
        (7, NAMES[1], 1),
        (7, NAMES[0], 2),
    ]
    before = [m for m in messages[: kinds.index(EPOCH)] if m.properties()["kind"] == "trade"]
    assert sum(int(m.properties()["count"]) for m in before) == 2


def _numbers(batch: pa.RecordBatch) -> list[tuple[int, str, int]]:
    rows = batch.to_pylist()
    return [(row["epoch"], row["instrument"], row["sequence"]) for row in rows]
