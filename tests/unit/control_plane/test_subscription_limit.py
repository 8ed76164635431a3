"""How many subscriptions a consumer may have, whoever makes them at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from test_batch import PATH, asked
from test_entitlements_api import application, register, subscribe
from world import LANES, World

from control_plane.database import Database
from control_plane.domains.consumers.schemas import ConsumerCreate
from control_plane.domains.subscriptions.making import checked, store
from control_plane.errors import TooManySubscriptionsError
from control_plane.settings import Settings

FILTER = "price > 1"
FEW = 3


@pytest.fixture
async def few(monkeypatch: pytest.MonkeyPatch, database: Database) -> World:
    """A world in which a consumer may have few subscriptions, with two consumers."""
    monkeypatch.setattr("world.MOST", FEW)
    made = World(database)
    for name in ("desk", "other"):
        await made.consumers.create(ConsumerCreate(name=name))
    return made


async def names(world: World) -> list[str]:
    page = await world.subscriptions.page(cursor=None, limit=100, sort="name")
    return [each.name for each in page.items]


async def test_a_consumer_has_as_many_as_it_may_and_closing_makes_room(few: World) -> None:
    made = [await few.subscribe(name) for name in ("a", "b", "c")]
    with pytest.raises(TooManySubscriptionsError, match=r"'desk' has 3 .* 1 more; it may have 3"):
        await few.subscribe("d")
    await few.lifecycles.close(made[0], None)
    await few.subscribe("d")
    assert await names(few) == ["b", "c", "d"]


async def test_who_is_drained_makes_room(few: World) -> None:
    await few.settle()
    made = [await few.subscribe(name) for name in ("a", "b", "c")]
    await few.settle()
    await few.lifecycles.close(made[0], None, drain_seconds=60)
    assert await few.state(made[0]) == "draining"
    await few.subscribe("d")


async def test_of_many_at_once_none_is_made_where_one_is_too_many(few: World) -> None:
    await few.subscribe("a")
    wanted = [*asked("b", "c", "d"), *asked("a", consumer="other")]
    with pytest.raises(TooManySubscriptionsError, match=r"'desk' has 1 .* 3 more; it may have 3"):
        await few.subscriptions.create_all(wanted)
    await few.subscriptions.create_all(wanted[1:])
    assert await names(few) == ["a", "a", "c", "d"]


async def test_who_comes_meanwhile_waits_and_is_counted(few: World) -> None:
    await few.settle()
    for name in ("a", "b"):
        await few.subscribe(name, filter=FILTER)
    async with few.database.transaction() as session:
        last = checked(asked("c", filter=FILTER), "")
        await store(session, last, only=None, lanes=LANES, most=FEW, joining=True)
        others = await few.subscriptions.create_all(asked("a", consumer="other", filter=FILTER))
        assert len(others) == 1
        later = asyncio.create_task(few.subscribe("d", filter=FILTER))
        async with asyncio.timeout(120):
            while not await waiting(few.database):
                done, _ = await asyncio.wait({later}, timeout=0.05)
                assert not done
    with pytest.raises(TooManySubscriptionsError, match="has 3"):
        await later


async def waiting(database: Database) -> bool:
    async with database.transaction() as session:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        query += " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        return bool(await session.scalar(text(query)))


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[Any]:
    async with application(settings.model_copy(update={"subscriptions_per_consumer": 1})) as client:
        yield client


async def test_it_is_told_over_http_one_by_one_and_for_many(client: Any) -> None:
    await register(client)
    assert (await subscribe(client, "first")).status_code == 201
    body = {"subscriptions": [{"consumer": "desk", "name": "second"}]}
    for refused in (await subscribe(client, "second"), await client.post(PATH, json=body)):
        assert refused.status_code == 409, refused.text
        problem = refused.json()
        assert problem["type"] == "urn:dds:problem:too-many-subscriptions"
        assert "'desk' has 1 subscriptions and asks for 1 more; it may have 1" in problem["detail"]
