"""The outbox: what the database has decided reaches the broker, whatever breaks in between.

PostgreSQL is real, the broker is a recorder (`world`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest
from sqlalchemy import select, text
from world import World

from control_plane.broker import Broker
from control_plane.database import Database
from control_plane.domains.consumers.schemas import ConsumerUpdate
from control_plane.domains.instrument_sets.schemas import (
    InstrumentSetCreate,
    InstrumentSetUpdate,
)
from control_plane.domains.instrument_sets.service import InstrumentSetService
from control_plane.domains.plans.delivery_topics import DeliveryTopics
from control_plane.domains.plans.models import PlanRow, ViewRow
from control_plane.domains.subscriptions import repository as subscription_rows
from control_plane.domains.subscriptions.models import Subscription
from control_plane.domains.subscriptions.schemas import SubscriptionUpdate
from control_plane.errors import (
    BrokerUnavailableError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
)
from marketdata.plans import Plan, decode_plan, encode_plan
from marketdata.transformations import Transformation


async def test_the_first_start_publishes_an_empty_plan(world: World) -> None:
    await world.settle()
    assert (world.broker.last.number, world.broker.last.views) == (1, ())


async def test_a_subscription_is_active_once_its_plan_is_published(world: World) -> None:
    await world.settle()
    made = await world.subscribe("all")
    assert await world.state(made) == "pending"
    await world.settle()
    out, _ = await world.subscriptions.get(made)
    assert out.state == "active"
    assert out.plan == world.broker.last.number
    assert [view.topic for view in world.broker.last.views] == [out.topic]
    assert (out.topic, out.subscription_name) in world.topics.cursors


async def test_a_cursor_exists_before_any_plan_that_routes_to_it(world: World) -> None:
    await world.settle()
    made = await world.subscribe("all")
    await world.settle()
    before = world.topics.plans_before_cursor[made]
    view = (await world.subscriptions.get(made))[0].view
    first = next(
        index
        for index, document in enumerate(world.broker.plans)
        if view in {each.id for each in decode_plan(document).views}
    )
    assert first >= before


async def test_computed_columns_reach_the_plan_as_trees(world: World) -> None:
    await world.settle()
    computing = Transformation(
        compute={"a": "round(price * size, 2)", "mid": "(bid_price + ask_price) / 2"},
        mask=("source",),
    )
    one = await world.subscribe("one", transformation=computing)
    same = Transformation(
        compute={"mid": "(ask_price+bid_price)*0.5", "a": "round(size * price, 2)"},
        mask=("source",),
    )
    two = await world.subscribe("two", transformation=same)
    await world.settle()
    (view,) = world.broker.last.views
    assert view.computed == computing.compiled()
    assert view.transformation.mask == ("source",)
    for key in (one, two):
        out, _ = await world.subscriptions.get(key)
        assert out.view == view.id
        assert out.transformation == computing.canonical()
        assert out.message_schema.columns is not None
        assert [c.name for c in out.message_schema.columns["status"]][-2:] == ["a", "mid"]


async def test_equal_views_are_shared_and_make_no_new_plan(world: World) -> None:
    await world.settle()
    one = await world.subscribe("one", filter="price>10 and instrument='A'")
    await world.settle()
    plans = len(world.broker.plans)
    two = await world.subscribe("two", filter="price > 10 AND instrument = 'A'")
    await world.settle()
    first, second = [(await world.subscriptions.get(key))[0] for key in (one, two)]
    assert first.topic == second.topic
    assert first.subscription_name != second.subscription_name
    assert (second.state, second.plan) == ("active", first.plan)
    assert len(world.broker.plans) == plans


async def test_a_failed_send_leaves_the_work_for_the_next_run(world: World) -> None:
    await world.settle()
    world.broker.down = True
    made = await world.subscribe("all")
    with pytest.raises(BrokerUnavailableError):
        await world.publisher.publish_once()
    assert await world.state(made) == "pending"
    world.broker.down = False
    await world.settle()
    assert await world.state(made) == "active"


async def test_only_the_newest_of_several_unpublished_plans_is_sent(world: World) -> None:
    await world.settle()
    for price in range(5):
        await world.subscribe(f"s{price}", filter=f"price > {price}")
    await world.settle()
    assert [decode_plan(document).number for document in world.broker.plans] == [1, 6]
    assert len(world.broker.last.views) == 5


async def test_a_plan_that_the_topic_has_lost_is_published_again(world: World) -> None:
    await world.settle()
    await world.subscribe("all")
    await world.settle()
    newest = world.broker.last
    world.broker.plans.clear()
    await world.settle()
    assert world.broker.last == newest
    plans = len(world.broker.plans)
    await world.settle()
    assert len(world.broker.plans) == plans


@pytest.mark.parametrize("ahead", [0, 40])
async def test_a_topic_ahead_of_the_database_is_overtaken(world: World, ahead: int) -> None:
    await world.settle()
    made = await world.subscribe("all")
    await world.settle()
    ours = world.broker.last
    other = Plan(ours.number + ahead, "0" * 64, 0, "", ())
    world.broker.plans.append(encode_plan(other))
    await world.settle()
    assert world.broker.last.number > other.number
    assert world.broker.last.views == ours.views
    assert await world.state(made) == "active"


async def test_rubbish_on_the_topic_is_replaced(world: World) -> None:
    await world.settle()
    world.broker.plans.append(b"no plan at all")
    await world.settle()
    assert world.broker.last.number == 1


async def test_closing_drops_view_and_cursor(world: World) -> None:
    await world.settle()
    made = await world.subscribe("all")
    await world.settle()
    await world.lifecycles.close(made, None)
    await world.settle()
    assert world.broker.last.views == ()
    assert world.topics.cursors == set()
    out, _ = await world.subscriptions.get(made)
    assert out.state == "closed"
    assert out.closed_at is not None
    async with world.database.transaction() as session:
        view = (await session.scalars(select(ViewRow))).one()
        assert view.retired_in_plan == world.broker.last.number


async def test_closing_one_of_two_keeps_the_view(world: World) -> None:
    await world.settle()
    one, two = await world.subscribe("one"), await world.subscribe("two")
    await world.settle()
    await world.lifecycles.close(one, None)
    await world.settle()
    kept, _ = await world.subscriptions.get(two)
    assert world.topics.cursors == {(kept.topic, kept.subscription_name)}
    assert [view.id for view in world.broker.last.views] == [kept.view]


async def test_a_view_that_comes_back_is_no_longer_retired(world: World) -> None:
    await world.settle()
    await world.lifecycles.close(await world.subscribe("one"), None)
    await world.subscribe("one")
    await world.settle()
    async with world.database.transaction() as session:
        assert (await session.scalars(select(ViewRow))).one().retired_in_plan is None
    assert len(world.broker.last.views) == 1


async def test_names_are_unique_among_live_subscriptions_of_a_consumer(world: World) -> None:
    first = await world.subscribe("one")
    with pytest.raises(ConflictError):
        await world.subscribe("one")
    second = await world.subscribe("two")
    with pytest.raises(ConflictError):
        await world.lifecycles.update(second, SubscriptionUpdate(name="one"), None)
    await world.lifecycles.close(first, None)
    await world.subscribe("one")


async def test_a_consumer_goes_only_without_live_subscriptions(world: World) -> None:
    made = await world.subscribe("one")
    with pytest.raises(ConflictError):
        await world.consumers.delete("desk", None, by="ann")
    await world.lifecycles.close(made, None)
    await world.consumers.delete("desk", None, by="ann")
    with pytest.raises(NotFoundError):
        await world.subscribe("two")


async def test_changes_at_once_give_plans_without_holes(world: World) -> None:
    await world.settle()

    async def live(number: int) -> None:
        made = await world.subscribe(f"s{number}", filter=f"price > {number % 4}")
        if number % 2:
            await world.lifecycles.close(made, None)

    task = asyncio.create_task(world.publisher.run())
    await asyncio.gather(*(live(number) for number in range(12)))
    async with asyncio.timeout(120):
        while not await world.publisher.published(1):
            pass
    task.cancel()
    async with world.database.transaction() as session:
        numbers = list(await session.scalars(select(PlanRow.number).order_by(PlanRow.number)))
    assert numbers == list(range(1, len(numbers) + 1))
    page = await world.subscriptions.page(
        cursor=None, limit=100, consumer="desk", name=None, state=None
    )
    assert {item.state for item in page.items} == {"active"}
    assert {view.id for view in world.broker.last.views} == {item.view for item in page.items}
    assert {name for _, name in world.topics.cursors} == {
        item.subscription_name for item in page.items
    }


async def test_two_control_planes_publish_one_after_the_other(
    world: World, database_url: str
) -> None:
    other_database = Database(database_url)
    other = World(other_database)
    other.broker, other.topics = world.broker, world.topics
    other.publisher._broker = cast(Broker, world.broker)
    other.publisher._topics = cast(DeliveryTopics, world.topics)
    tasks = [asyncio.create_task(each.publisher.run()) for each in (world, other)]
    made = await asyncio.gather(
        *(
            (world if number % 2 else other).subscribe(f"s{number}", filter=f"price > {number}")
            for number in range(10)
        )
    )
    async with asyncio.timeout(120):
        while {await world.state(each) for each in made} != {"active"}:
            await world.publisher.published(1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await other_database.close()
    numbers = [decode_plan(document).number for document in world.broker.plans]
    assert numbers == sorted(set(numbers))
    assert len(world.broker.last.views) == 10


async def test_a_request_waits_through_a_short_outage(world: World) -> None:
    task = asyncio.create_task(world.publisher.run())
    assert await world.publisher.published(5)
    world.broker.down = True
    await world.subscribe("all")
    waiting = asyncio.create_task(world.publisher.published(10))
    await asyncio.sleep(0.3)
    assert world.publisher.failure is not None
    world.broker.down = False
    assert await waiting
    assert world.publisher.failure is None
    task.cancel()


async def test_a_set_that_changes_makes_a_plan_and_leaves_the_subscription(world: World) -> None:
    sets = InstrumentSetService(world.database, world.publisher, wait_seconds=0)
    with pytest.raises(InvalidRequestError) as refused:
        await world.subscribe("one", filter="price > 1\n AND instrument IN SET 'mine'")
    (problem,) = refused.value.problems
    assert (problem.pointer, problem.line, problem.column) == ("/filter", 2, 6)
    await sets.create(InstrumentSetCreate(name="mine", instruments=["B", "A"]))
    one = await world.subscribe("one", filter="instrument IN SET 'mine'")
    await world.settle()
    first = world.broker.last
    assert first.sets == {"mine": ("A", "B")}
    changed = await sets.update("mine", InstrumentSetUpdate(add=["C"]), None)
    await world.settle()
    assert world.broker.last.number == changed.plan == first.number + 1
    assert world.broker.last.sets == {"mine": ("A", "B", "C")}
    assert world.broker.last.views == first.views
    assert (await world.subscriptions.get(one))[1] == 2  # made, then activated
    with pytest.raises(ConflictError, match="close those subscriptions"):
        await sets.delete("mine", None)
    await world.lifecycles.close(one, None)
    await sets.delete("mine", None)
    await world.settle()
    assert world.broker.last.sets == {}


async def test_a_set_that_nobody_names_makes_no_plan(world: World) -> None:
    sets = InstrumentSetService(world.database, world.publisher, wait_seconds=0)
    await world.subscribe("text", filter="trade_id = 'x IN SET y'")
    await world.settle()
    number = world.broker.last.number
    made = await sets.create(InstrumentSetCreate(name="other", instruments=["A"]))
    assert made.plan == number
    await world.settle()
    assert world.broker.last.number == number


async def test_a_topic_that_cannot_be_made_for_who_joins_undoes_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.settle()
    one, paused, closed = [await world.subscribe(name) for name in ("one", "paused", "closed")]
    await world.settle()
    there, _ = await world.subscriptions.get(closed)
    joining = await world.subscribe("joining")
    new = await world.subscribe("new", filter="price > 1")
    await world.lifecycles.pause(paused, None)
    await world.lifecycles.close(closed, None)
    ensure = world.topics.ensure

    async def refuse(subscriptions: Sequence[Subscription], *, start: str | None) -> None:
        if any(row.id == joining for row in subscriptions):
            raise BrokerUnavailableError("refused")
        await ensure(subscriptions, start=start)

    monkeypatch.setattr(world.topics, "ensure", refuse)
    for _ in range(2):
        with pytest.raises(BrokerUnavailableError):
            await world.publisher.publish_once()
    # Once, though the turn had to be repeated.
    assert [len(decode_plan(each).views) for each in world.broker.plans] == [0, 1, 2]
    assert [await world.state(key) for key in (one, new, joining)] == [
        "active",
        "active",
        "pending",
    ]
    assert len(world.topics.blocked) == 1
    assert (there.topic, there.subscription_name) not in world.topics.cursors
    monkeypatch.setattr(world.topics, "ensure", ensure)
    await world.settle()
    assert await world.state(joining) == "active"


async def test_rows_are_locked_in_one_order_so_that_none_waits_in_a_circle(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.settle()
    # What was made first is found first, unless it is asked for in an order.
    ids = iter(["s" + "f" * 16, "s" + "0" * 16])
    monkeypatch.setattr(subscription_rows, "new_subscription_id", lambda: next(ids))
    high, low = [await world.subscribe(name) for name in ("a", "b")]
    lock_row = text("SELECT FROM subscriptions WHERE id = :id FOR UPDATE NOWAIT")

    async def activate() -> None:
        async with world.database.transaction() as session:
            await session.execute(text("SET LOCAL enable_indexscan = off"))
            await subscription_rows.activate(session, [low, high], 2)

    async with world.database.transaction() as session:
        await session.execute(lock_row, {"id": low})
        activating = asyncio.create_task(activate())
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        async with asyncio.timeout(120):
            while not await session.scalar(waiting):  # noqa: ASYNC110  (nothing tells)
                await asyncio.sleep(0.01)
        await session.execute(lock_row, {"id": high})
    await activating
    assert [await world.state(key) for key in (low, high)] == ["active", "active"]


async def test_a_plan_that_cannot_be_made_lets_nobody_read_on_who_is_to_get_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view whose topic cannot be made keeps all plans from being published."""
    await world.settle()
    kept, paused = [await world.subscribe(name) for name in ("kept", "paused")]
    await world.settle()
    out, _ = await world.subscriptions.get(kept)

    async def refuse(subscriptions: Sequence[Subscription], **_: object) -> None:
        if subscriptions:
            raise BrokerUnavailableError("refused")

    monkeypatch.setattr(world.topics, "ensure", refuse)
    await world.subscribe("new", filter="price > 1")
    await world.lifecycles.pause(paused, None)
    with pytest.raises(BrokerUnavailableError):
        await world.publisher.publish_once()
    assert len(world.topics.blocked) == 1
    assert (out.topic, out.consumer) in world.topics.granted
    await world.consumers.update("desk", ConsumerUpdate(suspended=True), None)
    with pytest.raises(BrokerUnavailableError):
        await world.publisher.publish_once()
    assert world.topics.cursors == world.topics.granted == set()
