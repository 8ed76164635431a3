"""Subscriptions that are made together, against a real PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest
from test_entitlements_api import client, register
from test_many_subscriptions import statements
from world import World

from control_plane.domains.consumers.schemas import ConsumerCreate
from control_plane.domains.subscriptions.schemas import MAX_BATCH, SubscriptionCreate
from control_plane.errors import ConflictError, InvalidRequestError, NotFoundError

__all__ = ["client"]

PATH = "/v1/subscriptions:batch-create"


def asked(*names: str, consumer: str = "desk", **members: Any) -> list[SubscriptionCreate]:
    return [SubscriptionCreate(consumer=consumer, name=name, **members) for name in names]


async def test_all_are_made_under_one_plan_and_become_active(world: World) -> None:
    await world.consumers.create(ConsumerCreate(name="other"))
    await world.settle()
    plans = len(world.broker.plans)
    wanted = [
        *asked("a", "b", filter="price > 1"),
        *asked("c", filter="price > 2"),
        *asked("a", consumer="other", filter="price > 2"),
    ]
    made = await world.subscriptions.create_all(wanted)
    assert [(each.consumer_name, each.name, each.filter) for each in made] == [
        (each.consumer, each.name, each.filter) for each in wanted
    ]
    assert len({each.plan for each in made}) == 1
    await world.settle()
    assert len(world.broker.plans) == plans + 1
    assert [await world.state(each.id) for each in made] == ["active"] * 4
    assert len({each.view for each in made}) == 2


async def test_those_that_join_need_no_plan_and_are_told_the_newest(world: World) -> None:
    await world.settle()
    await world.subscribe("first", filter="price > 1")
    await world.settle()
    mixed = [*asked("joins", filter="price > 1"), *asked("new", filter="price > 2")]
    joined, new = await world.subscriptions.create_all(mixed)
    assert joined.plan == new.plan - 1
    (again,) = await world.subscriptions.create_all(asked("again", filter="price > 2"))
    assert again.plan == new.plan


@pytest.mark.parametrize(
    ("bad", "pointer"),
    [
        ({"filter": "pryce > 1"}, "/subscriptions/2/filter"),
        ({"format": "no"}, "/subscriptions/2/format"),
        ({"filter": "instrument IN SET 'none'"}, "/subscriptions/2/filter"),
        ({"shared_transformation": "none@1"}, "/subscriptions/2/shared_transformation"),
    ],
)
async def test_none_is_made_where_one_is_refused(
    world: World, bad: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await world.subscriptions.create_all([*asked("a", "b"), *asked("c", **bad)])
    assert {problem.pointer for problem in raised.value.problems} == {pointer}
    page = await world.subscriptions.page(cursor=None, limit=10)
    assert page.items == []


async def test_names_that_are_taken_are_named(world: World) -> None:
    await world.subscribe("there")
    with pytest.raises(ConflictError, match=r"'there', 'twice' already"):
        await world.subscriptions.create_all(asked("there", "twice", "twice", "free"))
    page = await world.subscriptions.page(cursor=None, limit=10)
    assert [each.name for each in page.items] == ["there"]


async def test_who_may_know_one_consumer_makes_none_for_others(world: World) -> None:
    other, _ = await world.consumers.create(ConsumerCreate(name="other"))
    with pytest.raises(NotFoundError, match="'desk'"):
        await world.subscriptions.create_all(
            [*asked("mine", consumer="other"), *asked("theirs")], only=other.id
        )


async def test_statements_do_not_grow_with_the_subscriptions(world: World) -> None:
    await world.settle()
    await world.subscribe("first", filter="price > 1")
    with statements(world.database) as few:
        await world.subscriptions.create_all(asked("x", "y", filter="price > 1"))
    with statements(world.database) as many:
        names = [f"n{number}" for number in range(MAX_BATCH)]
        await world.subscriptions.create_all(asked(*names, filter="price > 1"))
    assert len(many) == len(few)


async def test_it_is_answered_over_http_in_the_order_asked_for(client: Any) -> None:
    await register(client, entitlements={})
    body = [{"consumer": "desk", "name": name} for name in ("b", "a")]
    answer = await client.post(
        PATH, json={"subscriptions": body}, headers={"Idempotency-Key": "once"}
    )
    assert answer.status_code == 201, answer.text
    assert [each["name"] for each in answer.json()["items"]] == ["b", "a"]
    again = await client.post(
        PATH, json={"subscriptions": body}, headers={"Idempotency-Key": "once"}
    )
    assert again.json() == answer.json()
    refused = await client.post(PATH, json={"subscriptions": []})
    assert refused.status_code == 400
    assert len((await client.get("/v1/subscriptions")).json()["items"]) == 2
