"""Events: written with the change, numbered after the commit, none lost to who goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from ordering_events import closed, opened
from sqlalchemy import text
from world import World, reconciler_of

from control_plane.database import Database
from control_plane.domains.consumers.schemas import ConsumerUpdate
from control_plane.domains.events import repository
from control_plane.domains.events.feed import EventFeed, Limits, Selection
from control_plane.domains.events.repository import Change, record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.functions.service import StatusBoard
from control_plane.domains.instrument_sets.schemas import (
    InstrumentSetCreate,
    InstrumentSetUpdate,
)
from control_plane.domains.instrument_sets.service import InstrumentSetService
from control_plane.domains.ordering import repository as ordering_rows
from control_plane.domains.ordering.intake import Intake, Place
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.subscriptions.schemas import SubscriptionUpdate
from control_plane.errors import DatabaseUnavailableError, TooManyStreamsError
from control_plane.settings import Settings
from marketdata.ordering import encode_ordering_events

Told = tuple[str, int | None, Any]


async def yes() -> bool:
    return True


def feed_of(database: Database, *, seconds: float = 0, **options: Any) -> EventFeed:
    """A feed as one control plane has it; its streams end when they have caught up."""
    options = {"retention_days": 7, "retention_rows": 1_000_000, **options}
    return EventFeed(database, Limits(10, 2, seconds), **options)


async def told(
    feed: EventFeed, after: int | None = 0, selection: Selection | None = None
) -> list[Told]:
    """Type, number and data of what a stream tells, until it has caught up."""
    await feed.look()
    stream = feed.stream(selection or Selection(), after, yes)
    return [_told(message) async for message in stream if message.data is not None]


def _told(message: Any) -> Told:
    document = msgspec.json.decode(message.data)
    return message.event, message.id, document.get("data", document)


async def write(database: Database, *names: str, consumer: str | None = None) -> None:
    changes = [
        Change(EventType.CONSUMER_CHANGED, {"name": name}, consumer=consumer) for name in names
    ]
    async with database.transaction() as session:
        await record(session, *changes)


def names_of(events: list[Told]) -> list[str]:
    return [data["name"] for _, _, data in events]


async def test_what_happens_to_consumers_subscriptions_and_plans_is_told(world: World) -> None:
    key = await world.subscribe("apples", filter="instrument = 'AAPL'")
    await world.settle()
    await world.lifecycles.update(key, SubscriptionUpdate(labels={"a": "b"}), None)
    await world.lifecycles.update(key, SubscriptionUpdate(labels={"a": "b"}), None)
    for suspended in (True, False):
        await world.consumers.update("desk", ConsumerUpdate(suspended=suspended), None)
    await world.consumers.update("desk", ConsumerUpdate(owner="us", contact=""), None)
    await world.consumers.update("desk", ConsumerUpdate(owner="us"), None)
    await world.settle()
    await world.lifecycles.close(key, None)
    await world.lifecycles.close(key, None)
    await world.consumers.delete("desk", None, by="ann")
    async with world.database.transaction() as session:
        for _ in range(2):
            await plan_rows.mark_applied(session, 2, 3)

    events = await told(feed_of(world.database))

    assert [(what, data.get("plan"), data.get("state")) for what, _, data in events] == [
        ("consumer.created", None, None),
        ("plan.created", 1, None),
        ("subscription.created", 1, "pending"),
        ("plan.published", 1, None),
        ("subscription.active", 1, "active"),
        ("subscription.changed", 1, "active"),
        ("plan.created", 2, None),
        ("subscription.moved", 2, "pending"),
        ("consumer.suspended", 2, None),
        ("plan.created", 3, None),
        ("subscription.moved", 3, "pending"),
        ("consumer.resumed", 3, None),
        ("consumer.changed", None, None),
        ("plan.published", 3, None),
        ("subscription.active", 3, "active"),
        ("plan.created", 4, None),
        ("subscription.closed", 4, "closed"),
        ("consumer.deleted", None, None),
        ("plan.applied", 2, None),
    ]
    assert [number for _, number, _ in events] == list(range(1, 20))
    assert events[12][2] == {"name": "desk", "changed": ["owner"], "plan": None}
    assert events[18][2] == {"plan": 2, "instances": 3}


async def test_a_plan_is_applied_when_the_last_distributor_runs_it(
    world: World, settings: Settings
) -> None:
    await world.subscribe("apples")
    await world.settle()
    board = StatusBoard()
    board.expected = {"distributor": 2}
    reconciler = reconciler_of(world.database, settings, board=board)
    selection = Selection(types=frozenset({EventType.PLAN_APPLIED}))
    seen = []
    for instance, plan in ((0, 1), (1, 0), (1, 1), (1, 2)):
        report = {
            "function": "distributor",
            "instance": instance,
            "plan": plan,
            "reported_at_ns": time.time_ns(),
        }
        board.take(msgspec.json.encode(report))
        await reconciler._rollout()
        seen.append([data for _, _, data in await told(feed_of(world.database), 0, selection)])
    assert seen == [[], [], [{"plan": 1, "instances": 2}], [{"plan": 1, "instances": 2}]]


async def test_what_happens_to_sets_is_told(world: World) -> None:
    sets = InstrumentSetService(world.database, world.publisher, wait_seconds=0)
    made = await sets.create(InstrumentSetCreate(name="big", instruments=["AAPL"]))
    for _ in range(2):
        await sets.update("big", InstrumentSetUpdate(add=["MSFT"]), None)
    await sets.delete("big", None)
    events = await told(feed_of(world.database))
    assert [(what, data) for what, _, data in events if what.startswith("instrument")] == [
        (f"instrument_set.{what}", {"name": "big", "id": made.id, **more})
        for what, more in (
            ("created", {"version": 1, "instruments": 1, "plan": 1}),
            ("changed", {"version": 2, "instruments": 2, "plan": 1}),
            ("deleted", {}),
        )
    ]


async def test_gaps_are_told_together_once_a_source(database: Database) -> None:
    intake = Intake()
    findings = [opened(n, source="cme" if n % 2 else "ice") for n in range(30)]
    findings += [closed(40, "1:30:1", source="cme"), closed(41, "1:50:3", source="cme")]
    intake.take(1, Place(7, 0), encode_ordering_events(findings))
    assert not intake.poison
    async with database.transaction() as session:
        for _ in range(2):  # the second time they are known
            await ordering_rows.store(session, intake)
    events = await told(feed_of(database))
    assert [(what, d["source"], d["gaps"], d["missing"]) for what, _, d in events] == [
        ("gaps.opened", "cme", 15, sum(row.events for row in intake.findings[1:30:2])),
        ("gaps.opened", "ice", 15, sum(row.events for row in intake.findings[0:30:2])),
        ("gaps.closed", "cme", 2, 0),
    ]
    assert len(events[0][2]["examples"]) == 10
    assert [each["id"] for each in events[2][2]["examples"]] == ["1:30:1", "1:50:3"]


async def test_an_event_of_what_was_rolled_back_is_never_told(database: Database) -> None:
    async with database.transaction() as session:
        await record(session, Change(EventType.CONSUMER_CHANGED, {"name": "never"}))
        await session.rollback()
    await write(database, "told")
    assert [(number, data) for _, number, data in await told(feed_of(database))] == [
        (1, {"name": "told"})
    ]


@pytest.mark.parametrize("in_memory", [1, 2_000])
async def test_who_goes_on_misses_nothing_that_commits_out_of_order(
    database: Database, in_memory: int
) -> None:
    """A transaction that wrote first commits last, and is read by two control planes."""
    here, there = (feed_of(database, in_memory=in_memory) for _ in range(2))
    async with database.transaction() as late:
        await record(late, Change(EventType.CONSUMER_CHANGED, {"name": "late"}))
        await write(database, "early")
        first = await told(here)
        assert names_of(first) == ["early"]
    for feed in (there, here):
        rest = await told(feed, first[-1][1])
        assert names_of(rest) == ["late"]
        assert names_of(await told(feed)) == ["early", "late"]


async def test_many_writers_and_control_planes_agree_on_one_order(database: Database) -> None:
    """Every reader, wherever it goes on, has all events once and in the same order."""
    feeds = [feed_of(database, in_memory=20) for _ in range(3)]

    async def writer(number: int) -> None:
        for turn in range(10):
            async with database.transaction() as session:
                change = Change(EventType.CONSUMER_CHANGED, {"name": f"{number}-{turn}"})
                await record(session, change)
                await session.execute(text("SELECT pg_sleep(random() * 0.01)"))

    async def reader(which: int) -> list[Told]:
        seen: list[Told] = []
        turn = which
        while len(seen) < 60:
            seen += await told(feeds[turn % 3], seen[-1][1] if seen else 0)
            turn += 1
        return seen

    readings = await asyncio.gather(
        *(reader(which) for which in range(3)), *(writer(number) for number in range(6))
    )
    first = readings[0]
    assert sorted(names_of(first)) == sorted(f"{n}-{t}" for n in range(6) for t in range(10))
    assert [number for _, number, _ in first] == list(range(1, 61))
    assert readings[1] == readings[2] == first
    for number in range(6):
        own = [name for name in names_of(first) if name.startswith(f"{number}-")]
        assert own == [f"{number}-{turn}" for turn in range(10)]


async def test_more_than_one_transaction_numbers_are_told(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "NUMBERED_AT_ONCE", 3)
    await write(database, *map(str, range(10)))
    assert names_of(await told(feed_of(database))) == [str(n) for n in range(10)]


async def test_a_stream_tells_what_it_selects(database: Database) -> None:
    """From memory as from the table."""
    expected = {
        Selection(): ["a", "b", "c", "d", "e"],
        Selection(types=frozenset({EventType.CONSUMER_CHANGED})): ["a", "b", "c", "e"],
        Selection(types=frozenset({EventType.PLAN_CREATED})): [],
        Selection(consumer="c1"): ["a", "c", "d"],
        Selection(consumer="c1", subscription="s1"): ["d"],
        Selection(consumer="c2", subscription="s1"): [],
    }
    for name, consumer in (("a", "c1"), ("b", "c2"), ("c", "c1")):
        await write(database, name, consumer=consumer)
    async with database.transaction() as session:
        change = Change(EventType.SUBSCRIPTION_ACTIVE, {"name": "d"}, "c1", "s1")
        await record(session, change)
    feeds = [feed_of(database, in_memory=in_memory) for in_memory in (3, 2_000)]
    await feeds[1].look()
    await write(database, "e")
    for feed in feeds:
        for selection, names in expected.items():
            assert names_of(await told(feed, 0, selection)) == names


async def test_who_begins_now_gets_nothing_from_before(database: Database) -> None:
    await write(database, "before")
    assert await told(feed_of(database), None) == []


async def test_who_asks_for_what_is_gone_is_told_so_and_gets_the_rest(database: Database) -> None:
    feed = feed_of(database, retention_rows=2)
    for name in "abcde":
        await write(database, name)
    assert names_of(await told(feed)) == list("abcde")
    await feed.sweep()
    async with database.transaction() as session:
        assert await session.scalar(text("SELECT count(*) FROM events")) == 2
    for each in (feed_of(database), feed_of(database, in_memory=1)):
        assert [number for _, number, _ in await told(each, 3)] == [4, 5]
        assert await told(each, 5) == []
        lost, *rest = await told(each, 2)
        assert lost == ("events.lost", 3, {"asked": 2, "next": 4})
        assert names_of(rest) == ["d", "e"]
    # One that still has them in memory has nothing to tell as lost.
    assert names_of(await told(feed, 2)) == ["c", "d", "e"]


async def test_old_events_are_forgotten_and_their_numbers_stay(database: Database) -> None:
    await write(database, "old")
    feed = feed_of(database)
    await feed.look()
    async with database.transaction() as session:
        await session.execute(text("UPDATE events SET at = at - interval '8 days'"))
    await write(database, "young")
    await feed.look()
    for remaining in (["young"], []):
        await feed.sweep()
        events = await told(feed_of(database))
        assert events[0] == (
            "events.lost",
            2 - len(remaining),
            {"asked": 0, "next": 3 - len(remaining)},
        )
        assert names_of(events[1:]) == remaining
        async with database.transaction() as session:
            await session.execute(text("UPDATE events SET at = at - interval '8 days'"))
    await write(database, "next")
    assert [number for _, number, _ in await told(feed_of(database), 2)] == [3]


async def test_a_look_ends_while_events_are_being_written(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many rounds as what was committed before it takes, and none for what comes meanwhile."""
    monkeypatch.setattr(repository, "NUMBERED_AT_ONCE", 2)
    number = repository.number
    rounds = 0

    async def numbered(session: Any) -> repository.Extent:
        nonlocal rounds
        rounds += 1
        assert rounds < 10
        await write(database, "meanwhile")
        return await number(session)

    await write(database, "a", "b", "c")
    feed = feed_of(database)
    await feed.look()
    monkeypatch.setattr(repository, "number", numbered)
    await feed.look()
    assert rounds == 1
    monkeypatch.undo()
    assert names_of(await told(feed)) == ["a", "b", "c", "meanwhile"]


async def test_numbers_that_nobody_gave_are_told_as_lost(database: Database) -> None:
    await write(database, "a")
    assert await told(feed_of(database), 7) == [("events.lost", 1, {"asked": 7, "next": 2})]


async def test_streams_end_when_the_database_was_restored(database: Database) -> None:
    await write(database, "a", "b")
    feed = feed_of(database, seconds=3600, heartbeat_seconds=3600)
    await feed.look()
    stream = feed.stream(Selection(), 0, yes)
    heard = [await anext(stream) for _ in range(3)]
    assert heard[-1].id == 2
    waiting = asyncio.ensure_future(anext(stream, None))
    async with database.transaction() as session:
        await session.execute(text("DELETE FROM events WHERE number = 2"))
        await session.execute(text("UPDATE event_log SET newest = 1"))
    await feed.look()
    assert await waiting is None
    assert await told(feed_of(database), 2) == [("events.lost", 1, {"asked": 2, "next": 2})]


@pytest.fixture
async def running(database: Database) -> AsyncIterator[EventFeed]:
    """A feed that follows the table, with heartbeats as fast as they go."""
    feed = feed_of(database, seconds=3600, heartbeat_seconds=0)
    task = asyncio.create_task(feed.run())
    yield feed
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_event_reaches_a_stream_that_waits_and_heartbeats_move_its_place(
    database: Database, running: EventFeed
) -> None:
    stream = running.stream(Selection(consumer="c1"), None, yes)
    connected = await anext(stream)
    assert (connected.comment, connected.id, connected.retry) == ("connected", 0, 2000)
    await write(database, "foreign", consumer="c2")
    async for message in stream:
        assert message.comment == "heartbeat"
        assert message.data is None
        if message.id == 1:
            break
    await write(database, "own", consumer="c1")
    async for message in stream:
        if message.event is not None:
            break
        assert message.comment == "heartbeat"
    assert _told(message) == ("consumer.changed", 2, {"name": "own"})
    assert b"\r\nid: 2\r\n" in b"\r\n" + message.encode()


async def test_the_feed_goes_on_without_the_session_that_listens(
    database: Database, running: EventFeed
) -> None:
    await write(database, "a")
    stream = running.stream(Selection(), 0, yes)
    await _until(stream, 1)
    query = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    ended: Sequence[bool] = []
    while not ended:
        async with database.transaction() as session:
            ended = (await session.scalars(query)).all()
    await write(database, "b")
    await _until(stream, 2)


async def test_the_feed_goes_on_after_whatever_fails(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.domains.events.feed.POLL_SECONDS", 0.01)
    number = repository.number
    failures = iter([RuntimeError(), RuntimeError(), DatabaseUnavailableError("away")])

    async def numbered(session: Any) -> repository.Extent:
        for failure in failures:
            raise failure
        return await number(session)

    monkeypatch.setattr(repository, "number", numbered)
    feed = feed_of(database, seconds=3600, heartbeat_seconds=0)
    await write(database, "a")
    task = asyncio.create_task(feed.run())
    async for message in feed.stream(Selection(), 0, yes):
        assert not task.done()
        if message.event is not None:
            break
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _until(stream: Any, number: int) -> None:
    async for message in stream:
        if message.event is not None:
            assert message.id == number
            return
    raise AssertionError("the stream has ended")


async def test_a_stream_ends_once_its_token_holds_no_more(
    database: Database, running: EventFeed
) -> None:
    allowed = True

    async def is_allowed() -> bool:
        return allowed

    await write(database, "a")
    stream = running.stream(Selection(), 0, is_allowed)
    await _until(stream, 1)
    allowed = False
    await write(database, "b")
    assert {message.event async for message in stream} <= {None}


async def test_streams_end_when_the_feed_is_closed(running: EventFeed) -> None:
    stream = running.stream(Selection(), None, yes)
    await anext(stream)
    running.close()
    async for message in stream:
        assert message.data is None
    assert [message.comment async for message in running.stream(Selection(), None, yes)] == [
        "connected"
    ]


async def test_streams_are_bounded_together_and_of_each_consumer(database: Database) -> None:
    feed = EventFeed(database, Limits(3, 2, 0), retention_days=7, retention_rows=10_000)
    with feed.admitted("c1"), feed.admitted("c1"):
        with pytest.raises(TooManyStreamsError, match="2 streams"), feed.admitted("c1"):
            pass
        with feed.admitted(None):
            with pytest.raises(TooManyStreamsError, match="All streams"), feed.admitted("c2"):
                pass
            assert feed.streams == 3
        with feed.admitted("c2"):
            pass
    assert feed.streams == 0
