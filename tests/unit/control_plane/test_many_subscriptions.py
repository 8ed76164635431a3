"""What a change or a question costs does not grow with the subscriptions that there are.

Statements and rows are counted, never times.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from sqlalchemy import event, text
from world import World

from control_plane.database import Database, Lock, lock
from control_plane.domains.groups.service import GroupService
from control_plane.domains.plans.publisher import JOINING_A_TURN, LEFT_A_TURN
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.models import ROUTED, State
from control_plane.domains.subscriptions.schemas import SubscriptionCreate
from control_plane.pulsar_admin import PulsarAdmin

MANY = 3 * JOINING_A_TURN
CROWD = 40
"""Consumers of whom these are."""
FILTER = "price > 10"


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """What is executed meanwhile, with its parameters."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def add(world: World, like: str, count: int, state: State) -> None:
    """Subscriptions to the view of another one, of consumers of their own."""
    async with world.database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO consumers (id, name, entitlements)"
                " SELECT 'c' || substr(md5(n::text), 1, 16), 'crowd-' || n, '{}'"
                " FROM generate_series(0, :last) AS n"
            ),
            {"last": CROWD - 1},
        )
        await session.execute(
            text(
                "INSERT INTO subscriptions"
                " (id, consumer_id, view_id, name, start, plan, spec, state, activated_at)"
                " SELECT 's' || substr(md5(n::text), 1, 16),"
                " 'c' || substr(md5((n % :crowd)::text), 1, 16), view_id,"
                " 'other-' || n, 'latest', plan, spec, :state, now()"
                " FROM subscriptions, generate_series(1, :count) AS n WHERE id = :like"
            ),
            {"like": like, "count": count, "state": state.value, "crowd": CROWD},
        )
        await session.execute(text("ANALYZE subscriptions, consumers"))


async def states(world: World) -> dict[str, int]:
    async with world.database.transaction() as session:
        return await repository.count_by_state(session)


@pytest.fixture
async def first(world: World) -> str:
    """The id of an active subscription."""
    await world.settle()
    made = await world.subscribe("first", filter=FILTER)
    await world.settle()
    return made


async def test_a_new_plan_does_not_wait_for_all_who_join_views(world: World, first: str) -> None:
    await add(world, first, MANY, State.PENDING)
    new = await world.subscribe("new", filter="price > 11")
    assert await world.publisher.publish_once()
    assert len(world.broker.last.views) == 2
    assert await world.state(new) == "active"
    assert (await states(world))["pending"] == MANY - JOINING_A_TURN
    # Before the plan nothing was made but what it needs.
    before = world.topics.plans_before_cursor
    plans = len(world.broker.plans)
    assert [key for key, count in before.items() if count < plans] == [first, new]


async def test_those_who_join_are_all_active_after_some_turns(world: World, first: str) -> None:
    await add(world, first, MANY, State.PENDING)
    turns = 1
    while await world.publisher.publish_once():
        turns += 1
    assert turns == MANY // JOINING_A_TURN
    assert await states(world) == {
        "pending": 0,
        "active": MANY + 1,
        "paused": 0,
        "draining": 0,
        "closed": 0,
    }
    assert len(world.topics.cursors) == MANY + 1
    assert len(world.broker.plans) == 2


async def test_who_joins_waits_only_while_a_turn_takes_all(world: World, first: str) -> None:
    task = asyncio.create_task(world.publisher.run())
    assert await world.publisher.published(60, joining=True)
    task.cancel()
    await add(world, first, MANY, State.PENDING)
    await world.publisher.publish_once()
    assert world.publisher.behind
    # Nothing runs that would answer.
    assert not await world.publisher.published(3600, joining=True)
    while await world.publisher.publish_once():
        pass
    assert not world.publisher.behind


async def test_cursors_of_many_that_were_closed_go_in_turns(world: World, first: str) -> None:
    count = LEFT_A_TURN + 5
    await add(world, first, count, State.PENDING)
    while await world.publisher.publish_once():
        pass
    async with world.database.transaction() as session:
        await session.execute(
            text(
                "UPDATE subscriptions SET state = 'closed', closed_at = now(),"
                " closed_in_plan = plan WHERE id <> :first"
            ),
            {"first": first},
        )
    assert await world.publisher.publish_once()
    assert len(world.topics.cursors) == 1 + 5
    assert not await world.publisher.publish_once()
    assert len(world.topics.cursors) == 1


async def test_subscriptions_to_live_views_are_made_side_by_side(world: World, first: str) -> None:
    """Those for which a plan is made are not: here one would wait for ever."""
    async with world.database.transaction() as session:
        await lock(session, Lock.PLAN_SEQUENCE, shared=True)
        async with asyncio.timeout(60):
            made = await world.subscribe("second", filter=FILTER)
    (one, _), (two, _) = [await world.subscriptions.get(key) for key in (first, made)]
    assert (one.view, one.plan) == (two.view, two.plan)


@pytest.mark.usefixtures("first")
async def test_the_answer_without_waiting_says_what_is_stored(world: World) -> None:
    for name, wanted in (("joins", FILTER), ("new", "price > 12")):
        data = SubscriptionCreate(consumer="desk", name=name, filter=wanted)
        made, version = await world.subscriptions.create(data)
        assert (made, version) == await world.subscriptions.get(made.id)


async def test_a_subscription_costs_the_same_statements_beside_many(
    world: World, first: str
) -> None:
    with statements(world.database) as few:
        await world.subscribe("one", filter=FILTER)
    await add(world, first, 500, State.ACTIVE)
    with statements(world.database) as many:
        await world.subscribe("two", filter=FILTER)
    assert [statement for statement, _ in many] == [statement for statement, _ in few]


async def test_a_page_costs_the_same_statements_whatever_is_on_it(world: World, first: str) -> None:
    async def page(limit: int) -> int:
        with statements(world.database) as seen:
            await world.subscriptions.page(
                cursor=None, limit=limit, consumer=None, name=None, state=None
            )
        return len(seen)

    await add(world, first, 500, State.ACTIVE)
    assert await page(1) == await page(400)


@pytest.mark.parametrize(
    ("consumer", "state", "sort"),
    [
        (None, None, None),
        (None, "paused", None),
        ("desk", None, None),
        ("desk", "closed", None),
        (None, None, "-created_at"),
        (None, None, "name"),
        (None, None, "-name,created_at"),
        ("desk", None, "name"),
    ],
)
async def test_a_page_is_read_from_an_index(
    world: World, first: str, consumer: str | None, state: Any, sort: str | None
) -> None:
    await add(world, first, 2_000, State.ACTIVE)
    with statements(world.database) as seen:
        await world.subscriptions.page(
            cursor=None, limit=10, sort=sort, consumer=consumer, state=state
        )
    await require_index(world, seen)


@pytest.mark.parametrize("consumer", [None, "desk"])
async def test_a_page_of_groups_is_read_from_an_index(
    world: World, first: str, consumer: str | None
) -> None:
    await add(world, first, 2_000, State.ACTIVE)
    service = GroupService(world.database, cast(PulsarAdmin, None))
    with statements(world.database) as seen:
        await service.page(cursor=None, limit=10, consumer=consumer, name=None, occupied=None)
    await require_index(world, seen)


async def require_index(world: World, seen: list[tuple[str, Any]]) -> None:
    """Whatever the parameters are, as in a plan that is kept for all of them."""
    statement, parameters = next(each for each in seen if "ORDER BY" in each[0])
    async with world.database.engine.connect() as connection:
        await connection.exec_driver_sql("SET plan_cache_mode = force_generic_plan")
        plan = await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
        told = "\n".join(row[0] for row in plan)
    assert "Seq Scan on subscriptions" not in told
    assert re.search("(ix|uq)_subscriptions_", told)


async def test_the_reconciler_reads_views_without_rows_of_objects(world: World, first: str) -> None:
    """Some views at a time, each with its Pulsar subscriptions."""
    out, _ = await world.subscriptions.get(first)
    await add(world, first, 20, State.ACTIVE)
    async with world.database.transaction() as session:
        with statements(world.database) as seen:
            found = await repository.readers(session, ROUTED, after="", limit=5)
            assert await repository.readers(session, ROUTED, after=out.view, limit=5) == {}
    assert len(seen) == 2
    topic, names = found[out.view]
    assert topic == out.topic
    assert len(names) == 21
    assert names[out.subscription_name] == first
