"""What the broker is told when a subscription is changed, and what its history says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text
from test_moves import cursor, drained, entitle, get, grant, other_desk, topics
from world import World

from control_plane.domains.consumers.schemas import ConsumerUpdate
from control_plane.domains.subscriptions.schemas import HistoryOut, SubscriptionUpdate
from control_plane.domains.transformations.schemas import TransformationCreate
from control_plane.domains.transformations.service import TransformationService
from control_plane.errors import (
    BrokerUnavailableError,
    ConflictError,
    InvalidRequestError,
    PreconditionFailedError,
)
from marketdata.transformations import Transformation


async def change(world: World, key: str, if_match: str | None = None, **members: Any) -> None:
    await world.lifecycles.update(key, SubscriptionUpdate(**members), if_match)


async def history(world: World, key: str) -> list[HistoryOut]:
    return (await world.lifecycles.history(key, cursor=None, limit=100)).items


async def active(world: World, **members: Any) -> str:
    await world.settle()
    key = await world.subscribe("one", **members)
    await world.settle()
    return key


async def test_another_filter_takes_effect_at_a_plan_and_leaves_the_old_topic_to_be_drained(
    world: World,
) -> None:
    key = await active(world, filter="price > 1", start="earliest")
    before = await get(world, key)
    assert before.from_plan == 0
    await change(world, key, filter="price > 2")
    moving = await get(world, key)
    assert (moving.state, moving.plan, moving.filter) == ("pending", before.plan + 1, "price > 2")
    assert topics(world) == {before.topic}
    await world.settle()
    after = await get(world, key)
    assert (after.state, after.plan) == ("active", world.broker.last.number)
    assert topics(world) == {after.topic} != {before.topic}
    assert world.topics.starts[cursor(after)] == "latest"
    assert after.from_plan == after.plan
    (left,) = after.draining
    assert (left.topic, left.from_plan, left.plan) == (before.topic, 0, after.plan)
    assert world.topics.granted == {grant(before), grant(after)}
    await drained(world)
    assert world.topics.cursors == {cursor(after)}


async def test_a_topic_that_others_share_is_left_to_be_drained_too(world: World) -> None:
    key = await active(world, filter="price > 1")
    foreign = await other_desk(world, filter="price > 1")
    await world.settle()
    before = await get(world, key)
    await change(world, key, filter="price > 2")
    await world.settle()
    after = await get(world, key)
    assert [left.topic for left in after.draining] == [before.topic] == [foreign.topic]
    assert cursor(before) in world.topics.cursors
    # Until the entitlements forbid what goes on there: from that plan on nobody sees it.
    await entitle(world, venues=("XNAS",))
    world.topics.stuck = True
    plans = len(world.broker.plans)
    with pytest.raises(Exception, match="could not be removed"):
        await world.publisher.publish_once()
    assert len(world.broker.plans) == plans
    world.topics.stuck = False
    await world.settle()
    assert cursor(before) not in world.topics.cursors
    assert cursor(foreign) in world.topics.cursors


async def test_entitlements_that_touch_only_what_is_drained_take_it_away(world: World) -> None:
    key = await active(world, filter="venue = 'XLON'")
    await other_desk(world, filter="venue = 'XLON'")
    await world.settle()
    before = await get(world, key)
    await change(world, key, filter="venue = 'XNAS'")
    await world.settle()
    after = await get(world, key)
    await entitle(world, venues=("XNAS",))
    await world.settle()
    now = await get(world, key)
    assert (now.topic, now.plan, now.draining) == (after.topic, after.plan, [])
    assert cursor(before) not in world.topics.cursors


async def test_changes_one_after_the_other_are_drained_in_their_order(world: World) -> None:
    key = await active(world, filter="price > 1")
    seen = [await get(world, key)]
    for level in (2, 3):
        await change(world, key, filter=f"price > {level}")
        await world.settle()
        seen.append(await get(world, key))
    first, second, third = seen
    assert [(left.topic, left.from_plan, left.plan) for left in third.draining] == [
        (first.topic, 0, second.plan),
        (second.topic, second.plan, third.plan),
    ]


async def test_what_is_drained_still_cannot_be_had_again_before(world: World) -> None:
    key = await active(world, filter="price > 1")
    first = await get(world, key)
    await change(world, key, filter="price > 2")
    await world.settle()
    with pytest.raises(ConflictError, match="drains it until"):
        await change(world, key, filter="price > 1")
    await drained(world)
    await change(world, key, filter="price > 1")
    await world.settle()
    assert (await get(world, key)).topic == first.topic


async def test_who_was_never_active_has_nothing_to_drain(world: World) -> None:
    key = await world.subscribe("one", filter="price > 1", start="earliest")
    await change(world, key, filter="price > 2")
    await world.settle()
    await world.publisher.publish_once()
    after = await get(world, key)
    assert (after.state, after.from_plan, after.draining) == ("active", 0, [])
    assert world.topics.starts[cursor(after)] == "earliest"
    assert world.topics.cursors == {cursor(after)}


async def test_each_part_of_a_view_can_be_changed_and_the_others_stay(world: World) -> None:
    shared = TransformationService(world.database)
    content = Transformation(mask=("price",))
    await shared.create(TransformationCreate(name="prices", transformation=content))
    key = await active(world, filter="price > 1")
    await change(world, key, format="json")
    await change(world, key, shared_transformation="prices@1")
    now = await get(world, key)
    assert (now.filter, now.format, now.shared_transformation) == ("price > 1", "json", "prices@1")
    assert now.transformation == content
    await change(world, key, filter="price > 2")
    assert (await get(world, key)).shared_transformation == "prices@1"
    await change(world, key, transformation=Transformation())
    now = await get(world, key)
    assert (now.shared_transformation, now.transformation) == (None, Transformation())
    with pytest.raises(InvalidRequestError, match="two transformations"):
        await change(
            world,
            key,
            transformation=content,
            shared_transformation="prices@1",
        )


async def test_another_spelling_moves_nothing(world: World) -> None:
    key = await active(world, filter="price > 1")
    before = await get(world, key)
    await change(world, key, filter="price   >  1")
    after = await get(world, key)
    assert (after.topic, after.plan, after.state) == (before.topic, before.plan, "active")
    assert after.filter == "price   >  1"
    newest = (await history(world, key))[0]
    assert newest.type == "subscription.changed"
    _, version = await world.subscriptions.get(key)
    await change(world, key, filter="price   >  1")
    assert (await world.subscriptions.get(key))[1] == version


async def test_what_is_refused_changes_nothing(world: World) -> None:
    key = await active(world, filter="price > 1")
    before = await get(world, key)
    with pytest.raises(InvalidRequestError, match="filter"):
        await change(world, key, filter="prize > 1")
    with pytest.raises(InvalidRequestError, match="instrument set"):
        await change(world, key, filter="instrument IN SET 'nobodys'")
    with pytest.raises(PreconditionFailedError):
        await change(world, key, '"77"', filter="price > 2")
    assert await get(world, key) == before
    await world.consumers.update("desk", ConsumerUpdate(suspended=True), None)
    with pytest.raises(ConflictError, match="suspended"):
        await change(world, key, filter="price > 2")
    await world.lifecycles.close(key, None)
    with pytest.raises(ConflictError, match="closed"):
        await change(world, key, filter="price > 2")


async def pause(world: World, key: str) -> None:
    await world.lifecycles.pause(key, None)
    await world.publisher.publish_once()


async def resume(world: World, key: str) -> None:
    await world.lifecycles.resume(key, None)
    await world.publisher.publish_once()


async def test_who_pauses_keeps_its_place_and_reads_nothing(world: World) -> None:
    key = await active(world, filter="price > 1")
    before = await get(world, key)
    plans = len(world.broker.plans)
    await pause(world, key)
    paused = await get(world, key)
    assert (paused.state, paused.topic, paused.plan) == ("paused", before.topic, before.plan)
    assert paused.paused_at is not None
    assert world.topics.blocked == {before.subscription_name}
    assert world.topics.cursors == {cursor(before)}
    await pause(world, key)
    assert (await get(world, key)) == paused
    await resume(world, key)
    after = await get(world, key)
    assert (after.state, after.paused_at) == ("active", None)
    assert world.topics.blocked == set()
    await resume(world, key)
    assert await get(world, key) == after
    # The view was in the plan all the time.
    assert len(world.broker.plans) == plans
    assert [(entry.type, entry.data) for entry in (await history(world, key))[:2]] == [
        ("subscription.resumed", {}),
        ("subscription.paused", {"reason": "asked"}),
    ]


async def test_a_pause_that_the_broker_was_not_told_is_told_later(world: World) -> None:
    key = await active(world)
    world.topics.down = True
    await world.lifecycles.pause(key, None)
    with pytest.raises(BrokerUnavailableError):
        await world.publisher.publish_once()
    assert world.topics.blocked == set()
    world.topics.down = False
    await world.publisher.publish_once()
    assert len(world.topics.blocked) == 1


async def test_who_pauses_before_it_was_active_becomes_paused(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one")
    await world.lifecycles.pause(key, None)
    assert await world.state(key) == "pending"
    await world.settle()
    assert await world.state(key) == "paused"
    assert len(world.topics.blocked) == 1


async def test_a_change_leaves_who_pauses_paused_and_no_time_to_drain_passes(world: World) -> None:
    key = await active(world, filter="price > 1")
    before = await get(world, key)
    await pause(world, key)
    await change(world, key, filter="price > 2")
    await world.settle()
    after = await get(world, key)
    assert (after.state, after.subscription_name) == ("paused", before.subscription_name)
    assert world.topics.blocked == {before.subscription_name}
    await drained(world)
    assert world.topics.cursors == {cursor(before), cursor(after)}
    await resume(world, key)
    assert world.topics.cursors == {cursor(before), cursor(after)}
    (left,) = (await get(world, key)).draining
    assert (left.until - datetime.now(UTC)).total_seconds() > 200
    await drained(world)
    assert world.topics.cursors == {cursor(after)}


async def test_closing_ends_a_pause_at_the_broker(world: World) -> None:
    key = await active(world)
    await pause(world, key)
    await world.lifecycles.close(key, None)
    await world.settle()
    assert (await get(world, key)).state == "closed"
    assert (world.topics.blocked, world.topics.cursors) == (set(), set())
    for verb in (world.lifecycles.pause, world.lifecycles.resume):
        with pytest.raises(ConflictError, match="closed"):
            await verb(key, None)


async def test_the_history_says_who_changed_what_from_which_plan_on(world: World) -> None:
    key = await active(world, filter="price > 1")
    await change(world, key, name="two", filter="price > 2")
    await world.settle()
    await world.lifecycles.close(key, None)
    entries = await history(world, key)
    numbers = [entry.number for entry in entries]
    assert numbers == sorted(numbers, reverse=True)
    plan = (await get(world, key)).plan
    assert [(entry.type, entry.state) for entry in reversed(entries)] == [
        ("subscription.created", "pending"),
        ("subscription.active", "active"),
        ("subscription.moved", "pending"),
        ("subscription.changed", "pending"),
        ("subscription.active", "active"),
        ("subscription.closed", "closed"),
    ]
    moved = entries[3]
    assert (moved.plan, moved.actor) == (plan, "database")
    assert moved.data == {
        "reason": "changed",
        "before": {"filter": "price > 1"},
        "after": {"filter": "price > 2"},
    }
    assert entries[2].data == {"before": {"name": "one"}, "after": {"name": "two"}}
    page = await world.lifecycles.history(key, cursor=None, limit=4)
    rest = await world.lifecycles.history(key, cursor=page.next_cursor, limit=4)
    assert page.items + rest.items == entries
    assert rest.next_cursor is None
    async with world.database.transaction() as session:
        told = await session.scalar(
            text("SELECT data FROM events WHERE type = 'subscription.moved'")
        )
    assert told == {"name": "one", "state": "pending", "plan": plan, "reason": "changed"}
