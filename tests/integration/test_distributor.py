"""The distributor on a real broker: every view its events, once, whatever happens meanwhile."""

import csv
import io
import json
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from itertools import cycle, islice
from typing import Any

import fastavro
import msgpack
import numpy as np
import pulsar
import pytest
from events import quotes, trades
from local_runtime import Cluster, LocalInstance, eventually

import functions.distributor
import functions.runtime.outputs
from functions.distributor import DistributorFunction
from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.filters import compile_filter
from marketdata.formats import formats, get_format
from marketdata.frames import encode_frame, read_frame
from marketdata.plans import (
    PLAN_KEY,
    Compression,
    Delivery,
    Plan,
    View,
    ViewSpec,
    compile_plan,
    encode_plan,
)
from marketdata.topics import partition_topic
from marketdata.transformations import Transformation

pytestmark = pytest.mark.integration


class Log:
    """Writes frames as the sequencer does; remembers every event."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._sequences = InstrumentSequences()
        self.events: list[dict[str, Any]] = []
        self.kinds: list[str] = []

    def write(self, frames: int, rows: int = 6, kinds: tuple[str, ...] = ("trade",)) -> None:
        """Frames of kinds that take turns."""
        payloads = []
        for kind in islice(cycle(kinds), frames):
            n = len(self.events)
            names = [f"I{(n + k) % 4}" for k in range(rows)]
            prices = [(n + k) * 1_000_000_000 for k in range(rows)]
            batch = trades(names, price=prices) if kind == "trade" else quotes(names)
            sequenced = with_sequences(
                batch, kind, self._sequences.assign(batch), epoch=1, ts_sequenced_ns=1
            )
            self.events += sequenced.to_pylist()
            self.kinds += [kind] * rows
            payloads.append(encode_frame(sequenced).to_pybytes())
        self._cluster.send(self._cluster.topics["sequenced"], 0, *payloads)


class Plans:
    """Publishes plans whose views have topics of the test's cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._topics: dict[str, str] = {}
        self._number = 0

    def publish(self, **specs: ViewSpec) -> dict[str, View]:
        self._number += 1
        plan = compile_plan(self._number, specs.values(), created_at_ns=1, correlation_id="test")
        views = []
        for view in plan.views:
            if view.id not in self._topics:
                self._topics[view.id] = self._cluster.create_view(view.id)
            views.append(
                View(
                    **{name: getattr(view, name) for name in ViewSpec.__struct_fields__},
                    id=view.id,
                    topic=self._topics[view.id],
                )
            )
        plan = Plan(plan.number, plan.digest, 1, "test", tuple(views))
        producer = self._cluster.client.create_producer(self._cluster.topics["plans"])
        producer.send(encode_plan(plan), partition_key=PLAN_KEY)
        producer.close()
        named = {v.id: v for v in views}
        return {name: named[_id(spec)] for name, spec in specs.items()}


def _id(spec: ViewSpec) -> str:
    return compile_plan(1, [spec], created_at_ns=1).views[0].id


def _spec(sql: str, **parts: Any) -> ViewSpec:
    compiled = compile_filter(sql)
    return ViewSpec(filter=compiled.canonical, predicate=compiled.to_json(), **parts)


def _computing(sql: str, transformation: Transformation, **parts: Any) -> ViewSpec:
    """As the control plane makes it."""
    computed = dict(transformation.compiled())
    return _spec(sql, transformation=transformation.canonical(), computed=computed, **parts)


@pytest.fixture
def cluster(stack: Any) -> Iterator[Cluster]:
    cluster = Cluster(stack.service_url, stack.admin_url)
    yield cluster
    cluster.client.close()


def _distributor(cluster: Cluster, **config: Any) -> LocalInstance:
    return LocalInstance(cluster, DistributorFunction, "sequenced", **config)


def _prices(cluster: Cluster, view: View) -> list[int]:
    return [
        price
        for message in cluster.read(partition_topic(view.topic, 0))
        for price in read_frame(message.data()).column("price").to_pylist()
    ]


def _assert_delivered(cluster: Cluster, view: View, expected: list[int]) -> None:
    found = eventually(
        lambda: (
            (p := _prices(cluster, view)) is not None and len(p) >= len(expected) and (p or [None])
        )
    )
    assert found == (expected or [None])
    next_delivery = 1
    for message in cluster.read(partition_topic(view.topic, 0)):
        properties = message.properties()
        assert int(properties["delivery_sequence"]) == next_delivery
        next_delivery += int(properties["count"])
        assert properties["view"] == view.id


def test_every_view_gets_exactly_its_events_in_its_form(cluster: Cluster) -> None:
    views = Plans(cluster).publish(
        everything=ViewSpec(),
        one=_spec("instrument = 'I1'"),
        dear=_spec("price >= 20.5 AND instrument IN ('I0', 'I2')"),
        lines=_spec(
            "instrument = 'I3'",
            format="json",
            transformation=Transformation(("instrument", "sequence", "price"), {"price": "px"}),
        ),
        worth=_computing(
            "instrument = 'I3'",
            Transformation(
                ("instrument", "sequence", "source"),
                compute={
                    "worth": "round(price * size / 4, 2)",
                    "mid": "(bid_price + ask_price) / 2",
                },
                mask=("source",),
            ),
            format="csv",
        ),
        nothing=_spec("venue = 'XNYS'"),
    )
    log = Log(cluster)
    log.write(8)
    instance = _distributor(cluster)
    price = {
        name: [e["price"] for e in log.events if e["instrument"] == name]
        for name in ("I0", "I1", "I2", "I3")
    }
    _assert_delivered(cluster, views["everything"], [e["price"] for e in log.events])
    _assert_delivered(cluster, views["one"], price["I1"])
    dear = [
        e["price"]
        for e in log.events
        if e["instrument"] in ("I0", "I2") and e["price"] >= 20_500_000_000
    ]
    _assert_delivered(cluster, views["dear"], dear)
    _assert_delivered(cluster, views["nothing"], [])
    lines = [
        json.loads(line)
        for message in cluster.read(partition_topic(views["lines"].topic, 0))
        for line in message.data().splitlines()
    ]
    assert [line["px"] for line in lines] == [str(p // 1_000_000_000) for p in price["I3"]]
    assert [line["sequence"] for line in lines] == list(range(1, len(lines) + 1))
    worth = [
        line
        for message in cluster.read(partition_topic(views["worth"].topic, 0))
        for line in csv.reader(io.StringIO(message.data().decode()))
        if line[0] != "kind"
    ]
    assert worth == [
        ["trade", "I3", str(n), "", "", f"{Decimal(p).scaleb(-9) / 4:f}".rstrip("0").rstrip(".")]
        for n, p in enumerate(price["I3"], start=1)
    ]
    only = read_frame(cluster.read(partition_topic(views["one"].topic, 0))[0].data())
    assert only.column("instrument").dictionary.to_pylist() == ["I1"]  # nobody else's name
    instance.close()


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_every_format_reaches_a_plain_client(cluster: Cluster, compression: Compression) -> None:
    views = Plans(cluster).publish(
        **{
            name: ViewSpec(format=name, delivery=Delivery(compression=compression))
            for name in formats()
        }
    )
    log = Log(cluster)
    log.write(4)
    instance = _distributor(cluster)
    try:
        for name, view in views.items():

            def decoded(name: str = name, view: View = view) -> list[dict[str, Any]]:
                messages = cluster.read(partition_topic(view.topic, 0))
                assert {message.properties()["format"] for message in messages} <= {name}
                rows = [get_format(name).decode(message.data()) for message in messages]
                events = [event for batch in rows for event in batch.to_pylist()]
                return events if len(events) >= len(log.events) else []

            assert eventually(decoded) == log.events
        if compression == "none":
            _read_by_others(cluster, views, [event["price"] for event in log.events])
    finally:
        instance.close()


def _read_by_others(cluster: Cluster, views: dict[str, View], prices: list[int]) -> None:
    def payloads(name: str) -> list[bytes]:
        return [message.data() for message in cluster.read(partition_topic(views[name].topic, 0))]

    avro = [event for data in payloads("avro") for event in fastavro.reader(io.BytesIO(data))]
    assert [int(event["price"].scaleb(9)) for event in avro] == prices
    maps = [event for data in payloads("msgpack") for event in msgpack.unpackb(data)]
    assert [event["price"] for event in maps] == prices
    lines = [
        line for data in payloads("csv") for line in csv.DictReader(io.StringIO(data.decode()))
    ]
    assert [int(Decimal(line["price"]).scaleb(9)) for line in lines] == prices


def _newest_status(cluster: Cluster) -> tuple[int, str, list[int]]:
    newest = json.loads(cluster.read(cluster.topics["status"])[-1].data())
    return newest["plan"], newest["function"], newest["partitions"]


def test_a_plan_is_switched_at_a_frame_boundary_and_named_on_every_frame(cluster: Cluster) -> None:
    plans, log = Plans(cluster), Log(cluster)
    first = plans.publish(one=_spec("instrument = 'I1'"))["one"]
    instance = _distributor(cluster)
    log.write(3)
    _assert_delivered(cluster, first, [e["price"] for e in log.events if e["instrument"] == "I1"])
    before = len(log.events)
    second = plans.publish(two=_spec("instrument = 'I2'"))["two"]
    eventually(lambda: instance.function.reporter.status.plan == 2)
    log.write(3)
    expected = [e["price"] for e in log.events[before:] if e["instrument"] == "I2"]
    _assert_delivered(cluster, second, expected)
    assert _prices(cluster, first) == [
        e["price"] for e in log.events[:before] if e["instrument"] == "I1"
    ]
    assert {m.properties()["plan"] for m in cluster.read(partition_topic(first.topic, 0))} == {"1"}
    assert {m.properties()["plan"] for m in cluster.read(partition_topic(second.topic, 0))} == {"2"}
    eventually(lambda: _newest_status(cluster) == (2, "distributor", [0]))
    instance.close()


def test_a_message_that_is_no_plan_is_counted_and_the_last_plan_stays(cluster: Cluster) -> None:
    plans, log = Plans(cluster), Log(cluster)
    view = plans.publish(one=_spec("instrument = 'I1'"))["one"]
    instance = _distributor(cluster)
    eventually(
        lambda: getattr(instance.function, "router", None) and instance.function.router.plan.number
    )
    producer = cluster.client.create_producer(cluster.topics["plans"])
    producer.send(b"{}", partition_key=PLAN_KEY)
    unusable = Plan(9, "", 1, "", (View(filter="x", predicate={"no": "tree"}, id="1", topic="t"),))
    producer.send(encode_plan(unusable), partition_key=PLAN_KEY)
    eventually(lambda: instance.function.reporter.status.last_error)
    assert "plan 9" in instance.function.reporter.status.last_error
    log.write(2)
    _assert_delivered(cluster, view, [e["price"] for e in log.events if e["instrument"] == "I1"])
    instance.close()


@pytest.mark.parametrize("stood_still", [False, True])
def test_nothing_is_acknowledged_that_a_new_view_still_lacks(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, stood_still: bool
) -> None:
    """Another instance may have begun the view with it, and ended before it was done.

    Either the plan comes while inputs are confirmed but not acknowledged, or the instance stood
    still meanwhile and does not know of the plan when it goes on.
    """
    plans, log = Plans(cluster), Log(cluster)
    one = plans.publish(one=_spec("instrument = 'I1'"))["one"]
    instance = _distributor(cluster)
    function = instance.function
    log.write(1)
    eventually(lambda: _prices(cluster, one))
    before = len(log.events)
    follower_sees, worker_goes_on = threading.Event(), threading.Event()
    acknowledge, has_newer = function._acknowledge, function._plans._newer

    def acknowledge_later(partition: Any) -> None:
        if len(partition.inputs):
            worker_goes_on.wait()
        acknowledge(partition)

    def see_later(newest: Any, message: Any) -> Any:
        follower_sees.wait()
        return has_newer(newest, message)

    monkeypatch.setattr(function, "_acknowledge", acknowledge_later)
    if stood_still:
        monkeypatch.setattr(function._plans, "_newer", see_later)
    sent = function.reporter.counters["frames_out"]
    log.write(5)
    eventually(lambda: function.reporter.counters["frames_out"] > sent)
    views = plans.publish(one=_spec("instrument = 'I1'"), two=_spec("instrument = 'I2'"))
    if stood_still:
        # Past the time for which the last answer of the broker is good.
        monkeypatch.setattr(function._plans, "_asked_at", -1e9)
    else:
        # What is acknowledged before the plan has come is not owed to its new views.
        eventually(lambda: function._next_router is not function.router)
    worker_goes_on.set()
    time.sleep(0.5)
    follower_sees.set()

    new = [e["price"] for e in log.events if e["instrument"] == "I2"]
    old = sum(e["instrument"] == "I2" for e in log.events[:before])
    # What was acknowledged before the plan was there may be absent, nothing behind it.
    eventually(lambda: _prices(cluster, views["two"]) in (new, new[old:]))
    _assert_delivered(
        cluster, views["one"], [e["price"] for e in log.events if e["instrument"] == "I1"]
    )
    instance.close()


def test_an_output_that_never_connects_again_is_opened_anew(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the client leaves a producer now and then when a broker restarts."""

    class Unconnected:
        def __init__(self, producer: Any) -> None:
            self._producer = producer

        def send_async(self, *_: Any, **__: Any) -> None:
            """It waits in the client."""

        def is_connected(self) -> bool:
            return False

        def close(self) -> None:
            self._producer.close()

    monkeypatch.setattr(functions.runtime.outputs, "UNCONNECTED_LOOKS", 1)
    views = Plans(cluster).publish(all=ViewSpec(), one=_spec("instrument = 'I1'"))
    log = Log(cluster)
    log.write(3)
    instance = _distributor(cluster)
    _assert_delivered(cluster, views["all"], [e["price"] for e in log.events])
    opened = functions.runtime.outputs.Output.send

    def send(output: Any, *arguments: Any, **options: Any) -> None:
        if output.topic.startswith(views["one"].topic) and output not in left_alone:
            left_alone.add(output)
            output._producer = Unconnected(output._producer)
        opened(output, *arguments, **options)

    left_alone: set[Any] = set()
    monkeypatch.setattr(functions.runtime.outputs.Output, "send", send)
    log.write(5)
    _assert_delivered(
        cluster, views["one"], [e["price"] for e in log.events if e["instrument"] == "I1"]
    )
    _assert_delivered(cluster, views["all"], [e["price"] for e in log.events])
    assert left_alone
    instance.close()


def test_a_new_instance_continues_every_view_where_the_last_was_cut_off(cluster: Cluster) -> None:
    views = Plans(cluster).publish(all=ViewSpec(), one=_spec("instrument = 'I1'"))
    log = Log(cluster)
    for _ in range(3):
        instance = _distributor(cluster)
        log.write(10)
        sent = len(log.events)
        eventually(lambda sent=sent: len(_prices(cluster, views["all"])) > sent - 30)
        instance.close()
    last = _distributor(cluster)
    _assert_delivered(cluster, views["all"], [e["price"] for e in log.events])
    _assert_delivered(
        cluster, views["one"], [e["price"] for e in log.events if e["instrument"] == "I1"]
    )
    last.close()


def test_kinds_together_come_once_in_the_order_of_the_log_over_restarts(cluster: Cluster) -> None:
    delivery = Delivery(kinds="together")
    views = Plans(cluster).publish(
        all=ViewSpec(delivery=delivery),
        one=_spec("instrument = 'I1' AND (kind = 'quote' OR price > 5)", delivery=delivery),
        apart=ViewSpec(),
    )
    log = Log(cluster)
    for _ in range(2):
        log.write(12, kinds=("trade", "quote"))
        instance = _distributor(cluster)
        log.write(6, kinds=("quote", "trade"))
        sent = len(log.events)
        eventually(lambda sent=sent: len(_mixed(cluster, views["all"])) > sent - 30)
        instance.close()
    last = _distributor(cluster)
    events = list(zip(log.kinds, log.events, strict=True))
    every = [(kind, e["instrument"], e["sequence"]) for kind, e in events]
    some = [
        (kind, e["instrument"], e["sequence"])
        for kind, e in events
        if e["instrument"] == "I1" and (kind == "quote" or e["price"] > 5_000_000_000)
    ]
    for view, expected in ((views["all"], every), (views["one"], some)):
        found = eventually(
            lambda view=view, expected=expected: (
                len(seen := _mixed(cluster, view)) >= len(expected) and seen
            )
        )
        assert found == expected
    eventually(lambda: _rows(cluster, views["apart"]) >= len(every))
    assert _rows(cluster, views["apart"]) == len(every)
    last.close()


def _rows(cluster: Cluster, view: View) -> int:
    messages = cluster.read(partition_topic(view.topic, 0))
    assert {m.properties()["kind"] for m in messages} <= {"trade", "quote", "heartbeat"}
    return sum(int(message.properties()["count"]) for message in messages)


def _mixed(cluster: Cluster, view: View) -> list[tuple[str, str, int]]:
    """Kind, instrument and sequence of all events, whose delivery sequences have no holes."""
    found: list[tuple[str, str, int]] = []
    for message in cluster.read(partition_topic(view.topic, 0)):
        assert int(message.properties()["delivery_sequence"]) == len(found) + 1
        if message.properties()["count"] != "0":
            assert message.properties()["kind"] == "mixed"
            rows = read_frame(message.data()).select(["kind", "instrument", "sequence"])
            found += [tuple(row.values()) for row in rows.to_pylist()]
    return found


@pytest.mark.parametrize("passed_over", [1, 5, 12])
def test_inputs_that_the_broker_passes_over_at_a_takeover_are_not_lost(
    cluster: Cluster, passed_over: int
) -> None:
    """Seen with Pulsar 4.0.8: what follows the old owner's inputs came a second before them."""
    views = Plans(cluster).publish(all=ViewSpec(), one=_spec("instrument = 'I1'"))
    log = Log(cluster)
    log.write(12)
    instance = _distributor(cluster, passed_over=passed_over)
    log.write(3)
    _assert_delivered(cluster, views["all"], [e["price"] for e in log.events])
    _assert_delivered(
        cluster, views["one"], [e["price"] for e in log.events if e["instrument"] == "I1"]
    )
    instance.close()


def test_losing_one_view_to_another_owner_doubles_and_loses_nothing(cluster: Cluster) -> None:
    views = Plans(cluster).publish(all=ViewSpec(), one=_spec("instrument = 'I1'"))
    instance = _distributor(cluster)
    log = Log(cluster)
    for turn in range(4):
        log.write(10)
        if turn % 2:
            sent = len(log.events)
            eventually(lambda sent=sent: len(_prices(cluster, views["all"])) >= sent)
        cluster.usurp(partition_topic(views["one"].topic, 0), "distributor")
    _assert_delivered(cluster, views["all"], [e["price"] for e in log.events])
    _assert_delivered(
        cluster, views["one"], [e["price"] for e in log.events if e["instrument"] == "I1"]
    )
    instance.close()
    consumer = cluster.client.subscribe(
        cluster.topics["sequenced"], "distributor", consumer_type=pulsar.ConsumerType.Failover
    )
    with pytest.raises(pulsar.Timeout):  # all was acknowledged
        consumer.receive(1_500)
    consumer.close()


POISON = 13_000_000_000


@pytest.fixture
def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """No JSON view can render the price `POISON`."""
    rendered = functions.distributor.render

    def render(view: View, rows: Any, *more: Any) -> Any:
        if view.format == "json" and np.isin(POISON, rows.column("price").to_numpy()):
            raise ValueError("poison")
        return rendered(view, rows, *more)

    monkeypatch.setattr(functions.distributor, "render", render)


@pytest.mark.usefixtures("_poison")
def test_a_dead_letter_that_is_lost_is_sent_again_though_its_view_has_gone_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = Plans(cluster).publish(lines=_spec("instrument = 'I1'", format="json"))
    output = functions.runtime.outputs.Output
    send = output.send
    lost: list[int] = []

    def lossy(
        self: Any, data: bytes, properties: Any, position: int, done: Any, **more: Any
    ) -> None:
        if "reason" in properties and not lost:
            lost.append(int(properties["position"]))
            self.position = position
            done(self.generation, pulsar.Result.Timeout, None)
        else:
            send(self, data, properties, position, done, **more)

    monkeypatch.setattr(output, "send", lossy)
    log = Log(cluster)
    log.write(6)
    instance = _distributor(cluster)
    letters = eventually(lambda: cluster.read_partition("deadletter", 0))
    assert [int(m.properties()["position"]) for m in letters] == lost
    assert views["lines"].id in letters[0].properties()["reason"]
    eventually(lambda: not instance.function._partitions[0].inputs)
    assert len(cluster.read_partition("deadletter", 0)) == 1
    instance.close()


@pytest.mark.usefixtures("_poison")
def test_a_view_that_cannot_be_rendered_gets_a_dead_letter_and_others_their_events(
    cluster: Cluster,
) -> None:
    views = Plans(cluster).publish(all=ViewSpec(), lines=_spec("instrument = 'I1'", format="json"))
    log = Log(cluster)
    log.write(6)
    instance = _distributor(cluster)
    _assert_delivered(cluster, views["all"], [e["price"] for e in log.events])
    letters = eventually(lambda: cluster.read_partition("deadletter", 0))
    assert len(letters) == 1
    assert "poison" in letters[0].properties()["reason"]
    assert views["lines"].id in letters[0].properties()["reason"]
    assert POISON in read_frame(letters[0].data()).column("price").to_pylist()
    lines = eventually(
        lambda: [
            json.loads(line)["price"]
            for message in cluster.read(partition_topic(views["lines"].topic, 0))
            for line in message.data().splitlines()
        ]
    )
    frame_of_poison = range(12, 18)
    assert lines == [
        str(e["price"] // 1_000_000_000)
        for n, e in enumerate(log.events)
        if e["instrument"] == "I1" and n not in frame_of_poison
    ]
    instance.close()


def test_a_format_that_is_not_installed_makes_dead_letters_and_others_get_their_events(
    cluster: Cluster,
) -> None:
    views = Plans(cluster).publish(all=ViewSpec(), gone=_spec("instrument = 'I1'", format="gone"))
    instance = _distributor(cluster)
    log = Log(cluster)
    log.write(3)
    _assert_delivered(cluster, views["all"], [e["price"] for e in log.events])
    assert "not installed here: gone" in instance.function.reporter.status.last_error
    letters = eventually(lambda: len(some := cluster.read_partition("deadletter", 0)) >= 3 and some)
    assert len(letters) == 3
    for letter in letters:
        assert views["gone"].id in letter.properties()["reason"]
        assert "unknown format 'gone'; formats are: arrow" in letter.properties()["reason"]
    instance.close()
