"""A plan whose reference tables are not there waits; it is taken as soon as they are."""

import logging
from types import SimpleNamespace
from typing import Any

import pulsar
import pytest

from functions.runtime.outputs import NotYetReadable
from functions.runtime.plans import PlanFollower
from functions.runtime.reference_tables import ReferenceTables, TableNotThere
from marketdata.plans import Plan, ViewSpec, compile_plan, encode_plan
from marketdata.reference import (
    Enrichment,
    TableContent,
    TableRef,
    TableSpec,
    content_of,
    pieces_of,
)
from marketdata.reference.table import schema_of
from marketdata.transformations import Transformation

SPEC = TableSpec({"instrument": "text", "lot": "integer"}, ("instrument",))


class Topic:
    """A topic of keyed messages; every reader begins at its first."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.read = 0

    def put(self, key: str, data: bytes) -> None:
        self.messages.append(
            SimpleNamespace(
                partition_key=lambda: key,
                data=lambda: data,
                message_id=lambda: "m",
                properties=dict,
            )
        )

    def create_reader(self, *_: Any, **__: Any) -> Any:
        left = list(self.messages)

        def read_next(_: int) -> Any:
            self.read += 1
            return left.pop(0)

        return SimpleNamespace(
            has_message_available=lambda: bool(left), read_next=read_next, close=lambda: None
        )


def content(lot: int) -> TableContent:
    import pyarrow as pa  # noqa: PLC0415

    return content_of(SPEC, pa.table([["A"], [lot]], schema=schema_of(SPEC)))


def plan_of(number: int, made: TableContent) -> Plan:
    asked = Enrichment("t", {"lot": "lot"}, on=("instrument",), types={"lot": "integer"})
    spec = ViewSpec(transformation=Transformation(enrich=(asked,)))
    ref = TableRef(number, made.digest, made.pieces)
    return compile_plan(number, [spec], created_at_ns=0, tables={"t": ref})


def test_a_table_is_there_when_all_of_it_is() -> None:
    topic = Topic()
    tables = ReferenceTables(topic, "topic")
    made = content(1)
    for key, piece in pieces_of("0" * 64, made.data).items():
        topic.put(key, piece)
    with pytest.raises(TableNotThere, match="t@1"):
        tables.of(plan_of(1, made))
    for key, piece in pieces_of(made.digest, made.data).items():
        topic.put(key, piece)
    assert tables.of(plan_of(1, made))["t"].rows == 1
    read = topic.read
    # What is held is not read again; what has been withdrawn is not there.
    assert tables.of(plan_of(2, made))["t"].rows == 1
    assert topic.read == read
    topic.put(f"{made.digest}/0", b"")
    assert tables.of(compile_plan(3, [], created_at_ns=0)) == {}
    with pytest.raises(TableNotThere):
        tables.of(plan_of(4, made))


def test_a_plan_that_waits_keeps_the_one_before_and_nothing_counts_as_current(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("functions.runtime.plans.follow", lambda *_: None)
    newest: list[Plan] = []
    monkeypatch.setattr(
        "functions.runtime.plans.newest_message",
        lambda *_: SimpleNamespace(data=lambda: encode_plan(newest[-1])),
    )
    ready = {1, 3}
    taken: list[int] = []

    def take(plan: Plan) -> bool:
        taken.append(plan.number)
        return plan.number in ready

    client: pulsar.Client = None
    plans = PlanFollower(client, "plans", logging.getLogger(), take)
    plans._asked_at = float("inf")
    newest.append(plan_of(1, content(1)))
    plans.catch_up()
    assert (plans.latest.number, plans.is_current()) == (1, True)
    newest.append(plan_of(2, content(2)))
    for _ in range(2):
        with pytest.raises(NotYetReadable):
            plans.catch_up()
    assert (plans.latest.number, plans.waits, plans.is_current()) == (1, True, False)
    ready.add(2)
    plans._take(newest[-1])  # as the follower does, which tries again
    plans.catch_up()
    assert (plans.latest.number, plans.waits, plans.is_current()) == (2, False, True)
    assert taken == [1, 2, 2]
