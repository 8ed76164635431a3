"""Subscriptions that begin at a time or at delivery sequences."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
import msgspec
import pulsar
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_explain_search import Message as Stored_
from test_explain_search import Partition
from test_moves import cursor, entitle, get, other_desk
from world import World

from control_plane.broker_grants import BrokerGrants
from control_plane.domains.explain.search import Budget
from control_plane.domains.instrument_sets.schemas import InstrumentSetCreate
from control_plane.domains.instrument_sets.service import InstrumentSetService
from control_plane.domains.plans.delivery_topics import BEGINS, DeliveryTopics
from control_plane.domains.plans.models import ViewRow
from control_plane.domains.subscriptions.beginnings import (
    OLDEST,
    Begin,
    Found,
    SequenceStart,
    StartPlace,
    check,
)
from control_plane.domains.subscriptions.models import Subscription
from control_plane.domains.subscriptions.schemas import SubscriptionUpdate
from control_plane.domains.subscriptions.start_search import search
from control_plane.errors import BrokerUnavailableError, ConflictError, InvalidRequestError
from control_plane.fenced_topics import FencedTopics
from control_plane.pulsar_admin import PulsarAdmin
from control_plane.pulsar_values import MessagePosition
from marketdata.plans import ViewSpec, view_of

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1000)
AT_NOON = StartPlace(time=NOON.isoformat())
BEGUN = (Begin(0, 7, 3, "asked"), Begin(2, *OLDEST, "oldest"))


@dataclass(frozen=True)
class Message(Stored_):
    """A message of a view: when it was written, and what it counts."""

    at_ms: int = 0
    epoch: int = 0
    first: int = 0
    count: int = 0

    def publish_timestamp(self) -> int:
        return self.at_ms

    def properties(self) -> dict[str, str]:
        return {
            "delivery_epoch": str(self.epoch),
            "delivery_sequence": str(self.first),
            "count": str(self.count),
        }


def view_partition(*ledgers: list[tuple[int, int, int, int]], gone: int = 0) -> Partition:
    """Messages by (milliseconds behind noon, epoch, first sequence, count)."""
    made: list[list[Stored_]] = [
        [
            Message(7 + 3 * n, entry, b"", NOON_MS + at, epoch, first, count)
            for entry, (at, epoch, first, count) in enumerate(ledger)
        ]
        for n, ledger in enumerate(ledgers)
    ]
    return Partition(made, gone=gone)


def begin(partition: Partition, asked: StartPlace) -> Begin:
    client = cast("pulsar.Client", partition)
    (found,) = search(client, [partition.stored], asked, Budget(timeout_s=60))
    return found


def sequence(number: int, epoch: int | None = None, partition: int = 0) -> StartPlace:
    return StartPlace(sequences=[SequenceStart(partition, number, epoch)])


FEW = view_partition([(-20, 5, 1, 3), (-10, 5, 4, 2), (0, 5, 6, 0)], [(0, 5, 6, 1), (10, 9, 1, 4)])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (AT_NOON, Begin(0, 7, 2, "asked")),
        (StartPlace(time="2026-11-30T13:00:00.010999+01:00"), Begin(0, 10, 1, "asked")),
        (StartPlace(time="2026-11-30T11:59:00Z"), Begin(0, 7, 0, "oldest")),
        (StartPlace(time="2026-11-30T12:00:01Z"), Begin(0, 10, 2, "next")),
        (sequence(1, 5), Begin(0, 7, 0, "asked")),
        (sequence(3, 5), Begin(0, 7, 0, "asked")),
        (sequence(4, 5), Begin(0, 7, 1, "asked")),
        (sequence(6, 5), Begin(0, 10, 0, "asked")),
        # What follows the last one of an epoch is the first of the next one.
        (sequence(7, 5), Begin(0, 10, 1, "asked")),
        (sequence(2), Begin(0, 10, 1, "asked")),
        (sequence(5), Begin(0, 10, 2, "next")),
        (sequence(9, 4), Begin(0, 7, 0, "oldest")),
    ],
)
def test_the_message_is_found_with_which_a_partition_begins(
    asked: StartPlace, expected: Begin
) -> None:
    assert begin(FEW, asked) == expected


def test_what_retention_has_removed_is_told() -> None:
    partition = view_partition(*[[(n, 5, n + 1, 1)] for n in range(20)], gone=10)
    assert begin(partition, AT_NOON) == Begin(0, 7 + 30, 0, "oldest")
    assert begin(partition, sequence(3, 5)) == Begin(0, 7 + 30, 0, "oldest")
    assert begin(partition, sequence(11, 5)) == Begin(0, 7 + 30, 0, "asked")


def test_an_empty_partition_begins_with_what_comes() -> None:
    assert begin(view_partition(), AT_NOON) == Begin(0, *OLDEST, "next")


@pytest.mark.parametrize(
    ("partition", "asked", "pointer", "told"),
    [
        (FEW, sequence(6), "/start/sequences/0/delivery_sequence", "come to 5 of epoch 9 only"),
        (FEW, sequence(1, 10), "/start/sequences/0/delivery_epoch", "come to 5 of epoch 9 only"),
        (FEW, sequence(1, partition=1), "/start/sequences/0/partition", "partition 1"),
        (view_partition(), sequence(1), "/start/sequences/0/partition", "holds nothing"),
    ],
)
def test_sequences_that_are_not_the_topics_are_refused(
    partition: Partition, asked: StartPlace, pointer: str, told: str
) -> None:
    with pytest.raises(InvalidRequestError, match=told) as refused:
        begin(partition, asked)
    assert [problem.pointer for problem in refused.value.problems] == [pointer]


def test_a_partition_that_is_not_named_begins_with_its_oldest_message() -> None:
    found = search(
        cast("pulsar.Client", FEW),
        [FEW.stored, FEW.stored],
        sequence(4, 5, partition=1),
        Budget(timeout_s=60),
    )
    assert found == (Begin(0, *OLDEST, "oldest"), Begin(1, 7, 1, "asked"))


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=30), max_size=5),
    st.integers(1, 200),
    st.integers(0, 30),
)
def test_nothing_behind_a_sequence_is_missed_and_little_is_read(
    counts: list[list[int]], wanted: int, gone: int
) -> None:
    firsts = itertools.accumulate(itertools.chain([1], *counts))
    ledgers = [[(0, 5, next(firsts), count) for count in one] for one in counts]
    partition = view_partition(*ledgers, gone=min(gone, len(ledgers)))
    there = cast("list[Message]", partition.messages)
    total = sum(map(sum, counts))
    if not partition.stored or not there or wanted > total + 1:
        return
    found = begin(partition, sequence(wanted, 5))
    place = (found.ledger, found.entry)
    behind = [m for m in there if m.first + m.count > wanted]
    assert all((m.ledger, m.entry) >= place for m in behind)
    if behind:
        assert place == (behind[0].ledger, behind[0].entry)
        whole = behind[0].first <= wanted or behind[0] is not there[0]
        assert found.at == ("asked" if whole else "oldest")
    else:
        assert found.at == "next"
    assert len(partition.read) < 40


@pytest.mark.parametrize(
    ("start", "pointer"),
    [
        (StartPlace(), "/start"),
        (StartPlace(time="2026-11-30T12:00:00Z", sequences=[SequenceStart(0, 1)]), "/start"),
        (StartPlace(time="2026-11-30T12:00:00"), "/start/time"),
        (StartPlace(time="noon"), "/start/time"),
        (StartPlace(time="2026-11-30T12:00:00.001Z"), "/start/time"),
        (
            StartPlace(sequences=[SequenceStart(1, 1), SequenceStart(1, 2)]),
            "/start/sequences",
        ),
    ],
)
def test_a_start_that_is_none_is_refused(start: StartPlace, pointer: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check(start, NOON)
    assert [problem.pointer for problem in refused.value.problems] == [pointer]
    check(AT_NOON, NOON)


class Broker:
    """The cursors of one topic of four partitions, made as a broker makes them: in two steps."""

    def __init__(self) -> None:
        self.places: dict[str, Any] = {}
        self.notes: dict[str, dict[str, str]] = {}
        self.dies_between = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        partition = next((p for p in request.url.path.split("/") if "-partition-" in p), "")
        body = msgspec.json.decode(request.content) if request.content else None
        if request.url.path.endswith("/partitions"):
            return httpx.Response(200 if request.method == "GET" else 409, json={"partitions": 4})
        if request.url.path.endswith("configuration/runtime"):
            return httpx.Response(200, json={"authorizationEnabled": "false"})
        if request.url.path.endswith("/properties"):
            if request.method == "PUT":
                self.notes[partition] = body
            return httpx.Response(200, json=self.notes.get(partition, {}))
        place = (body["ledgerId"], body["entryId"])
        if request.url.path.endswith("/resetcursor"):
            self.places[partition] = place
            return httpx.Response(204)
        if partition in self.places:
            return httpx.Response(409, json={"reason": "Subscription already exists"})
        self.places[partition] = "end"
        if self.dies_between:
            return httpx.Response(500, json={"reason": "down"})
        self.places[partition] = place
        return httpx.Response(204)


async def ensured(broker: Broker) -> None:
    view = view_of(ViewSpec())
    row = ViewRow(id=view.id, topic=view.topic, spec=msgspec.to_builtins(ViewSpec()))
    found = Found(AT_NOON, view.id, BEGUN)
    subscription = Subscription(
        id="s1",
        consumer_id="c1",
        view=row,
        view_id=view.id,
        start="place",
        start_place=found.stored(),
    )
    transport = httpx.MockTransport(broker)
    async with PulsarAdmin("http://broker", transport=transport, retry_for_s=0) as admin:
        await DeliveryTopics(admin, BrokerGrants(admin), FencedTopics(admin)).ensure(
            [subscription], start=None
        )


def by_partition(places: dict[str, Any]) -> list[Any]:
    return [places[name] for name in sorted(places)]


async def test_a_pulsar_subscription_begins_there_in_each_partition_once() -> None:
    broker = Broker()
    await ensured(broker)
    begun = [(7, 3), OLDEST, OLDEST, OLDEST]
    assert by_partition(broker.places) == begun
    assert by_partition(broker.notes) == [BEGINS] * 4
    # Somebody has read on when the same is done again.
    moved = dict.fromkeys(broker.places, (9, 9))
    broker.places = dict(moved)
    await ensured(broker)
    assert broker.places == moved


async def test_a_broker_that_dies_in_between_skips_nothing() -> None:
    broker = Broker()
    broker.dies_between = True
    with pytest.raises(BrokerUnavailableError):
        await ensured(broker)
    assert by_partition(broker.places) == ["end"]
    broker.dies_between = False
    await ensured(broker)
    assert by_partition(broker.places) == [(7, 3), OLDEST, OLDEST, OLDEST]


async def test_a_subscription_begins_where_its_start_was_found(world: World) -> None:
    await other_desk(world, filter="price > 1")
    await world.settle()
    world.starts.begins = BEGUN
    key = await world.subscribe("one", filter="price > 1", start=AT_NOON)
    await world.settle()
    made = await get(world, key)
    assert (made.state, made.start) == ("active", AT_NOON)
    assert [(each.partition, each.at) for each in made.begins or ()] == [
        (0, "asked"),
        (2, "oldest"),
    ]
    assert world.starts.looked_at == [made.topic]
    positions = (MessagePosition(7, 3, 0), MessagePosition(*OLDEST, 2))
    assert world.topics.starts[cursor(made)] == positions
    # On another view with what comes from then on.
    await world.lifecycles.update(key, SubscriptionUpdate(filter="price > 2"), None)
    await world.settle()
    after = await get(world, key)
    assert world.topics.starts[cursor(after)] == "latest"
    assert after.start == AT_NOON


async def test_who_moves_before_it_was_active_begins_rather_too_early(world: World) -> None:
    world.starts.begins = BEGUN
    key = await world.subscribe("one", filter="price > 1", start=AT_NOON)
    await world.lifecycles.update(key, SubscriptionUpdate(filter="price > 2"), None)
    await world.settle()
    await world.publisher.publish_once()
    assert world.topics.starts[cursor(await get(world, key))] == "earliest"


async def test_a_start_that_is_refused_stores_nothing(world: World) -> None:
    late = StartPlace(time=(datetime.now(UTC) + timedelta(minutes=5)).isoformat())
    with pytest.raises(InvalidRequestError, match="future"):
        await world.subscribe("one", start=late)
    assert (await world.subscriptions.page(cursor=None, limit=9)).items == []


async def test_entitlements_that_change_meanwhile_are_no_way_around_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = world.starts.find

    async def while_narrowed(*asked: Any) -> Found:
        await entitle(world, venues=("XNAS",))
        return await find(*asked)

    monkeypatch.setattr(world.starts, "find", while_narrowed)
    with pytest.raises(ConflictError, match="send the request again"):
        await world.subscribe("one", start=AT_NOON)


async def test_sets_of_entitlements_allow_no_start_in_the_past(world: World) -> None:
    sets = InstrumentSetService(world.database, world.publisher, wait_seconds=0)
    await sets.create(InstrumentSetCreate(name="held", instruments=["AAPL"]))
    await entitle(world, instrument_sets=("held",))
    for start in ("earliest", AT_NOON, sequence(1)):
        with pytest.raises(InvalidRequestError, match="from now on"):
            await world.subscribe("one", start=start)
    assert world.starts.looked_at == []
