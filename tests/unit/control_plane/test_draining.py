"""Subscriptions that are closed when they had time to be read out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from litestar.testing import AsyncTestClient
from sqlalchemy import text
from test_lifecycle import active, change, history, pause
from test_moves import cursor, drained, entitle, get, grant, other_desk, topics
from world import World

from control_plane.domains.consumers.schemas import ConsumerUpdate
from control_plane.domains.groups import repository as group_rows
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.closing import stopped_at
from control_plane.domains.subscriptions.models import READ, ROUTED
from control_plane.errors import ConflictError, InvalidRequestError


async def drain(world: World, key: str, seconds: int = 60) -> None:
    await world.lifecycles.close(key, None, drain_seconds=seconds)


async def test_who_is_drained_gets_nothing_new_and_reads_on_for_a_while(world: World) -> None:
    key = await active(world, filter="price > 1")
    before = await get(world, key)
    await drain(world, key)
    await world.settle()
    draining = await get(world, key)
    assert (draining.state, draining.closed_at, draining.topic) == ("draining", None, before.topic)
    (left,) = draining.draining
    assert (left.topic, left.from_plan, left.plan) == (before.topic, 0, before.plan + 1)
    assert 50 < (left.until - datetime.now(UTC)).total_seconds() <= 60
    assert (world.broker.last.number, topics(world)) == (left.plan, set())
    assert world.topics.cursors == {cursor(before)}
    assert world.topics.granted == {grant(before)}
    await drained(world)
    closed = await get(world, key)
    assert (closed.state, closed.draining) == ("closed", [])
    assert (world.topics.cursors, world.topics.granted) == (set(), set())
    assert [(entry.type, entry.state, entry.plan) for entry in (await history(world, key))[:2]] == [
        ("subscription.closed", "closed", left.plan),
        ("subscription.draining", "draining", left.plan),
    ]
    async with world.database.transaction() as session:
        row = await repository.find(session, key)
        stopped = await stopped_at(session, row)
        assert stopped is not None
        assert closed.closed_at is not None
        assert stopped < closed.closed_at
        assert await repository.cursors_left(session, left.plan or 0, limit=9) == []


async def test_a_plan_divides_a_topic_that_others_share(world: World) -> None:
    key = await active(world, filter="price > 1")
    foreign = await other_desk(world, filter="price > 1")
    await world.settle()
    plans = world.broker.last.number
    await drain(world, key)
    await world.settle()
    (left,) = (await get(world, key)).draining
    assert left.plan == world.broker.last.number == plans + 1
    assert topics(world) == {foreign.topic}
    await drained(world)
    assert await world.state(key) == "closed"
    assert world.topics.cursors == {cursor(foreign)}
    assert world.topics.granted == {grant(foreign)}


async def test_the_name_is_free_while_the_old_one_drains(world: World) -> None:
    key = await active(world, filter="price > 1")
    await drain(world, key)
    again = await world.subscribe("one", filter="price > 1")
    await world.settle()
    # The same topic: each has its Pulsar subscription, and the grant is needed by both.
    old, new = await get(world, key), await get(world, again)
    assert world.topics.cursors == {cursor(old), cursor(new)}
    await drained(world)
    assert world.topics.cursors == {cursor(new)}
    assert world.topics.granted == {grant(new)}
    assert (old.topic, await world.state(again)) == (new.topic, "active")


async def test_another_request_closes_at_once_and_one_more_time_changes_nothing(
    world: World,
) -> None:
    key = await active(world)
    await drain(world, key)
    await world.settle()
    first = await get(world, key)
    plans = len(world.broker.plans)
    await drain(world, key, 5)
    assert await get(world, key) == first
    await world.lifecycles.close(key, None)
    assert await world.state(key) == "closed"
    await world.settle()
    assert world.topics.cursors == set()
    await world.lifecycles.close(key, None)
    await drain(world, key)
    assert await world.state(key) == "closed"
    assert len(world.broker.plans) == plans


async def test_who_pauses_reads_again_to_be_drained(world: World) -> None:
    key = await active(world)
    await pause(world, key)
    await drain(world, key)
    await world.settle()
    assert world.topics.blocked == set()
    draining = await get(world, key)
    assert (draining.state, draining.paused_at) == ("draining", None)
    for verb in (world.lifecycles.pause, world.lifecycles.resume):
        with pytest.raises(ConflictError, match="draining"):
            await verb(key, None)
    with pytest.raises(ConflictError, match="draining"):
        await change(world, key, filter="price > 2")


async def test_what_a_pause_kept_can_be_read_as_long(world: World) -> None:
    key = await active(world, filter="price > 1")
    before = await get(world, key)
    await change(world, key, filter="price > 2")
    await pause(world, key)
    await world.settle()
    await drained(world)
    assert cursor(before) in world.topics.cursors
    await drain(world, key)
    await world.settle()
    assert cursor(before) in world.topics.cursors
    assert (await get(world, key)).draining[0].topic == before.topic
    await drained(world)
    assert (await world.state(key), world.topics.cursors) == ("closed", set())


async def test_who_was_never_active_is_closed(world: World) -> None:
    key = await world.subscribe("one")
    await drain(world, key)
    assert await world.state(key) == "closed"
    await world.settle()
    assert world.topics.cursors == set()


async def test_who_ends_before_functions_knew_its_newest_view_is_told_the_one_before(
    world: World,
) -> None:
    key = await active(world, filter="price > 1")
    before = await get(world, key)
    await change(world, key, filter="price > 2")
    await drain(world, key)
    for _ in range(2):
        told = await get(world, key)
        (listed,) = (await world.subscriptions.page(cursor=None, limit=9)).items
        for one in (told, listed):
            assert (one.state, one.topic, one.view) == ("draining", before.topic, before.view)
            assert (one.filter, one.effective_filter) == ("price > 2", before.effective_filter)
            assert [left.topic for left in one.draining] == [before.topic]
        await world.settle()
    assert world.topics.cursors == {cursor(before)}
    assert world.topics.granted == {grant(before)}


async def test_who_ends_on_its_newest_view_is_told_that(world: World) -> None:
    key = await active(world, filter="price > 1")
    await change(world, key, filter="price > 2")
    await world.settle()
    after = await get(world, key)
    await drain(world, key)
    told = await get(world, key)
    assert (told.topic, [left.topic for left in told.draining]) == (
        after.topic,
        [after.draining[0].topic, after.topic],
    )


async def test_more_time_than_there_is_is_refused(world: World) -> None:
    key = await active(world)
    with pytest.raises(InvalidRequestError, match="300 seconds at most") as refused:
        await drain(world, key, 301)
    assert [problem.pointer for problem in refused.value.problems] == ["query:drain"]
    assert await world.state(key) == "active"


async def test_entitlements_that_forbid_what_goes_on_there_close_it_before_that(
    world: World,
) -> None:
    key = await active(world, filter="price > 1")
    foreign = await other_desk(world, filter="price > 1")
    await world.settle()
    await drain(world, key)
    await world.settle()
    plans = len(world.broker.plans)
    await entitle(world, venues=("XNAS",))
    world.topics.stuck = True
    with pytest.raises(Exception, match="could not be removed"):
        await world.publisher.publish_once()
    assert len(world.broker.plans) == plans
    world.topics.stuck = False
    await world.settle()
    assert await world.state(key) == "closed"
    assert world.topics.cursors == {cursor(foreign)}


async def test_entitlements_leave_what_was_routed_on_a_topic_of_its_own(world: World) -> None:
    """As for a topic that was left: what lies there was allowed when it was routed."""
    key = await active(world, filter="price > 1")
    await drain(world, key)
    await world.settle()
    await entitle(world, venues=("XNAS",))
    await world.settle()
    assert await world.state(key) == "draining"
    await world.consumers.update("desk", ConsumerUpdate(suspended=True), None)
    await world.settle()
    assert await world.state(key) == "closed"
    assert world.topics.cursors == set()


async def test_topics_that_were_left_before_are_read_out_too_but_no_longer(world: World) -> None:
    key = await active(world, filter="price > 1")
    first = await get(world, key)
    await change(world, key, filter="price > 2")
    await world.settle()
    second = await get(world, key)
    await drain(world, key)
    await world.settle()
    draining = await get(world, key)
    assert [(left.topic, left.from_plan, left.plan) for left in draining.draining] == [
        (first.topic, 0, second.plan),
        (second.topic, second.plan, second.plan + 1),
    ]
    assert world.topics.cursors == {cursor(first), cursor(second)}
    async with world.database.transaction() as session:
        await session.execute(
            text("UPDATE subscription_moves SET drain_until = now() WHERE plan > :plan"),
            {"plan": second.plan},
        )
    await world.settle()
    assert await world.state(key) == "closed"
    await world.settle()
    assert world.topics.cursors == set()


async def test_a_control_plane_that_dies_in_between_is_followed_by_one_that_closes(
    world: World,
) -> None:
    key = await active(world)
    await drain(world, key)
    await world.settle()
    async with world.database.transaction() as session:
        await session.execute(text("UPDATE subscription_moves SET ended_at = now()"))
    await world.settle()
    assert await world.state(key) == "closed"


async def test_it_is_looked_at_but_not_made_again(world: World) -> None:
    key = await active(world)
    await drain(world, key)
    await world.settle()
    made = await get(world, key)
    async with world.database.transaction() as session:
        reading = await repository.readers(session, READ, after="", limit=9)
        assert reading == {made.view: (made.topic, {made.subscription_name: key})}
        assert await repository.readers(session, ROUTED, after="", limit=9) == {}
        views = await group_rows.read_views(session, after="", limit=9)
        assert [view.id for view in views] == [made.view]
        (group,) = await group_rows.still_of(session, made.view, [key])
        assert group[0].id == key
        assert await repository.limited(session, after=("", ""), limit=9) == []
        assert (await repository.count_by_state(session))["draining"] == 1


async def test_the_api_drains_and_lists(client: AsyncTestClient[Any], world: World) -> None:
    key = await active(world)
    path = f"/v1/subscriptions/{key}"
    assert (await client.delete(path, params={"drain": 0})).status_code == 400
    assert (await client.delete(path, params={"drain": 301})).status_code == 422
    assert (await client.delete(path, params={"drain": 60})).status_code == 204
    assert (await client.get(path)).json()["state"] == "draining"
    for asked, expected in (({"state": "draining"}, [key]), ({}, [key]), ({"state": "active"}, [])):
        listed = (await client.get("/v1/subscriptions", params=asked)).json()["items"]
        assert [item["id"] for item in listed] == expected
    refused = await client.delete("/v1/consumers/desk")
    assert refused.status_code == 409
