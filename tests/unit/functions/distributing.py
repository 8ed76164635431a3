"""A distributor of one partition without a broker, and inputs for it."""

import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pulsar
from events import quotes, trades

from functions.distributor import DistributorStage
from functions.operators.route import Router
from functions.operators.sequence import InstrumentSequences, with_sequences
from functions.runtime.custom_calls import CustomCalls
from functions.runtime.inputs import Input
from functions.runtime.outputs import Output
from functions.runtime.settings import FunctionSettings, Topics
from marketdata.filters import compile_filter
from marketdata.frames import encode_frame, read_frame
from marketdata.plans import Delivery, Plan, ViewSpec
from marketdata.rules import Rule
from marketdata.transformations import Transformation


def frame(instruments: Sequence[str] = ("A",), kind: str = "trade") -> bytes:
    batch = {"trade": trades, "quote": quotes}[kind](list(instruments))
    numbers = InstrumentSequences().assign(batch)
    return encode_frame(
        with_sequences(batch, kind, numbers, epoch=1, ts_sequenced_ns=1)
    ).to_pybytes()


class Broker:
    """A client whose topics are empty, but for what views may have been sent before."""

    def __init__(self, last: int = -1) -> None:
        self._last = last

    def create_producer(self, topic: str, **_: Any) -> Any:
        last = -1 if "dead" in topic else self._last
        return SimpleNamespace(last_sequence_id=lambda: last, close=lambda: None)

    def create_reader(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(has_message_available=lambda: False, close=lambda: None)


def filtered(sql: str) -> ViewSpec:
    one = compile_filter(sql)
    return ViewSpec(filter=one.canonical, predicate=one.to_json())


Told = list[tuple[str, int, str]]


def told(
    distribution: Sequence[Sequence[Input]],
    plan: Plan,
    counters: Counter[str] | None = None,
    last: int = -1,
) -> Told:
    """What a distributor sends that is given inputs so: topic, position, and reason or rows.

    The outputs of the views hold the inputs up to `last`.
    """
    stage, sent = distributor(plan, counters, last)
    # Inputs remember what one distributor has noted of them.
    own = {
        item: Input(item.message_ids[0], item.data, item.properties)
        for items in distribution
        for item in items
    }
    for items in distribution:
        stage.apply([own[item] for item in items])
    return sorted(sent)


def distributor(
    plan: Plan, counters: Counter[str] | None = None, last: int = -1
) -> tuple[DistributorStage, Told]:
    """A distributor of a partition, and what it has sent."""
    sent: Told = []

    def send(
        output: Output,
        _: int,
        items: Sequence[Input],
        data: bytes,
        properties: dict[str, str],
        *,
        position: int | None = None,
        **__: Any,
    ) -> None:
        output.position = items[-1].position if position is None else position
        told = properties.get("reason") or str(read_frame(data)["instrument"].to_pylist())
        assert "reason" in properties or int(properties["count"]) == read_frame(data).num_rows
        sent.append((output.topic, int(properties["position"]), told))
        for item in items:
            item.waiting[output] = output.position

    reporter: Any = SimpleNamespace(
        counters=Counter() if counters is None else counters,
        observe_latency=lambda _: None,
        error=lambda _: None,
    )
    function: Any = SimpleNamespace(
        name="distributor",
        settings=FunctionSettings(Topics(deadletter="persistent://t/n/dead"), partitions=1),
        reporter=reporter,
        router=Router(plan),
        openers=ThreadPoolExecutor(1),
        client=Broker(last),
        custom=CustomCalls(600.0, reporter),
        log=logging.getLogger("test"),
        send=send,
    )
    return DistributorStage(function, 0), sent


def inputs(frames: Sequence[Sequence[str]], kinds: str = "apart") -> list[Input]:
    """Frames of trades; where kinds are together, every second one of quotes."""
    given = []
    for n, names in enumerate(frames, start=1):
        kind = "quote" if kinds == "together" and n % 2 == 0 else "trade"
        given.append(Input(pulsar.MessageId(0, n, 0), frame(names, kind), {"kind": kind}))
    return given


def ruled(delivery: Delivery = Delivery(), **rules: Rule) -> ViewSpec:  # noqa: B008 - immutable
    transformation = Transformation(rules=rules)
    return ViewSpec(
        transformation=transformation.canonical(),
        conditions=dict(transformation.conditions()),
        delivery=delivery,
    )


KEEPING = {
    "known": Rule("instrument <> 'X'", "drop"),
    "good": Rule("instrument <> 'Y'", "dead-letter"),
    "usual": Rule("instrument <> 'M'", "mark"),
}
