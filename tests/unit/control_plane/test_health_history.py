"""How subscriptions are read is noted in rounds, kept within bounds, and told in steps."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, insert, select
from test_groups import Broker, cursor, topic
from world import World

from control_plane.domains.consumers.schemas import ConsumerCreate
from control_plane.domains.events.models import EventRow
from control_plane.domains.ordering.follower import FollowerState
from control_plane.domains.subscriptions import health_rows, health_watch
from control_plane.domains.subscriptions.health import OwnThresholds, Thresholds
from control_plane.domains.subscriptions.health_history import (
    MOST_POINTS,
    HealthHistoryService,
    Span,
)
from control_plane.domains.subscriptions.health_watch import HealthWatch, Kept
from control_plane.domains.subscriptions.models import HealthRow
from control_plane.domains.system.metrics import Metrics
from control_plane.errors import InvalidRequestError, NotFoundError
from control_plane.pulsar_admin import AdminUnavailable, PulsarAdmin

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
KEPT = Kept(every_seconds=60, days=7, rows=1000)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(FollowerState())


def watch_of(
    world: World, broker: Broker, metrics: Metrics, clock: Clock, kept: Kept = KEPT
) -> HealthWatch:
    admin = cast(PulsarAdmin, broker)
    return HealthWatch(world.database, admin, metrics, Thresholds(10, 30), kept, clock=clock)


async def noted(world: World) -> list[HealthRow]:
    async with world.database.transaction() as session:
        return list(await session.scalars(select(HealthRow).order_by(HealthRow.id)))


async def test_each_subscription_is_noted_once_a_round(
    world: World, metrics: Metrics, clock: Clock
) -> None:
    broker = Broker()
    one = await world.subscribe("one", filter="price > 1")
    shares = await world.subscribe("shares", filter="price > 1")
    other = await world.subscribe("other", filter="price > 2")
    await world.settle()
    found = {key: (await world.subscriptions.get(key))[0] for key in (one, shares, other)}
    both = topic(found[one].subscription_name, cursor("a", "a"), cursor("b", "b"))
    more = topic(found[shares].subscription_name, cursor(""), None)
    for number, partition in both.partitions.items():
        partition.subscriptions.update(more.partitions[number].subscriptions)
    broker.topics[found[one].topic] = both
    broker.topics[found[other].topic] = AdminUnavailable("away", status=503)
    watch = watch_of(world, broker, metrics, clock)
    await watch.look()
    await watch.look()  # the round is over, the next one has not begun
    rows = {row.subscription_id: row for row in await noted(world)}
    assert rows.keys() == {one, shares}
    assert (rows[one].state, rows[one].members) == ("healthy", 2)
    assert (rows[shares].state, rows[shares].members) == ("gone", 0)
    assert rows[shares].backlog_messages == 3
    assert metrics.reconcile_errors.labels("health")._value.get() == 1
    clock.now += 60
    await watch.look()
    assert [row.subscription_id for row in await noted(world)].count(one) == 2


async def test_it_is_told_when_a_subscription_is_read_otherwise(
    world: World, metrics: Metrics, clock: Clock
) -> None:
    broker = Broker()
    key = await world.subscribe("one")
    await world.settle()
    row = (await world.subscriptions.get(key))[0]
    watch = watch_of(world, broker, metrics, clock)
    for readers in (("a",), ("a",), (), (), ("a",)):
        broker.topics[row.topic] = topic(row.subscription_name, cursor("a", *readers))
        await watch.look()
        clock.now += 60
    async with world.database.transaction() as session:
        told = await session.scalars(
            select(EventRow).where(EventRow.type == "subscription.health").order_by(EventRow.id)
        )
    changes = [(each.subscription_id, each.data["before"], each.data["health"]) for each in told]
    assert changes == [(key, "healthy", "gone"), (key, "gone", "healthy")]


async def test_a_subscription_is_judged_by_its_own_thresholds(
    world: World, metrics: Metrics, clock: Clock
) -> None:
    broker = Broker()
    own = OwnThresholds(lagging_after_seconds=3600)
    patient = await world.subscribe("patient", thresholds=own)
    usual = await world.subscribe("usual")
    await world.settle()
    old = (time.time() - 20) * 1000
    rows = [(await world.subscriptions.get(key))[0] for key in (patient, usual)]
    assert [row.thresholds for row in rows] == [own, OwnThresholds()]
    assert rows[0].topic == rows[1].topic
    waiting = {
        **cursor("a", "a"),
        "earliestMsgPublishTimeInBacklog": int(old),
        "lastAckedTimestamp": int(old),
    }
    found, other = (topic(row.subscription_name, waiting) for row in rows)
    cast(dict[str, Any], found.partitions[0].subscriptions).update(
        other.partitions[0].subscriptions
    )
    broker.topics[rows[0].topic] = found
    await watch_of(world, broker, metrics, clock).look()
    states = {row.subscription_id: row.state for row in await noted(world)}
    assert states == {patient: "healthy", usual: "lagging"}


async def test_a_round_goes_on_where_the_last_look_ended(
    world: World, metrics: Metrics, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker()
    for number in range(5):
        await world.subscribe(f"s{number}", filter=f"price > {number}")
    await world.settle()
    watch = watch_of(world, broker, metrics, clock)
    monkeypatch.setattr(health_watch, "TOPICS_PER_LOOK", 2)
    for _ in range(6):
        await watch.look()
    assert len(set(broker.asked)) == len(broker.asked) == 5
    # One that takes too long leaves the rest to the next look.
    monkeypatch.setattr(health_watch, "TOPICS_PER_LOOK", 100)
    monkeypatch.setattr(health_watch, "LOOK_SECONDS", 0.0)
    clock.now += 60
    for looks in range(1, 6):
        await watch.look()
        assert len(broker.asked) == 5 + looks
    await watch.look()
    assert len(set(broker.asked[5:])) == len(broker.asked[5:]) == 5


async def put(world: World, key: str, *rows: dict[str, Any]) -> None:
    usual = {
        "subscription_id": key,
        "state": "healthy",
        "members": 1,
        "backlog_messages": 0,
        "backlog_bytes": 0,
        "backlog_age_seconds": None,
        "rate": 1.0,
        "redelivery_rate": 0.0,
        "last_acknowledged_at": None,
    }
    async with world.database.transaction() as session:
        await session.execute(insert(HealthRow), [{**usual, **row} for row in rows])


@pytest.mark.parametrize(
    ("days", "rows", "left"), [(7, 1000, 3), (7, 2, 2), (30, 1000, 6), (7, 0, 0)]
)
async def test_what_is_too_old_or_too_much_goes(
    world: World, monkeypatch: pytest.MonkeyPatch, days: int, rows: int, left: int
) -> None:
    key = await world.subscribe("one")
    now = datetime.now(UTC)
    ages = (10, 9, 8, 3, 2, 1)
    await put(world, key, *({"at": now - timedelta(days=age)} for age in ages))
    monkeypatch.setattr(health_rows, "DELETE_CHUNK", 2)
    for _ in range(3):
        async with world.database.transaction() as session:
            before = await session.scalar(select(func.count()).select_from(HealthRow))
            await health_rows.forget(session, days=days, rows=rows)
            after = await session.scalar(select(func.count()).select_from(HealthRow))
        assert before - after <= 2
    assert len(await noted(world)) == left


async def test_nothing_is_asked_where_nothing_is_kept(
    world: World, metrics: Metrics, clock: Clock
) -> None:
    broker = Broker()
    await world.subscribe("one")
    await world.settle()
    await watch_of(world, broker, metrics, clock, Kept(60, 7, 0)).look()
    assert broker.asked == []


async def test_steps_tell_the_worst_and_the_largest(world: World) -> None:
    key = await world.subscribe("one")
    at = NOW - timedelta(hours=1)
    acknowledged = at - timedelta(seconds=5)
    await put(
        world,
        key,
        {"at": at - timedelta(seconds=1), "state": "gone"},
        {"at": at, "rate": 3.0, "backlog_messages": 5, "members": 2},
        {
            "at": at + timedelta(seconds=59),
            "state": "stalled",
            "backlog_age_seconds": 40.5,
            "backlog_bytes": 7,
            "last_acknowledged_at": acknowledged,
        },
        {"at": at + timedelta(seconds=30), "state": "lagging"},
        {"at": at + timedelta(seconds=180)},
        {"at": NOW, "state": "gone"},
    )
    told = await HealthHistoryService(world.database).history(key, Span.of(at, NOW, 60, NOW))
    assert (told.since, told.until, told.step_seconds) == (at, NOW, 60)
    first, second = told.items
    assert (first.at, first.samples, first.state, first.members) == (at, 3, "stalled", 1)
    assert (first.backlog_messages, first.backlog_bytes) == (5, 7)
    assert first.backlog_age_seconds == 40.5
    assert first.rate == pytest.approx(5 / 3)
    assert first.last_acknowledged_at == acknowledged
    assert (second.at, second.samples) == (at + timedelta(seconds=180), 1)
    assert (second.state, second.backlog_age_seconds) == ("healthy", None)


async def test_a_consumer_sees_the_history_of_its_own_only(world: World) -> None:
    await world.consumers.create(ConsumerCreate(name="other"))
    key = await world.subscribe("one")
    await put(world, key, {"at": NOW - timedelta(minutes=5)})
    histories = HealthHistoryService(world.database)
    span = Span.of(None, NOW, None, NOW)
    mine = (await world.consumers.get("desk"))[0].id
    theirs = (await world.consumers.get("other"))[0].id
    assert len((await histories.history(key, span, only=mine)).items) == 1
    for only in (theirs, "nobody"):
        with pytest.raises(NotFoundError):
            await histories.history(key, span, only=only)
    with pytest.raises(NotFoundError):
        await histories.history("s" + "0" * 16, span)


def test_a_day_in_five_minutes_is_asked_for_where_nothing_is_said() -> None:
    span = Span.of(None, None, None, NOW)
    assert span == Span(NOW - timedelta(days=1), NOW, timedelta(minutes=5))


TIMES = st.datetimes(timezones=st.timezones())


@given(
    st.none() | TIMES,
    st.none() | TIMES,
    st.none() | st.integers(1, 366 * 86_400),
)
def test_a_history_has_a_begin_an_end_and_not_too_many_steps(
    since: datetime | None, until: datetime | None, step: int | None
) -> None:
    try:
        span = Span.of(since, until, step, NOW)
    except InvalidRequestError as refused:
        (problem,) = refused.problems
        assert problem.pointer in {"query:since", "query:step"}
        return
    assert span.since < span.until
    assert (span.until - span.since) / span.step <= MOST_POINTS
    assert step is None or span.step == timedelta(seconds=step)
