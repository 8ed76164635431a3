"""The sequencer's stage over a broker in memory: cut off anywhere, it ends with the same log.

A real broker cannot be made to store just this prefix of what is on its way; here every producer's
messages are stored up to a point that hypothesis chooses, then the instance is gone and a new one
gets what was not acknowledged. Everything above the Pulsar client is the real thing.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pulsar
import pyarrow as pa
import pytest
from events import trades
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.operators.source_order import SourceOrder
from functions.runtime import function as runtime
from functions.runtime.inputs import Input
from functions.runtime.settings import FunctionSettings
from functions.runtime.status import StatusReporter
from functions.sequencer import SequencerFunction
from functions.sequencing import SequencerStage
from marketdata.control_frames import TICK, is_control
from marketdata.frames import encode_frame, read_frame
from marketdata.mixed import MIXED, mixed_batch
from marketdata.ordering import (
    OrderingEvent,
    decode_ordering_events,
    decode_resend_request,
    read_ordering_property,
)
from marketdata.schemas import INGEST_SCHEMAS, REPEATED

NAMES = ("A", "B", "C")
POLICIES = {
    "hold-*": {"policy": "hold", "hold_ms": 1000, "hold_rows": 8},
    "drop": {"policy": "drop_repeats"},
    "reject": {"policy": "reject"},
    "default": {"policy": "pass", "late_after_ms": 5},
}


class Message:
    def __init__(self, entry: int, data: bytes, properties: dict[str, str]) -> None:
        self._id = pulsar.MessageId(0, 1, entry, -1)
        self._data, self._properties = data, properties

    def data(self) -> bytes:
        return self._data

    def properties(self) -> dict[str, str]:
        return self._properties

    def message_id(self) -> pulsar.MessageId:
        return self._id


class Producer:
    def __init__(self, broker: "Broker", topic: str, name: str) -> None:
        self._broker, self._topic, self._key = broker, topic, (topic, name)
        self.flying: list[tuple[bytes, Any, dict[str, str], int]] = []
        broker.producers.append(self)

    def last_sequence_id(self) -> int:
        return self._broker.last.get(self._key, -1)

    def send_async(
        self,
        data: bytes,
        callback: Callable[[Any, Any], None],
        *,
        properties: dict[str, str] | None = None,
        sequence_id: int = -2,
        **_: Any,
    ) -> None:
        self.flying.append((data, callback, properties or {}, sequence_id))

    def store(self, count: int) -> None:
        """Store the first messages on their way, and answer."""
        for callback, message_id in self.store_quietly(count):
            callback(pulsar.Result.Ok, message_id)

    def store_quietly(self, count: int) -> list[tuple[Callable[[Any, Any], None], Any]]:
        """Store the first messages on their way; the answers are still to be given."""
        done, self.flying = self.flying[:count], self.flying[count:]
        answers = []
        for data, callback, properties, sequence_id in done:
            message_id = pulsar.MessageId(-1, -1, -1, -1)
            if sequence_id == -2 or sequence_id > self._broker.last.get(self._key, -1):
                topic = self._broker.topics[self._topic]
                topic.append(Message(len(topic), data, properties))
                message_id = topic[-1].message_id()
                if sequence_id >= 0:
                    self._broker.last[self._key] = sequence_id
            answers.append((callback, message_id))
        return answers

    def close(self) -> None:
        self.flying = []


class Reader:
    def __init__(self, messages: list[Message], start: pulsar.MessageId, *, newest: bool) -> None:
        behind = [m for m in messages if m.message_id().entry_id() > start.entry_id()]
        self._messages = messages[-1:] if newest else behind

    def has_message_available(self) -> bool:
        return bool(self._messages)

    def read_next(self, _: int) -> Message:
        return self._messages.pop(0)

    def close(self) -> None:
        pass


class Broker:
    """Topics, what each producer has stored, and the input that is not acknowledged."""

    def __init__(self) -> None:
        self.topics: defaultdict[str, list[Message]] = defaultdict(list)
        self.last: dict[tuple[str, str], int] = {}
        self.producers: list[Producer] = []
        self.inputs: dict[int, tuple[bytes, dict[str, str], int]] = {}
        self.published = 0
        self.delivered: set[int] = set()
        self.now_s = 0.0

    def create_producer(self, topic: str, **options: Any) -> Producer:
        return Producer(self, topic, options.get("producer_name", "anonymous"))

    def create_reader(self, topic: str, start: pulsar.MessageId, **options: Any) -> Reader:
        newest = bool(options.get("start_message_id_inclusive"))
        return Reader(list(self.topics[topic]), start, newest=newest)

    def publish(self, data: bytes, properties: dict[str, str], batch_index: int) -> int:
        self.inputs[self.published] = (data, properties, batch_index)
        self.published += 1
        return self.published - 1

    def acknowledge(self, message_id: pulsar.MessageId) -> None:
        self.inputs.pop(message_id.entry_id(), None)

    def redeliver_unacknowledged_messages(self) -> None:
        self.delivered.clear()


class Context:
    def get_instance_id(self) -> str:
        return "0"

    def record_metric(self, *_: Any) -> None:
        pass


class Instance:
    """A function instance whose worker is turned by hand."""

    def __init__(self, broker: Broker, config: dict[str, Any]) -> None:
        self.broker = broker
        broker.producers = []
        broker.delivered = set()
        self.function = SequencerFunction()
        function: Any = self.function
        function.context, function.log = Context(), logging.getLogger("test")
        settings = FunctionSettings.from_user_config(
            {"gather_max_s": 0.0, "topics": TOPICS, "partitions": 1, "sources": POLICIES, **config}
        )
        function.configure(settings)
        function.client = broker
        function.reporter = StatusReporter(Context(), function="sequencer", version="", topic="s")
        function.reporter.report = lambda: None
        function.reporter._due = time.monotonic() + 1e6
        function.setup()

    def deliver(self) -> None:
        """Hand over all that is not acknowledged and was not handed over yet."""
        while new := sorted(self.broker.inputs.keys() - self.broker.delivered):
            for entry in new:
                data, properties, index = self.broker.inputs[entry]
                self.broker.delivered.add(entry)
                item = Input(pulsar.MessageId(0, 5, entry, index), data, properties)
                self.function._room.take(item.size_bytes)
                self.function._events.put(runtime._Received(0, item, self.broker))
            self.turn()
        self.turn()

    def turn(self) -> None:
        for _ in range(5):
            for partition in self.function._partitions.values():
                partition.retry_at = 0.0
            self.function._events.put(runtime._Wake())
            self.function._turn()
            if all(partition.ready for partition in self.function._partitions.values()):
                return
        raise AssertionError("a broker in memory is never away")

    def store(self, share: Callable[[int], int]) -> None:
        for producer in list(self.broker.producers):
            producer.store(share(len(producer.flying)))
        self.turn()

    def tick(self) -> None:
        self.broker.publish(b"", {"kind": TICK}, -1)
        self.deliver()

    @property
    def stage(self) -> SequencerStage:
        stage = self.function._partitions[0].stage
        assert isinstance(stage, SequencerStage)
        return stage

    def settle(self) -> None:
        """Let time pass until nothing waits and everything is stored."""
        for _ in range(50):
            self.store(lambda n: n)
            due = self.stage.due_in_s(self.broker.now_s)
            if due is None and not any(p.flying for p in self.broker.producers):
                break
            self.broker.now_s += due or 0.0
            self.tick()
        self.store(lambda n: n)
        self.turn()


TOPICS = {
    name: name
    for name in ("ingest", "sequenced", "deadletter", "state", "status", "ordering", "resend")
}


@pytest.fixture(autouse=True, scope="module")
def _no_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "RETRY_S", (0.0, 0.0))
        patch.setattr(runtime, "ASK_AGAIN_S", 0.0)
        yield


def _frame(kind: str, source: str, rows: list[tuple[str, int | None, int]]) -> bytes:
    batch = trades(
        [name for name, _, _ in rows],
        source=[source] * len(rows),
        source_sequence=[number for _, number, _ in rows],
        ts_event=[10**9 + 10**6 * at for _, _, at in rows],
    )
    if kind == "status":
        batch = _statuses(batch)
    elif kind == MIXED:
        runs = [("trade", "status")[n % 2] for n in range(len(rows))]
        batch = mixed_batch(
            [
                (one, batch.slice(n, 1) if one == "trade" else _statuses(batch.slice(n, 1)))
                for n, one in enumerate(runs)
            ]
        )
    return encode_frame(batch).to_pybytes()


def _statuses(trades: pa.RecordBatch) -> pa.RecordBatch:
    """Statuses with what trades say in the columns that both have."""
    schema = INGEST_SCHEMAS["status"]
    columns = [
        trades.column(f.name) if f.name in trades.schema.names else pa.nulls(len(trades), f.type)
        for f in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _kinds(kind: str, rows: int) -> list[str]:
    """The kind of each row of what `_frame` makes."""
    return [("trade", "status")[n % 2] if kind == MIXED else kind for n in range(rows)]


def _events_of(broker: Broker) -> list[dict[str, Any]]:
    return [
        {"kind": message.properties()["kind"], **event}
        for message in broker.topics["sequenced-partition-0"]
        if not is_control(message.properties())
        for event in read_frame(message.data()).to_pylist()
    ]


def _findings_of(broker: Broker) -> list[OrderingEvent]:
    return [
        event
        for message in broker.topics["ordering-partition-0"]
        for event in decode_ordering_events(message.data())
    ]


def _instance(broker: Broker, **config: Any) -> Instance:
    instance = Instance(broker, config)
    make = instance.function.stage

    def stage(partition: int) -> Any:
        made = make(partition)
        made.clock = lambda: broker.now_s
        return made

    instance.function.stage = stage  # type: ignore[method-assign]
    return instance


def _check(
    broker: Broker,
    order: SourceOrder,
    published: list[tuple[str, str, list[tuple[str, int | None, int]]]],
) -> None:
    """What holds whatever happened."""
    events = _events_of(broker)
    positions = [int(m.properties()["position"]) for m in broker.topics["sequenced-partition-0"]]
    assert positions == sorted(set(positions))
    last: Counter[str] = Counter()
    for event in events:  # contiguous per instrument
        last[event["instrument"]] += 1
        assert event["sequence"] == last[event["instrument"]]
    findings = _findings_of(broker)
    logged = [
        event
        for message in broker.topics["sequenced-partition-0"]
        if "ordering" in message.properties()
        for event in read_ordering_property(message.properties()["ordering"])
    ]
    assert findings == logged  # each once, in log order
    assert len({f.id for f in findings}) == len(findings)
    got = Counter((e["kind"], e["source"], e["instrument"], e["source_sequence"]) for e in events)
    sent = Counter(
        (kind, source, name, number)
        for frame, source, rows in published
        for kind, (name, number, _) in zip(_kinds(frame, len(rows)), rows, strict=True)
    )
    assert not got - sent, "nothing is doubled or invented"
    missing = sent - got
    left_out = Counter[tuple[str, str]]()
    for found in findings:
        if found.action == "dropped":
            left_out[found.source, found.instrument] += found.events
    lost = Counter[tuple[str, str]]()
    for (_, source, name, _), count in missing.items():
        if source != "reject":
            lost[source, name] += count
    assert lost == left_out, "what is not in the log is told of"
    letters = broker.topics["deadletter-partition-0"]
    rejected = Counter(
        (
            event.get("kind", message.properties()["original_kind"]),
            "reject",
            event["instrument"],
            event["source_sequence"],
        )
        for message in letters
        for event in read_frame(message.data()).to_pylist()
    )
    assert Counter({k: n for k, n in missing.items() if k[1] == "reject"}) == rejected
    for event in events:
        if event["source"] in ("hold-1", "hold-2", "drop"):
            assert not event["quality_flags"] & REPEATED
    opened = {f.gap_id: (f.first, f.last) for f in findings if f.type == "gap_opened"}
    requests = [decode_resend_request(m.data()) for m in broker.topics["resend"]]
    for request in requests:
        first, last = opened[request.gap_id]
        assert first <= request.first <= request.last <= last
    missing_still = {f"0:{g.position}:{g.n}" for gaps in order.gaps.values() for g in gaps}
    assert missing_still <= {request.gap_id for request in requests}
    assert {f.gap_id for f in findings if f.type == "gap_closed"} <= opened.keys()
    assert not broker.inputs, "everything is acknowledged"


def _fence(broker: Broker, instance: Instance, topic: str) -> None:
    """What is on its way to one topic is lost, to the others stored and answered too late."""
    answers = []
    for producer in list(broker.producers):
        if producer._topic == f"{topic}-partition-0":
            flying, producer.flying = producer.flying, []
            for _, callback, _, _ in flying:
                callback(pulsar.Result.ProducerFenced, None)
        else:
            answers += producer.store_quietly(len(producer.flying))
    instance.turn()
    for callback, message_id in answers:
        callback(pulsar.Result.Ok, message_id)


rows_strategy = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(0, 9) | st.none(), st.integers(0, 30)),
    min_size=1,
    max_size=6,
)
frames_strategy = st.tuples(
    st.sampled_from(("trade", "status", MIXED)),
    st.sampled_from(("hold-1", "hold-2", "drop", "reject", "feed")),
    rows_strategy,
)
steps = st.lists(
    st.tuples(st.just("publish"), frames_strategy, st.sampled_from((-1, -1, 0)))
    | st.tuples(st.sampled_from(("deliver", "store", "crash", "fence")), st.integers(0, 3))
    | st.tuples(st.just("wait"), st.integers(0, 1500)),
    max_size=40,
)


@settings(max_examples=80)
@given(steps, st.sampled_from((1, 3, 8192)), st.sampled_from((0.0, 3600.0)))
def test_cut_off_anywhere_nothing_is_lost_doubled_or_told_twice(
    steps: list[Any], max_rows: int, snapshot_interval_s: float
) -> None:
    config = {"max_rows": max_rows, "snapshot_interval_s": snapshot_interval_s}
    broker = Broker()
    instance = _instance(broker, **config)
    published = []
    for what, *arguments in steps:
        if what == "publish":
            (kind, source, rows), index = arguments
            published.append((kind, source, rows))
            broker.publish(_frame(kind, source, rows), {"kind": kind}, index)
        elif what == "deliver":
            instance.deliver()
        elif what == "store":
            instance.store(lambda n, most=arguments[0]: min(n, most))
        elif what == "crash":
            for producer in list(broker.producers):  # some is stored, nobody hears of it
                producer.store(min(len(producer.flying), arguments[0]))
            instance = _instance(broker, **config)
        elif what == "fence":
            _fence(broker, instance, ("sequenced", "ordering", "deadletter")[arguments[0] % 3])
        else:
            broker.now_s += arguments[0] / 1000
            instance.deliver()
    instance.tick()
    instance.settle()
    _check(broker, instance.stage._state.order, published)


def test_kinds_that_take_turns_leave_in_one_frame() -> None:
    broker = Broker()
    instance = _instance(broker)
    frames: list[tuple[str, str, list[tuple[str, int | None, int]]]] = [
        (kind, "feed", [("A", n, n), ("B", n, n)])
        for n, kind in enumerate(("trade", "status", MIXED, "trade"), start=1)
    ]
    for frame in frames:
        broker.publish(_frame(*frame), {"kind": frame[0]}, -1)
    instance.deliver()
    instance.settle()
    kinds = [message.properties()["kind"] for message in broker.topics["sequenced-partition-0"]]
    assert kinds.count(MIXED) == 1
    assert not {"trade", "status"} & set(kinds)
    _check(broker, instance.stage._state.order, frames)


def test_what_a_stranger_wrote_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker()
    instance = _instance(broker)
    strange = trades(["A"]).replace_schema_metadata({"kind": "x" * 1_000_000})
    broker.publish(encode_frame(strange).to_pybytes(), {}, -1)
    with caplog.at_level(logging.WARNING, "test"):
        instance.deliver()
    [said] = [line for line in caplog.messages if "dead-lettered" in line]
    assert "schema metadata says kind=" in said
    assert len(said) < 2_000


def test_rows_that_waited_take_no_place_of_the_inputs_that_share_an_entry() -> None:
    broker = Broker()
    instance = _instance(broker, max_rows=1)

    def receive(index: int, source: str, *rows: tuple[str, int | None, int]) -> None:
        data = _frame("trade", source, list(rows))
        item = Input(pulsar.MessageId(0, 5, 0, index), data, {"kind": "trade"})
        instance.function._room.take(item.size_bytes)
        instance.function._events.put(runtime._Received(0, item, broker))
        instance.turn()
        instance.store(lambda n: n)

    for _ in range(2):  # what comes first is in doubt until it comes again
        receive(0, "hold-1", ("A", 1, 1))
    receive(1, "hold-1", *(("A", n, n) for n in (3, 4, 5, 6)))
    broker.now_s += 10
    receive(2, "feed", ("B", 1, 1), ("B", 2, 2))  # larger than frames of the log are to be
    for index, number in ((3, 3), (4, 4)):
        receive(index, "feed", ("B", number, number))
    instance.tick()
    instance.settle()
    found: dict[str, list[int]] = {"A": [], "B": []}
    for event in _events_of(broker):
        found[event["instrument"]].append(event["source_sequence"])
    assert found == {"A": [1, 3, 4, 5, 6], "B": [1, 2, 3, 4]}


def _published(broker: Broker, instance: Instance, source: str, *numbers: int) -> Any:
    rows: list[tuple[str, int | None, int]] = [("A", n, 10 + n) for n in numbers]
    broker.publish(_frame("trade", source, rows), {"kind": "trade"}, -1)
    instance.deliver()
    return "trade", source, rows


def test_what_the_log_stored_while_it_was_taken_over_again_is_acknowledged() -> None:
    broker = Broker()
    instance = _instance(broker)
    published = [_published(broker, instance, "feed", 1, 3)]
    instance.store(lambda n: n)
    published.append(_published(broker, instance, "feed", 5))
    instance.store(lambda n: n)  # the finding is on its way now
    published.append(_published(broker, instance, "feed", 6))
    _fence(broker, instance, "ordering")
    for number in (7, 8, 9):
        published.append(_published(broker, instance, "feed", number))
        instance.store(lambda n: n)
    instance.settle()
    _check(broker, instance.stage._state.order, published)


def test_the_letter_of_a_refused_frame_is_sent_again_when_only_the_letters_were_lost() -> None:
    broker = Broker()
    instance = _instance(broker)
    published = [_published(broker, instance, "reject", 1, 2)]
    instance.store(lambda n: n)
    published.append(_published(broker, instance, "reject", 2))
    published.append(_published(broker, instance, "feed", 1))  # its frame tells of the refusal
    _fence(broker, instance, "deadletter")
    instance.settle()
    _check(broker, instance.stage._state.order, published)


def test_what_was_not_told_yet_is_told_once_when_only_the_letters_were_lost() -> None:
    broker = Broker()
    instance = _instance(broker)
    published = [_published(broker, instance, "drop", 1, 2)]
    published.append(_published(broker, instance, "reject", 1))
    published.append(_published(broker, instance, "hold-1", 1, 3))
    instance.store(lambda n: n)
    broker.now_s += 0.1
    instance.tick()
    instance.store(lambda n: n)
    published.append(_published(broker, instance, "drop", 2))
    published.append(_published(broker, instance, "reject", 1))
    _fence(broker, instance, "deadletter")
    instance.settle()
    _check(broker, instance.stage._state.order, published)


def test_snapshots_go_on_when_the_broker_drops_the_frame_of_one_as_a_repeat() -> None:
    broker = Broker()
    instance = _instance(broker, snapshot_interval_s=0.0)
    _published(broker, instance, "feed", 1)
    (log,) = (p for p in broker.producers if p._topic == "sequenced-partition-0" and p.flying)
    # The answer is lost with the connection: the client sends the frame again.
    again = list(log.flying)
    log.store_quietly(1)
    log.flying = again
    instance.store(lambda n: n)
    _published(broker, instance, "feed", 2)
    instance.store(lambda n: n)
    instance.store(lambda n: n)
    assert len(broker.topics["state-partition-0"]) == 1


def test_no_snapshot_is_of_an_epoch_that_the_log_does_not_tell_yet() -> None:
    broker = Broker()
    instance = _instance(broker)
    _published(broker, instance, "feed", 1)
    instance.settle()
    for _ in range(2):  # the first one ends before anything comes
        instance = _instance(broker, epoch={"floor": 2})
        item = Input(pulsar.MessageId(0, 5, 1000, -1), b"", {})  # in doubt: it is not taken
        instance.function._room.take(item.size_bytes)
        instance.function._events.put(runtime._Received(0, item, broker))
        instance.turn()
        instance.stage.tidy()
        instance.store(lambda n: n)
    _published(broker, instance, "feed", 2)
    instance.settle()
    kinds = [m.properties()["kind"] for m in broker.topics["sequenced-partition-0"]]
    assert kinds.count("epoch") == 1


def test_inputs_that_may_be_applied_again_take_room_until_they_are_acknowledged() -> None:
    broker = Broker()
    instance = _instance(broker)
    function: Any = instance.function
    function.applies_again, function.may_acknowledge = True, lambda: False
    _published(broker, instance, "feed", 1)
    instance.store(lambda n: n)
    assert function._room._frames == len(broker.inputs) == 1
    function.may_acknowledge = lambda: True
    instance.turn()
    assert function._room._frames == len(broker.inputs) == 0


def test_a_producer_of_snapshots_that_failed_is_replaced() -> None:
    broker = Broker()
    instance = _instance(broker, snapshot_interval_s=0.0)
    for number in (1, 2):
        _published(broker, instance, "feed", number)
        (log,) = (p for p in broker.producers if p._topic == "sequenced-partition-0")
        log.store(1)
        instance.turn()
        (_, callback, _, _) = broker.producers[-1].flying.pop()
        callback(pulsar.Result.Timeout, None)
    assert [p._topic for p in broker.producers].count("state-partition-0") == 2
