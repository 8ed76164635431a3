"""Shared transformations over HTTP, against a real PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest
from litestar.testing import AsyncTestClient
from world import World

from control_plane.database import Database
from control_plane.domains.subscriptions.schemas import SubscriptionCreate
from control_plane.domains.transformations.schemas import TransformationCreate
from control_plane.domains.transformations.service import TransformationService
from control_plane.errors import ConflictError, InvalidRequestError
from marketdata.custom import Custom
from marketdata.plans import Plan
from marketdata.rules import Rule
from marketdata.transformations import Transformation

Client = AsyncTestClient[Any]
PATH = "/v1/transformations"
MID = {"compute": {"mid": "(bid_price+ask_price)/2"}}


async def make(client: Client, name: str, **transformation: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json={"name": name, "transformation": transformation})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_versions_are_numbered_found_listed_and_never_reused(client: Client) -> None:
    first = await make(client, "mids", **MID)
    assert (first["reference"], first["version"]) == ("mids@1", 1)
    assert first["transformation"]["compute"] == {"mid": "round(0.5 * (ask_price + bid_price), 9)"}
    second = await make(client, "mids", mask=["source"])
    other = await make(client, "other")
    for made in (first, second, other):
        for key in (made["reference"], made["id"]):
            assert (await client.get(f"{PATH}/{key}")).json() == made
    pages = (await client.get(PATH, params={"limit": 2})).json()
    rest = (await client.get(PATH, params={"cursor": pages["next_cursor"]})).json()
    assert pages["items"] + rest["items"] == [first, second, other]
    named = (await client.get(PATH, params={"name": "mids"})).json()["items"]
    assert named == [first, second]

    assert (await client.delete(f"{PATH}/mids@2")).status_code == 204
    for key in ("mids@2", second["id"], "mids", "mids@x", "mids@9999999999", "none@1"):
        assert (await client.get(f"{PATH}/{key}")).status_code == 404
    assert (await make(client, "mids", **MID))["reference"] == "mids@3"
    assert (await client.patch(f"{PATH}/mids@1", json={})).status_code == 405


@pytest.mark.parametrize(
    ("transformation", "pointer"),
    [
        (Transformation(compute={"x": "prise"}), "/transformation/compute/x"),
        (Transformation(select=("price",)), "/transformation"),
        (
            Transformation(rules={"r": Rule("1 = 1", "drop")}),
            "/transformation/rules/r/condition",
        ),
        (Transformation(custom=Custom("absent")), "/transformation/custom"),
    ],
)
async def test_what_a_subscription_may_not_ask_for_is_refused(
    database: Database, transformation: Transformation, pointer: str
) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await TransformationService(database).create(TransformationCreate("bad", transformation))
    assert [problem.pointer for problem in raised.value.problems] == [pointer]


async def test_a_subscription_takes_a_version_over_and_keeps_it(
    world: World, database: Database
) -> None:
    shared = TransformationService(database)
    mids = Transformation(compute={"mid": "(bid_price + ask_price) / 2"})
    await shared.create(TransformationCreate("mids", mids))
    await shared.create(TransformationCreate("mids", Transformation(mask=("source",))))
    referring, _ = await world.subscriptions.create(
        SubscriptionCreate("desk", "referring", shared_transformation="mids@1")
    )
    spelling, _ = await world.subscriptions.create(
        SubscriptionCreate("desk", "spelling", transformation=mids)
    )
    assert referring.transformation == mids.canonical()
    assert (referring.shared_transformation, spelling.shared_transformation) == ("mids@1", None)
    assert referring.view == spelling.view

    with pytest.raises(ConflictError, match="refer to the transformation 'mids@1'"):
        await shared.delete("mids@1")
    await shared.delete("mids@2")
    await world.lifecycles.close(referring.id, None)
    await shared.delete("mids@1")
    told, _ = await world.subscriptions.get(referring.id)
    assert told.shared_transformation == "mids@1"
    for request, says in (
        (SubscriptionCreate("desk", "late", shared_transformation="mids@1"), "no trans"),
        (
            SubscriptionCreate("desk", "both", transformation=mids, shared_transformation="mids@1"),
            "two transformations",
        ),
    ):
        with pytest.raises(InvalidRequestError, match=says) as raised:
            await world.subscriptions.create(request)
        assert [p.pointer for p in raised.value.problems] == ["/shared_transformation"]


async def test_plans_know_nothing_of_names(world: World, database: Database) -> None:
    mids = Transformation(compute={"mid": "(bid_price + ask_price) / 2"})
    await TransformationService(database).create(TransformationCreate("mids", mids))
    await world.subscriptions.create(
        SubscriptionCreate("desk", "referring", shared_transformation="mids@1")
    )
    await world.settle()
    plan: Plan = world.broker.last
    [view] = plan.views
    assert view.transformation == mids.canonical()
    assert view.computed == mids.compiled()
