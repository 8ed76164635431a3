"""Plans are compared by documents and by whom they served; rollouts by what instances say."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from litestar.testing import AsyncTestClient
from msgspec import UNSET
from world import World

from control_plane.domains.consumers.schemas import ConsumerUpdate, EntitlementsUpdate
from control_plane.domains.functions.service import StatusBoard
from control_plane.domains.instrument_sets.schemas import InstrumentSetCreate, InstrumentSetUpdate
from control_plane.domains.instrument_sets.service import InstrumentSetService
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.plans.comparing import PlanComparison
from control_plane.domains.plans.schemas import PlanDifferenceOut, SubscriptionDifferenceOut
from control_plane.domains.plans.service import PlanService
from control_plane.domains.reference_tables.schemas import ColumnSpec, ReferenceTableCreate
from control_plane.errors import NotFoundError
from marketdata.reference import Enrichment
from marketdata.transformations import Transformation

Client = AsyncTestClient[Any]


async def newest(world: World) -> int:
    async with world.database.transaction() as session:
        row = await plan_rows.newest(session)
    assert row is not None
    return row.number


async def compared(world: World, before: int, after: int) -> PlanDifferenceOut:
    return await PlanComparison(world.database).difference(before, after)


def ids(rows: list[SubscriptionDifferenceOut]) -> list[str]:
    return sorted(row.subscription for row in rows)


async def test_subscriptions_are_told_as_they_stood_when_the_next_plan_came(world: World) -> None:
    first = await world.subscribe("first", filter="price > 1")
    one = await newest(world)
    shares = await world.subscribe("shares", filter="price > 1")  # makes no plan
    assert await newest(world) == one
    second = await world.subscribe("second", filter="price > 2", format="json")
    two = await newest(world)
    await world.lifecycles.close(shares, None)  # makes none either
    third = await world.subscribe("third", filter="price > 3")
    await world.lifecycles.close(second, None)
    four = await newest(world)

    made = await compared(world, one, two)
    assert ids(made.subscriptions.added) == [second]
    assert ids(made.subscriptions.removed) == [shares]
    assert [view.filter for view in made.views.added] == ["price > 2"]
    assert {part.part: part.after for part in made.subscriptions.added[0].parts}["format"] == "json"

    whole = await compared(world, one, four)
    assert ids(whole.subscriptions.added) == [third]
    assert ids(whole.subscriptions.removed) == [shares]
    back = await compared(world, four, one)
    assert ids(back.subscriptions.added) == [shares]
    assert ids(back.subscriptions.removed) == [third]
    assert first not in ids(whole.subscriptions.changed)

    same = await compared(world, two, two)
    assert same.subscriptions.added == same.subscriptions.removed == same.views.added == []
    with pytest.raises(NotFoundError):
        await compared(world, one, 99)


async def test_moves_and_sets_are_changes(world: World) -> None:
    sets = InstrumentSetService(world.database, world.publisher, wait_seconds=0)
    await sets.create(InstrumentSetCreate("some", ["A", "B"]))
    held = await world.subscribe("held", filter="instrument IN SET 'some'")
    one = await newest(world)
    await sets.update("some", InstrumentSetUpdate(add=["C"], remove=["A"]), None)
    two = await newest(world)
    change = ConsumerUpdate(entitlements=EntitlementsUpdate(venues=("XNAS",)))
    await world.consumers.update("desk", change, None)
    three = await newest(world)

    sets_changed = await compared(world, one, two)
    assert [view.filter for view in sets_changed.views.changed] == ["instrument IN SET 'some'"]
    [told] = sets_changed.sets
    assert (told.name, told.added, told.removed) == ("some", ["C"], ["A"])
    assert sets_changed.subscriptions.changed == []

    for before, after in ((one, three), (two, three)):
        moved = await compared(world, before, after)
        [row] = moved.subscriptions.changed
        assert row.subscription == held
        [part] = row.parts
        assert part.part == "filter"
        assert part.after == f"{part.before} AND venue = 'XNAS'"
        assert (moved.views.added[0].id, moved.views.removed[0].id) == (
            row.view_after,
            row.view_before,
        )


async def test_versions_of_reference_tables_are_changes(world: World) -> None:
    await world.subscribe("other")
    one = await newest(world)
    table = ReferenceTableCreate(
        "masters", [ColumnSpec("instrument", "text"), ColumnSpec("lot", "integer")], ["instrument"]
    )
    await world.reference_tables.create(table)
    wanted = Transformation(enrich=(Enrichment("masters", {"lot": "lot"}),))
    await world.subscribe("enriched", transformation=wanted)
    two = await newest(world)
    body = b"instrument,lot\nA,1\n"
    await world.reference_tables.load("masters", body, "text/csv", None, replace=True)
    three = await newest(world)

    made = await compared(world, one, two)
    assert [(each.name, each.before, each.after) for each in made.tables] == [("masters", None, 1)]
    assert made.views.changed == []
    loaded = await compared(world, two, three)
    assert [(each.name, each.before, each.after) for each in loaded.tables] == [("masters", 1, 2)]
    assert [view.transformation.enrich is not UNSET for view in loaded.views.changed] == [True]
    assert (loaded.views.added, loaded.views.removed, loaded.sets) == ([], [], [])
    assert (await compared(world, three, three)).tables == []


async def test_long_lists_are_cut(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.subscribe("a", filter="price > 1")
    one = await newest(world)
    for price in (2, 3):
        await world.subscribe(f"b{price}", filter=f"price > {price}")
    assert not (await compared(world, one, await newest(world))).cut
    monkeypatch.setattr("control_plane.domains.plans.comparing.MOST", 1)
    told = await compared(world, one, await newest(world))
    assert told.cut
    assert len(told.views.added) == len(told.subscriptions.added) == 1


async def test_a_rollout_tells_what_each_instance_runs(world: World) -> None:
    board = StatusBoard()
    board.expected = {"distributor": 3}
    plans = PlanService(world.database, board)
    await world.subscribe("a", filter="price > 1")
    number = await newest(world)
    pending = await plans.rollout(number)
    assert (pending.state, pending.published_at, pending.instances) == ("pending", None, [])
    await world.settle()
    now = time.time_ns()
    for instance, plan, at in ((0, number, now), (1, number - 1, now), (2, number, 1)):
        report = {
            "function": "distributor",
            "instance": instance,
            "plan": plan,
            "reported_at_ns": at,
        }
        board.take(msgspec.json.encode(report))
    rolling = await plans.rollout(number)
    assert (rolling.state, rolling.detail) == ("rolling", "applied by 1 of 3")
    assert [each.state for each in rolling.instances] == ["applied", "behind", "silent"]

    await world.subscribe("b", filter="price > 2")
    await world.settle()
    page = await plans.rollouts(cursor=None, limit=10)
    told = [(each.plan, each.state, len(each.instances)) for each in page.items[:2]]
    assert told == [(number + 1, "rolling", 3), (number, "superseded", 0)]


async def test_what_is_not_there_is_404(client: Client) -> None:
    for path in ("/v1/plans/1/diff/2", "/v1/rollouts/1"):
        assert (await client.get(path)).status_code == 404
    assert (await client.get("/v1/rollouts")).json() == {"items": [], "next_cursor": None}
