"""What is dropped of a backlog, and what is told of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from test_lifecycle import active, change, history, pause
from test_moves import get
from world import LANES, World

from control_plane.domains.ordering.follower import FollowerState
from control_plane.domains.subscriptions.backlog import (
    caught_up,
    entries_between,
    reason,
    to_drop,
    waiting_before,
)
from control_plane.domains.subscriptions.backlog_keeper import BacklogKeeper
from control_plane.domains.subscriptions.confirming import ConfirmedBoard
from control_plane.domains.subscriptions.conflating import Conflating
from control_plane.domains.subscriptions.health import Thresholds
from control_plane.domains.subscriptions.reading import ReadingService
from control_plane.domains.subscriptions.schemas import OnBacklog
from control_plane.domains.subscriptions.unread import Unread
from control_plane.domains.system.metrics import Metrics
from control_plane.errors import InvalidRequestError
from control_plane.pulsar_admin import AdminNotFound, AdminUnavailable, PulsarAdmin
from control_plane.pulsar_values import (
    CursorPlace,
    StoredEntries,
    SubscriptionStats,
    TopicStats,
    position_ranges,
)


def stats(messages: int, size: int = 0, oldest_ms: int = 0) -> SubscriptionStats:
    return SubscriptionStats(messages, size, oldest_ms, 0, 0, 0.0, 0, "Failover")


cursors = st.dictionaries(
    st.integers(0, 7),
    st.builds(stats, st.integers(0, 10_000), st.integers(0, 10**9)),
    min_size=1,
)


@given(cursors, st.integers(1, 20_000))
def test_what_is_left_is_within_the_limit_and_no_more_goes_than_that_takes(
    waiting: dict[int, SubscriptionStats], most: int
) -> None:
    drop = to_drop(waiting, OnBacklog("drop_oldest", messages=most))
    total = sum(each.backlog_messages for each in waiting.values())
    assert all(0 < count <= waiting[number].backlog_messages for number, count in drop.items())
    left = total - sum(drop.values())
    assert left <= most or left == total <= most
    # Rounding costs less than one message a partition.
    assert left > min(total, most) - len(waiting)


@given(cursors, st.integers(1, 10**9))
def test_bytes_are_dropped_in_the_share_that_is_too_much(
    waiting: dict[int, SubscriptionStats], most: int
) -> None:
    size = sum(each.backlog_bytes for each in waiting.values())
    drop = to_drop(waiting, OnBacklog("drop_oldest", bytes=most))
    for number, each in waiting.items():
        left = each.backlog_messages - drop.get(number, 0)
        assert left * size <= each.backlog_messages * max(size, most)
        assert size > most or left == each.backlog_messages
        assert size <= most or left * size <= each.backlog_messages * most


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(0, 100), st.integers(0, 100)
)
def test_entries_between_positions_are_counted_over_ledgers(
    sizes: list[int], one: int, two: int
) -> None:
    ledgers = [(3 * number, entries) for number, entries in enumerate(sizes)]
    every = [(ledger, entry) for ledger, entries in ledgers for entry in range(entries)]
    if not every:
        return
    first, second = sorted((every[one % len(every)], every[two % len(every)]))
    expected = sum(1 for position in every if first < position < second)
    assert entries_between(ledgers, first, second) == expected
    behind = (ledgers[-1][0], ledgers[-1][1])
    assert entries_between(ledgers, (0, -1), behind) == len(every)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.sets(st.integers(0, 40)),
    st.integers(0, 40),
)
def test_what_is_acknowledged_singly_does_not_wait(
    sizes: list[int], acknowledged: set[int], until: int
) -> None:
    ledgers = tuple((3 * number, entries) for number, entries in enumerate(sizes))
    every = [(ledger, entry) for ledger, entries in ledgers for entry in range(entries)]
    singly = [position for number, position in enumerate(every) if number in acknowledged]
    waiting = [position for position in every if position not in singly]
    before = every[until % len(every)]
    # The broker writes one range for neighbours; one each says the same.
    ranges = tuple(((ledger, entry - 1), (ledger, entry)) for ledger, entry in singly)
    place = CursorPlace((0, -1), StoredEntries(ledgers, True), ranges)
    assert waiting_before(place, before) == sum(1 for each in waiting if each < before)


def test_ranges_of_positions_are_read_as_old_and_new_brokers_write_them() -> None:
    ranges = (((7, 3), (7, 5)), ((9, -1), (12, 0)))
    assert position_ranges("[(7:3..7:5],(9:-1..12:0]]") == ranges
    assert position_ranges("[(7:3\u20257:5], (9:-1\u202512:0], ]") == ranges
    assert position_ranges("[]") == ()
    # One that goes over ledgers holds what lies between.
    stored = StoredEntries(((7, 10), (9, 4), (12, 5)), True)
    place = CursorPlace((7, 2), stored, position_ranges("[(7:3..12:0]]"))
    assert waiting_before(place, (12, 3)) == 3


def test_the_limits_that_a_backlog_is_beyond_are_told() -> None:
    waiting = {0: stats(3, 30, 1_000), 1: stats(0), 2: stats(4, 50, 6_000)}
    limit = OnBacklog("disconnect", messages=7, bytes=79, seconds=5)
    assert reason(waiting, limit, 6_999) == {"bytes": 80}
    assert reason(waiting, limit, 7_000) == {"bytes": 80, "seconds": 6}
    assert reason({0: stats(0)}, limit, 7_000) == {}


def test_who_has_caught_up_is_within_half_of_each_limit() -> None:
    limit = OnBacklog("conflate", messages=7, seconds=5, every_ms=1000)
    assert caught_up({0: stats(3, 30, 4_001), 1: stats(0)}, limit, 7_000)
    assert not caught_up({0: stats(3, 30, 4_001), 1: stats(1)}, limit, 7_000)
    assert not caught_up({0: stats(3, 30, 4_001)}, limit, 7_001)


class Broker:
    """One partition for each cursor, whose messages are one ledger with a message a second.

    Behind the first that waits, `singly` are acknowledged one by one; a skip does not count them.
    """

    def __init__(self) -> None:
        self.waiting: dict[int, int] = {}
        self.done: dict[int, int] = {}
        self.singly: dict[int, int] = {}
        self.now_ms = time.time_ns() // 1_000_000
        self.name = ""
        self.asked: list[str] = []
        self.failing = ""

    async def partitioned_stats(self, topic: str, *, oldest: bool) -> TopicStats:
        assert oldest
        self.asked.append(topic)
        if topic == self.failing:
            raise AdminUnavailable("down")
        if not self.name:
            raise AdminNotFound("gone", status=404)
        parts = {}
        for number, count in self.waiting.items():
            cursor = stats(count, 10 * count, self.now_ms - 1000 * count)
            parts[number] = TopicStats(0, 0, 0.0, 0.0, 0, 0, 0, {self.name: cursor}, {})
        return TopicStats(0, 0, 0.0, 0.0, 0, 0, 0, {}, parts)

    def _stored(self, number: int) -> int:
        return self.done.get(number, 0) + self.waiting[number] + self.singly.get(number, 0)

    async def cursor_place(self, partition: str, _name: str) -> CursorPlace:
        number = int(partition[-1])
        done, singly = self.done.get(number, 0), self.singly.get(number, 0)
        stored = StoredEntries(((7, self._stored(number)),), True)
        ranges = (((7, done), (7, done + singly)),) if singly else ()
        return CursorPlace((7, done - 1), stored, ranges)

    async def first_since(self, partition: str, time_ms: int) -> tuple[int, int]:
        number = int(partition[-1])
        stored = self._stored(number)
        return 7, min(stored, max(0, stored - (self.now_ms - time_ms) // 1000))

    async def skip_messages(self, partition: str, name: str, count: int) -> None:
        assert name == self.name
        number = int(partition[-1])
        if partition == self.failing:
            raise AdminUnavailable("down")
        self.waiting[number] -= count
        self.done[number] = self.done.get(number, 0) + count + self.singly.pop(number, 0)


class Kept:
    """A world with an active subscription and a keeper at a broker."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broker = Broker()
        self.metrics = Metrics(FollowerState())
        self.ticks: Iterator[float] = itertools.repeat(0.0)
        admin = cast(PulsarAdmin, self.broker)
        self.lanes = LANES
        self.keeper = BacklogKeeper(
            world.database,
            admin,
            self.metrics,
            Conflating(
                world.database,
                self.metrics,
                lanes=lambda: self.lanes,
                drain_seconds=300,
                least_seconds=60,
            ),
            Unread(world.database, admin, self.metrics, kept_days=7),
            grace_seconds=300,
            kept_days=7,
            clock=lambda: next(self.ticks),
        )
        self.readings = ReadingService(world.database, admin, Thresholds(10, 30), ConfirmedBoard())
        self.key = ""

    async def subscribe(self, **limits: Any) -> None:
        self.key = await active(self.world, on_backlog=OnBacklog(**limits))
        self.broker.name = (await get(self.world, self.key)).subscription_name

    def counted(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"{name}_total", labels)


async def test_the_oldest_are_dropped_down_to_the_limit_and_told(world: World) -> None:
    kept = Kept(world)
    await kept.subscribe(policy="drop_oldest", messages=10)
    kept.broker.waiting = {0: 30, 1: 10}
    await kept.keeper.look()
    assert kept.broker.waiting == {0: 7, 1: 2}
    entry = (await history(world, kept.key))[0]
    assert (entry.type, entry.state) == ("subscription.backlog_dropped", "active")
    assert entry.data == {
        "messages": 31,
        "beyond": {"messages": 40},
        "partitions": [
            {"partition": 0, "messages": 23, "from": "7:-1", "to": "7:22"},
            {"partition": 1, "messages": 8, "from": "7:-1", "to": "7:7"},
        ],
    }
    assert kept.counted("dds_backlog_dropped_messages") == 31
    assert (await kept.readings.health(kept.key)).reason.startswith("31 messages of its backlog")
    # Within the limit nothing more happens.
    await kept.keeper.look()
    assert kept.broker.waiting == {0: 7, 1: 2}
    assert (await history(world, kept.key))[0] == entry
    async with world.database.transaction() as session:
        types = await session.scalars(text("SELECT type FROM events WHERE data ? 'beyond'"))
    assert types.all() == ["subscription.backlog_dropped"]


async def test_what_is_older_than_the_limit_is_dropped(world: World) -> None:
    kept = Kept(world)
    await kept.subscribe(policy="drop_oldest", seconds=2000)
    kept.broker.waiting = {0: 6000, 1: 1500}
    await kept.keeper.look()
    # A second may pass meanwhile, and many more on a busy machine.
    assert kept.broker.waiting[0] <= 2001
    assert kept.broker.waiting[1] == 1500


async def test_what_was_acknowledged_singly_is_not_dropped_from_behind(world: World) -> None:
    kept = Kept(world)
    await kept.subscribe(policy="drop_oldest", seconds=2999)
    # One is too old, and a thousand behind it are acknowledged.
    kept.broker.waiting, kept.broker.singly = {0: 3000}, {0: 1000}
    await kept.keeper.look()
    (part,) = (await history(world, kept.key))[0].data["partitions"]
    assert 1 <= part["messages"] < 1000
    assert kept.broker.waiting == {0: 3000 - part["messages"]}


async def test_who_is_disconnected_is_paused_and_loses_nothing(world: World) -> None:
    kept = Kept(world)
    await kept.subscribe(policy="disconnect", bytes=99)
    kept.broker.waiting = {0: 10}
    await kept.keeper.look()
    await world.publisher.publish_once()
    assert kept.broker.waiting == {0: 10}
    assert await world.state(kept.key) == "paused"
    assert len(world.topics.blocked) == 1
    entry = (await history(world, kept.key))[0]
    assert (entry.type, entry.data) == (
        "subscription.paused",
        {"reason": "backlog", "beyond": {"bytes": 100}},
    )
    assert "because of its backlog" in (await kept.readings.health(kept.key)).reason
    assert kept.counted("dds_backlog_disconnected") == 1
    await kept.keeper.look()
    assert (await history(world, kept.key))[0] == entry


async def test_who_holds_or_pauses_keeps_its_backlog(world: World) -> None:
    kept = Kept(world)
    await kept.subscribe()
    kept.broker.waiting = {0: 10}
    await kept.keeper.look()
    await change(world, kept.key, on_backlog=OnBacklog("drop_oldest", messages=1))
    await pause(world, kept.key)
    await kept.keeper.look()
    assert kept.broker.waiting == {0: 10}
    kept.broker.name = ""
    await world.lifecycles.resume(kept.key, None)
    await kept.keeper.look()  # the topic is gone: somebody else's work


@pytest.mark.parametrize("policy", ["drop_oldest", "disconnect"])
async def test_who_resumes_has_time_to_catch_up_once(world: World, policy: Any) -> None:
    kept = Kept(world)
    await kept.subscribe(policy=policy, messages=10)
    await pause(world, kept.key)
    kept.broker.waiting = {0: 30}
    await world.lifecycles.resume(kept.key, None)
    await kept.keeper.look()
    assert (kept.broker.waiting, await world.state(kept.key)) == ({0: 30}, "active")
    # That no cursor is told of does not say that it has caught up.
    name, kept.broker.name = kept.broker.name, "another"
    await kept.keeper.look()
    kept.broker.name = name
    await kept.keeper.look()
    assert (kept.broker.waiting, await world.state(kept.key)) == ({0: 30}, "active")
    # It has: from then on its limits hold.
    kept.broker.waiting = {0: 10}
    await kept.keeper.look()
    kept.broker.waiting = {0: 30}
    await kept.keeper.look()
    assert await acted_on(kept, policy)


@pytest.mark.parametrize("policy", ["drop_oldest", "disconnect"])
async def test_who_does_not_catch_up_in_time_is_no_longer_spared(world: World, policy: Any) -> None:
    kept = Kept(world)
    await kept.subscribe(policy=policy, messages=10)
    await pause(world, kept.key)
    kept.broker.waiting = {0: 30}
    await world.lifecycles.resume(kept.key, None)
    async with world.database.transaction() as session:
        await session.execute(text("UPDATE subscriptions SET resumed_at = now() - interval '301s'"))
    await kept.keeper.look()
    assert await acted_on(kept, policy)


async def acted_on(kept: Kept, policy: str) -> bool:
    if policy == "drop_oldest":
        return kept.broker.waiting == {0: 10}
    return await kept.world.state(kept.key) == "paused"


async def test_what_was_dropped_is_told_when_a_later_partition_fails(world: World) -> None:
    kept = Kept(world)
    await kept.subscribe(policy="drop_oldest", messages=10)
    kept.broker.waiting = {0: 30, 1: 10}
    kept.broker.failing = f"{(await get(world, kept.key)).topic}-partition-1"
    await kept.keeper.look()
    assert kept.broker.waiting == {0: 7, 1: 10}
    entry = (await history(world, kept.key))[0]
    assert (entry.type, entry.data["messages"]) == ("subscription.backlog_dropped", 23)
    assert [part["partition"] for part in entry.data["partitions"]] == [0]
    assert kept.counted("dds_backlog_dropped_messages") == 23
    assert kept.counted("dds_reconcile_errors", dependency="backlog") == 1


async def test_drops_one_after_the_other_are_one_entry_for_a_while_and_forgotten(
    world: World,
) -> None:
    kept = Kept(world)
    await kept.subscribe(policy="drop_oldest", messages=10)
    kept.broker.waiting = {0: 30}
    await kept.keeper.look()
    kept.broker.waiting = {0: 12, 1: 4}
    await kept.keeper.look()
    entry, before, *_ = await history(world, kept.key)
    assert before.type == "subscription.active"
    until = entry.data.pop("until")
    assert entry.data == {
        "messages": 27,
        "beyond": {"messages": 16},
        "partitions": [
            {"partition": 0, "messages": 25, "from": "7:-1", "to": "7:24"},
            {"partition": 1, "messages": 2, "from": "7:-1", "to": "7:1"},
        ],
    }
    assert (await kept.readings.health(kept.key)).reason.startswith(
        f"27 messages of its backlog were dropped at {until}."
    )
    async with world.database.transaction() as session:
        events = await session.scalars(
            text("SELECT data -> 'messages' FROM events WHERE data ? 'beyond' ORDER BY id")
        )
        assert events.all() == [20, 7]
    # Something else between, or time, begins another entry; what is too old goes.
    await change(world, kept.key, labels={"now": "another"})
    for age in ("11 minutes", "8 days"):
        kept.broker.waiting = {0: 11}
        await kept.keeper.look()
        assert (await history(world, kept.key))[0].data["messages"] == 1
        async with world.database.transaction() as session:
            await session.execute(
                text(f"UPDATE subscription_history SET at = at - interval '{age}'")
            )
    kept.broker.waiting = {0: 11}
    await kept.keeper.look()
    types = [entry.type for entry in await history(world, kept.key)]
    assert types.count("subscription.backlog_dropped") == 1
    assert "subscription.created" in types


@pytest.mark.parametrize("pauses", [True, False])
async def test_nothing_is_dropped_of_who_asks_for_something_else_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch, *, pauses: bool
) -> None:
    kept = Kept(world)
    await kept.subscribe(policy="drop_oldest", messages=10)
    kept.broker.waiting = {0: 30}
    look = kept.broker.partitioned_stats

    async def while_somebody_asks(topic: str, *, oldest: bool) -> TopicStats:
        monkeypatch.undo()
        if pauses:
            await pause(world, kept.key)
        else:
            await change(world, kept.key, on_backlog=OnBacklog("drop_oldest", messages=30))
        return await look(topic, oldest=oldest)

    monkeypatch.setattr(kept.broker, "partitioned_stats", while_somebody_asks)
    await kept.keeper.look()
    assert kept.broker.waiting == {0: 30}


async def test_one_that_fails_does_not_stop_the_others_and_time_bounds_a_look(
    world: World,
) -> None:
    kept = Kept(world)
    await kept.subscribe(policy="drop_oldest", messages=10)
    limit = OnBacklog("drop_oldest", messages=10)
    keys = [kept.key]
    for name in ("two", "three"):
        price = len(keys) + 1
        keys.append(await world.subscribe(name, filter=f"price > {price}", on_backlog=limit))
    await world.settle()
    every = sorted([(out.view, out.topic) for out in [await get(world, key) for key in keys]])
    kept.broker.waiting = {0: 1}
    kept.broker.failing = every[0][1]
    await kept.keeper.look()
    assert kept.broker.asked == [topic for _, topic in every]
    # Each takes longer than there is time for: one a look, in turn.
    kept.broker.asked = []
    kept.ticks = itertools.count(step=100.0)
    for _ in range(4):
        await kept.keeper.look()
    assert kept.broker.asked == [topic for _, topic in [*every, every[0]]]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (OnBacklog("conflate", messages=1), "needs an interval"),
        (OnBacklog("conflate", every_ms=1000), "needs a limit"),
        (OnBacklog("drop_oldest", messages=1, every_ms=1000), "has no interval"),
        (OnBacklog("hold", seconds=1), "hold has no limits"),
        (OnBacklog("drop_oldest"), "needs a limit"),
    ],
)
async def test_what_cannot_be_carried_out_is_refused(
    world: World, wrong: OnBacklog, says: str
) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        await world.subscribe("one", on_backlog=wrong)
    key = await active(world)
    with pytest.raises(InvalidRequestError, match=says):
        await change(world, key, on_backlog=wrong)
