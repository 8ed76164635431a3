"""The conflator without a broker: what comes out does not depend on crashes or on how it is fed."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pulsar
import pyarrow as pa
import pytest
from events import quotes, trades
from hypothesis import given, settings
from hypothesis import strategies as st

import functions.conflator
from functions.conflator import ConflatorStage
from functions.operators.route import Router
from functions.operators.sequence import InstrumentSequences, with_sequences
from functions.runtime.custom_calls import CustomCalls
from functions.runtime.inputs import Input, PartitionInputs
from functions.runtime.outputs import Message, NotYetReadable, Output
from functions.runtime.settings import FunctionSettings, Topics
from marketdata.filters import compile_filter
from marketdata.frames import encode_frame, read_frame
from marketdata.plans import Conflate, Delivery, Plan, View, ViewSpec, compile_plan, view_of
from marketdata.reference import Enrichment, ReferenceTable, TableRef, TableSpec, content_of
from marketdata.reference.table import read_content, schema_of
from marketdata.rules import Rule
from marketdata.skipped import Skipped
from marketdata.transformations import Transformation

TICK_MS = 100


class Logged(NamedTuple):
    """An input of the log; None for the batch is a heartbeat, an epoch with a reason."""

    number: int
    time_ms: int
    batch: pa.RecordBatch | None
    properties: dict[str, str]

    def item(self) -> Input:
        data = b"" if self.batch is None else encode_frame(self.batch).to_pybytes()
        return Input(pulsar.MessageId(0, 7, self.number, -1), data, self.properties, self.time_ms)


def log_of(steps: Sequence[tuple[int, str, Sequence[str]]], *, close: bool = True) -> list[Logged]:
    """A log of frames; each step says how much later it is, the kind, and the instruments."""
    sequences = InstrumentSequences()
    log, now_ms = [], 1_000_000
    for number, (later, kind, names) in enumerate(steps):
        now_ms += later * TICK_MS
        if not names:
            log.append(Logged(number, now_ms, None, {"kind": "heartbeat"}))
            continue
        made = {"trade": trades, "quote": quotes}[kind](list(names))
        numbers = sequences.assign(made)
        batch = with_sequences(made, kind, numbers, epoch=1, ts_sequenced_ns=now_ms * 1_000_000)
        log.append(Logged(number, now_ms, batch, {"kind": kind}))
    if close:
        log.append(Logged(len(steps), now_ms + 100_000, None, {"kind": "heartbeat"}))
    return log


class Stored(NamedTuple):
    """A message that the broker has."""

    position: int
    data: bytes
    properties: dict[str, str]


class Broker:
    """Topics that outlive a function."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Stored]] = defaultdict(list)

    def create_producer(self, topic: str, **_: Any) -> Any:
        last = self.topics[topic][-1].position if self.topics[topic] else -1
        return SimpleNamespace(last_sequence_id=lambda: last, close=lambda: None)

    def create_reader(self, topic: str, *_: Any, **__: Any) -> Any:
        newest = self.topics[topic][-1:]
        return SimpleNamespace(
            has_message_available=lambda: bool(newest),
            read_next=lambda _: SimpleNamespace(properties=lambda: newest[0].properties),
            close=lambda: None,
        )


class Instance:
    """One life of the function for one partition."""

    def __init__(self, broker: Broker, plan: Plan, confirm: Iterator[bool]) -> None:
        self._broker = broker
        self._confirm = confirm
        self._under_way: list[tuple[Output, Sequence[Input], int, list[Stored]]] = []
        self.inputs = PartitionInputs()
        self.counters: Counter[str] = Counter()
        reporter: Any = SimpleNamespace(
            counters=self.counters, observe_latency=lambda _: None, error=lambda _: None
        )
        self.function: Any = SimpleNamespace(
            name="conflator",
            settings=FunctionSettings(
                Topics(deadletter="persistent://t/n/dead"), partitions=1, heartbeat_interval_s=1e9
            ),
            reporter=reporter,
            router=Router(plan),
            openers=ThreadPoolExecutor(1),
            client=broker,
            custom=CustomCalls(600.0, reporter),
            log=logging.getLogger("test"),
            send=self._send,
            send_together=self._send_together,
        )
        self.stage = ConflatorStage(self.function, 0)

    def apply(self, items: Sequence[Input]) -> None:
        for item in items:
            self.inputs._pending.append(item)
        self.stage.apply(items)
        for item in items:
            item.applied = True
        self._settle()

    def acknowledged(self) -> list[Input]:
        return list(self.inputs.take_confirmed())

    def finish(self) -> None:
        self._confirm = iter(lambda: True, False)
        self._settle()

    def _settle(self) -> None:
        while self._under_way and next(self._confirm):
            output, items, position, stored = self._under_way.pop(0)
            self._broker.topics[output.topic] += stored
            for item in items:
                if item.waiting.get(output) == position:
                    del item.waiting[output]

    def _send_together(
        self,
        output: Output,
        _: int,
        items: Sequence[Input],
        messages: Sequence[Message],
        *,
        position: int,
    ) -> None:
        assert position > output.position
        output.position = position
        stored = [Stored(position, m.data, dict(m.properties)) for m in messages]
        self._under_way.append((output, items, position, stored))
        for item in items:
            item.waiting[output] = position

    def _send(
        self,
        output: Output,
        partition: int,
        items: Sequence[Input],
        data: bytes,
        properties: dict[str, str],
        *,
        position: int | None = None,
        **_: Any,
    ) -> None:
        place = items[-1].position if position is None else position
        self._send_together(
            output, partition, items, [Message(data, properties, None, 0)], position=place
        )


def run(
    log: Sequence[Logged],
    plan: Plan,
    *,
    chunks: Iterator[int] | None = None,
    lives: Sequence[int] = (),
    confirm: Iterator[bool] | None = None,
) -> dict[str, list[Stored]]:
    """What the topics hold of a log.

    Args:
        chunks: how many inputs are applied together.
        lives: after how many chunks an instance dies; the last one does not.
        confirm: whether a message under way is stored before the next chunk.
    """
    broker = Broker()
    begin = 0
    for life in [*lives, None]:
        instance = Instance(broker, plan, confirm or iter(lambda: True, False))
        at, applied = begin, 0
        while at < len(log) and (life is None or applied < life):
            count = next(chunks) if chunks else len(log)
            instance.apply([one.item() for one in log[at : at + count]])
            begin += len(instance.acknowledged())
            at += count
            applied += 1
        if life is None:
            instance.finish()
            # Outputs are opened in the background, too.
            instance.function.openers.shutdown()
            assert len(instance.acknowledged()) + begin == len(log)
    return broker.topics


def spec(sql: str = "", **delivery: Any) -> ViewSpec:
    condition = compile_filter(sql)
    predicate = condition.to_json() if sql else None
    return ViewSpec(condition.canonical, predicate, delivery=Delivery(**delivery))


def of(view: View, topics: dict[str, list[Stored]]) -> list[Stored]:
    """The messages with events of a view."""
    found = topics[f"{view.topic}-partition-0"]
    return [message for message in found if message.properties["kind"] != "heartbeat"]


def keys(stored: Sequence[Stored]) -> list[tuple[str, str, int]]:
    """Kind, instrument and sequence of the events of messages."""
    found = []
    for message in stored:
        rows = read_frame(message.data).select(["instrument", "sequence"]).to_pylist()
        found += [(message.properties["kind"], *row.values()) for row in rows]
    return found


STEPS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(["trade", "quote"]),
        st.lists(st.sampled_from("ABC"), max_size=5),
    ),
    min_size=1,
    max_size=14,
)
SPECS = (
    spec(conflate=Conflate(200)),
    spec("kind = 'trade'", conflate=Conflate(1_000)),
    spec("instrument <> 'B'", max_rate=2),
    spec(max_rate=5, conflate=Conflate(500)),
)
PLAN = compile_plan(1, SPECS, created_at_ns=1)


@settings(max_examples=80)
@given(STEPS, st.data())
def test_crashes_and_the_way_it_is_fed_change_nothing(
    steps: list[tuple[int, str, list[str]]], data: st.DataObject
) -> None:
    log = log_of(steps)
    with pytest.MonkeyPatch.context() as patch:
        # So few events that a window needs several entries, of which some may be stored.
        most = data.draw(st.sampled_from([8, 1_000]))
        patch.setattr("functions.operators.route.max_rows", lambda _: most)
        whole = run(log, PLAN)
        again = run(
            log,
            PLAN,
            chunks=iter(lambda: data.draw(st.integers(1, 5)), 0),
            lives=data.draw(st.lists(st.integers(1, 6), max_size=4)),
            confirm=iter(lambda: data.draw(st.booleans()), None),
        )

    assert _told(again) == _told(whole)


def _told(topics: dict[str, list[Stored]]) -> dict[str, list[Any]]:
    """What topics say but for heartbeats, which come when they do, and what those begin."""
    timed = ("since", "delivery_epoch")
    told: dict[str, list[Any]] = defaultdict(list)
    for topic, found in list(topics.items()):  # openings go on beside it
        for position, data, properties in found:
            if properties["kind"] != "heartbeat":
                stays = {name: value for name, value in properties.items() if name not in timed}
                told[topic].append((position, read_frame(data).to_pylist(), stays))
    return told


@settings(max_examples=25)
@given(STEPS)
def test_what_is_delivered_is_the_latest_of_each_interval(
    steps: list[tuple[int, str, list[str]]],
) -> None:
    log = log_of(steps)
    view = view_of(SPECS[0])
    wanted: dict[tuple[int, str, str], int] = {}
    for logged in log:
        if logged.batch is not None:
            rows = logged.batch.select(["instrument", "sequence"]).to_pylist()
            for row in rows:
                key = (logged.time_ms // 200, logged.properties["kind"], row["instrument"])
                wanted[key] = row["sequence"]

    found = of(view, run(log, PLAN))

    assert sorted(keys(found)) == sorted((kind, name, n) for (_, kind, name), n in wanted.items())
    numbers = [int(m.properties["delivery_sequence"]) for m in found]
    counts = [int(m.properties["count"]) for m in found]
    assert numbers == [1, *(np.cumsum(counts) + 1).tolist()][: len(numbers)]


@settings(max_examples=25)
@given(STEPS)
def test_each_event_is_delivered_or_told_as_skipped(
    steps: list[tuple[int, str, list[str]]],
) -> None:
    log = log_of(steps)
    topics = run(log, PLAN)
    last: Counter[str] = Counter()
    for logged in log:
        if logged.batch is not None:
            last.update(logged.batch.column("instrument").to_pylist())
    for one in (SPECS[0], SPECS[3]):  # without a filter: every sequence is accounted for
        reached: Counter[str] = Counter()
        for message in of(view_of(one), topics):
            ranges = [(name, n, n) for _, name, n in keys([message])]
            told = Skipped.told_by(message.properties)
            ranges += zip(told.instrument, told.first, told.last, strict=True)
            for name, first, until in sorted(ranges):
                assert first == reached[name] + 1
                reached[name] = until
        assert reached == last


def test_nothing_that_is_held_is_acknowledged() -> None:
    log = log_of([(0, "trade", "A"), (0, "trade", "B"), (1, "trade", "A")], close=False)
    plan = compile_plan(1, [spec("instrument = 'B'", conflate=Conflate(1_000))], created_at_ns=1)
    instance = Instance(Broker(), plan, iter(lambda: True, False))
    items = [one.item() for one in log]

    instance.apply(items)

    assert [item.position for item in instance.acknowledged()] == [items[0].position]
    assert not any(item.data for item in items)


def test_a_view_that_goes_gets_what_is_held_for_it() -> None:
    view = view_of(SPECS[0])
    log = log_of([(0, "trade", "A"), (0, "trade", "AB"), (0, "", "")], close=False)
    broker = Broker()
    instance = Instance(broker, PLAN, iter(lambda: True, False))
    instance.apply([log[0].item(), log[1].item()])
    assert of(view, broker.topics) == []

    instance.function.router = Router(compile_plan(2, [], created_at_ns=1))
    instance.stage.tidy()
    instance.apply([log[2].item()])

    assert keys(of(view, broker.topics)) == [("trade", "A", 2), ("trade", "B", 1)]
    # Whoever has left the view by the new plan skips what it has routed.
    assert {message.properties["plan"] for message in of(view, broker.topics)} == {"1"}


def test_a_message_is_of_the_plan_that_routed_its_newest_event() -> None:
    """Whoever has come to the view by a plan skips what older ones have routed."""
    log = log_of([(0, "trade", "A"), (0, "trade", "B"), (9, "", "")], close=False)
    broker = Broker()
    instance = Instance(broker, PLAN, iter(lambda: True, False))
    instance.apply([log[0].item()])
    instance.function.router = Router(compile_plan(2, SPECS, created_at_ns=1))
    instance.apply([log[1].item()])
    instance.function.router = Router(compile_plan(3, SPECS, created_at_ns=1))
    instance.apply([log[2].item()])

    found = of(view_of(SPECS[0]), broker.topics)

    assert [message.properties["plan"] for message in found] == ["2"]
    assert keys(found) == [("trade", "A", 1), ("trade", "B", 1)]


def test_a_view_that_goes_is_joined_with_the_tables_that_went_with_it() -> None:
    declared = TableSpec({"instrument": "text", "lot": "integer"}, ("instrument",))
    made = content_of(declared, pa.table([["A"], [7]], schema=schema_of(declared)))
    asked = Enrichment("t", {"lot": "lot"}, on=("instrument",), types={"lot": "integer"})
    joined = ViewSpec(
        transformation=Transformation(enrich=(asked,)), delivery=Delivery(conflate=Conflate(1_000))
    )
    refs = {"t": TableRef(1, made.digest, made.pieces)}
    plan = compile_plan(1, [joined], created_at_ns=1, tables=refs)
    log = log_of([(0, "trade", "A"), (0, "", "")], close=False)
    broker = Broker()
    instance = Instance(broker, plan, iter(lambda: True, False))
    instance.function.router = Router(plan, tables={"t": ReferenceTable(read_content(made.data))})
    instance.apply([log[0].item()])

    instance.function.router = Router(compile_plan(2, [], created_at_ns=1))
    instance.apply([log[1].item()])

    (message,) = of(view_of(joined), broker.topics)
    assert read_frame(message.data)["lot"].to_pylist() == [7]


def test_a_window_that_is_stored_in_part_is_made_again_as_it_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where more of the log comes back than the view had when the window began."""
    monkeypatch.setattr("functions.operators.route.max_rows", lambda _: 8)
    older, newer = spec(conflate=Conflate(60_000)), spec("kind = 'trade'", conflate=Conflate(200))
    frames = [(0, "trade", "AB"), (5, "trade", "ABC" * 6), (0, "trade", "DEFGHI" * 2)]
    log = log_of([*frames, (5, "", "")], close=False)
    view, both = view_of(newer), compile_plan(2, [older, newer], created_at_ns=1)
    broker = Broker()
    # Of what is sent for the newer view only the first of two entries is stored.
    instance = Instance(
        broker, compile_plan(1, [older], created_at_ns=1), iter([True, *[False] * 9])
    )
    instance.apply([log[0].item()])
    instance.function.router = Router(both)
    instance.apply([one.item() for one in log[1:]])
    (stored,) = of(view, broker.topics)
    assert "since" in stored.properties

    successor = Instance(broker, both, iter(lambda: True, False))
    successor.apply([one.item() for one in log])

    reached = Counter({"A": 1, "B": 1})
    for message in of(view, broker.topics):
        ranges = [(name, n, n) for _, name, n in keys([message])]
        told = Skipped.told_by(message.properties)
        ranges += zip(told.instrument, told.first, told.last, strict=True)
        for name, first, until in sorted(ranges):
            assert first == reached[name] + 1
            reached[name] = until
    assert reached == Counter("AB" + "ABC" * 6 + "DEFGHI" * 2)


def test_what_another_instance_has_begun_is_read_again() -> None:
    log = log_of([(0, "trade", "A"), (5, "trade", "A"), (5, "trade", "A")], close=False)
    one, other = SPECS[0], spec(conflate=Conflate(400))
    both = compile_plan(2, [one, other], created_at_ns=1)
    broker = Broker()
    instance = Instance(broker, compile_plan(1, [one], created_at_ns=1), iter(lambda: True, False))
    instance.apply([entry.item() for entry in log])
    Instance(broker, both, iter(lambda: True, False)).apply([entry.item() for entry in log[:2]])

    instance.function.router = Router(both)
    with pytest.raises(NotYetReadable, match=view_of(other).id):
        instance.apply([log[2].item()])


def test_what_breaks_a_rule_replaces_nothing() -> None:
    transformation = Transformation(rules={"known": Rule("sequence <> 2", "drop")})
    ruled = ViewSpec(
        transformation=transformation.canonical(),
        conditions=dict(transformation.conditions()),
        delivery=Delivery(conflate=Conflate(1_000)),
    )
    topics = run(
        log_of([(0, "trade", "A"), (0, "trade", "A")]), compile_plan(1, [ruled], created_at_ns=1)
    )
    assert keys(of(view_of(ruled), topics)) == [("trade", "A", 1)]


def test_what_cannot_be_rendered_is_kept_with_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise ArithmeticError("beyond me")

    monkeypatch.setattr(functions.conflator, "render", fails)
    view = view_of(SPECS[0])
    topics = run(
        log_of([(0, "trade", "AA"), (0, "quote", "B")]),
        compile_plan(1, [SPECS[0]], created_at_ns=1),
    )
    letters = topics["persistent://t/n/dead-partition-0"]
    assert [keys([letter._replace(properties={"kind": "?"})]) for letter in letters] == [
        [("?", "A", 2)],
        [("?", "B", 1)],
    ]
    assert all(f"view {view.id}: Arith" in letter.properties["reason"] for letter in letters)
