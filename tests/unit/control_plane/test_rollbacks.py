"""Rolling back to an earlier plan: what is put back, what not, and that nobody gets more by it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from access import Tokens, secured
from litestar.testing import AsyncTestClient
from sqlalchemy import text
from test_lifecycle import change, history
from test_moves import cursor, drained, entitle, get, other_desk
from world import LANES, World

from control_plane.app import create_app
from control_plane.database import Database, Lock, lock
from control_plane.domains.consumers.schemas import ConsumerUpdate, EntitlementsUpdate
from control_plane.domains.instrument_sets import repository as set_rows
from control_plane.domains.instrument_sets.schemas import InstrumentSetCreate, InstrumentSetUpdate
from control_plane.domains.instrument_sets.service import InstrumentSetService
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.reference_tables.schemas import ColumnSpec, ReferenceTableCreate
from control_plane.domains.rollbacks import asking, service
from control_plane.domains.rollbacks.schemas import RollbackOut, RollbackRequest
from control_plane.domains.rollbacks.service import RollbackService
from control_plane.domains.rules.schemas import RuleCreate, RuleOrder, RuleUpdate
from control_plane.domains.rules.service import RuleService
from control_plane.domains.transformations.schemas import TransformationCreate
from control_plane.domains.transformations.service import TransformationService
from control_plane.errors import ConflictError, NotFoundError, PreconditionFailedError
from control_plane.security.roles import Role
from control_plane.settings import Settings
from marketdata.plans import Delivery, Plan, decode_plan
from marketdata.reference import Enrichment
from marketdata.transformations import Transformation

Client = AsyncTestClient[Any]


class Desk:
    """The world with what a plan is made of beside subscriptions, and the way back."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sets = InstrumentSetService(world.database, world.publisher, wait_seconds=0)
        self.rules = RuleService(world.database, world.publisher, drain_seconds=300, wait_seconds=0)
        self.rollbacks = RollbackService(
            world.database, world.publisher, lanes=lambda: LANES, drain_seconds=300, wait_seconds=0
        )

    async def back(self, plan: int, if_match: str | None = None, **members: Any) -> RollbackOut:
        return (await self.rollbacks.roll_back(plan, RollbackRequest(**members), if_match))[0]

    async def plan(self, number: int = 0) -> Plan:
        async with self.world.database.transaction() as session:
            newest = await plan_rows.newest(session)
            assert newest is not None
            return decode_plan((await plan_rows.find(session, number or newest.number)).document)

    async def newest(self) -> int:
        return (await self.plan()).number

    async def held(self, name: str) -> list[str]:
        return (await self.sets.get(name)).instruments

    async def rule_names(self) -> list[str]:
        page, _ = await self.rules.page(cursor=None, limit=100)
        return [rule.name for rule in page.items]


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


def content(plan: Plan) -> Any:
    """All that a plan says but its number."""
    tables = {name: ref.digest for name, ref in (plan.tables or {}).items()}
    return {view.id for view in plan.views}, plan.sets, tables


def kinds(out: RollbackOut) -> dict[str, str]:
    return {each.name: each.kind for each in out.put_back}


def reasons(out: RollbackOut) -> dict[str, str]:
    return {each.name: each.reason for each in out.kept}


def deny(name: str, when: str, **members: Any) -> RuleCreate:
    return RuleCreate(name, "deny", when=when, **members)


async def everything(desk: Desk) -> tuple[str, str]:
    """One of each kind; gives two subscriptions."""
    world = desk.world
    await world.settle()
    await desk.sets.create(InstrumentSetCreate("some", ["A", "B"]))
    columns = [ColumnSpec("instrument", "text"), ColumnSpec("lot", "integer")]
    await world.reference_tables.create(ReferenceTableCreate("masters", columns, ["instrument"]))
    await load(desk, "A,1")
    await desk.rules.create(deny("no-london", "venue = 'XLON'"))
    filtered = await world.subscribe("filtered", filter="price > 1", format="json")
    wanted = Transformation(enrich=(Enrichment("masters", {"lot": "lot"}),))
    enriched = await world.subscribe(
        "enriched", filter="instrument IN SET 'some'", transformation=wanted
    )
    await world.settle()
    return filtered, enriched


async def load(desk: Desk, *rows: str) -> None:
    body = "\n".join(["instrument,lot", *rows]).encode()
    tables = desk.world.reference_tables
    await tables.load("masters", body, "text/csv", None, replace=True)


async def go_wrong(desk: Desk, filtered: str) -> None:
    """A change of each kind that nobody wants."""
    await change(desk.world, filtered, filter="price > 100", format="csv")
    await desk.sets.update("some", InstrumentSetUpdate(add=["Z"], remove=["A"]), None)
    await load(desk, "A,9", "Z,9")
    await desk.rules.update("no-london", RuleUpdate(enabled=False), None)


async def test_what_has_changed_since_a_plan_is_put_back_by_one_plan(desk: Desk) -> None:
    world = desk.world
    filtered, enriched = await everything(desk)
    good = await desk.plan()
    first = await get(world, filtered)
    await go_wrong(desk, filtered)
    await world.settle()
    bad = await desk.plan()
    assert content(bad) != content(good)

    out = await desk.back(good.number)
    assert (out.to, out.before, out.plan) == (good.number, bad.number, bad.number + 1)
    assert kinds(out) == {
        "filtered": "subscription",
        "some": "instrument_set",
        "masters": "reference_table",
        "routing rules": "rules",
    }
    assert out.kept == []
    assert out.changes is not None
    assert [(each.added, each.removed) for each in out.changes.sets] == [(["A"], ["Z"])]
    now = await desk.plan()
    assert content(now) == content(good)
    assert now.number == bad.number + 1
    assert await desk.held("some") == ["A", "B"]
    told = (await history(world, filtered))[0]
    assert (told.type, told.data["reason"]) == ("subscription.moved", "rollback")
    assert told.data["after"] == {"filter": "price > 1", "format": "json"}
    # It is a plan like any other: published, with topics before it, and said of the plan.
    await world.settle()
    assert world.broker.last.number == now.number
    after = await get(world, filtered)
    assert (after.state, after.plan, after.topic) == ("active", now.number, first.topic)
    # Nobody else had the view meanwhile: nothing that it has not read is passed over.
    assert after.from_plan == first.from_plan
    assert cursor(after) in world.topics.cursors
    async with world.database.transaction() as session:
        assert (await plan_rows.find(session, now.number)).rolled_back_to == good.number
    # What is put back counts as a change: it can be gone back behind, too.
    again = await desk.back(bad.number, widen=True)
    assert content(await desk.plan(again.plan)) == content(bad)
    assert (await get(world, enriched)).topic != ""


async def test_a_dry_run_tells_what_would_be_and_changes_nothing(desk: Desk) -> None:
    filtered, _ = await everything(desk)
    good = await desk.newest()
    await go_wrong(desk, filtered)

    async def state() -> Any:
        async with desk.world.database.transaction() as session:
            tables = ("events", "subscription_history", "plans", "subscription_moves")
            counted = [await session.scalar(text(f"SELECT count(*) FROM {t}")) for t in tables]
        return counted, content(await desk.plan()), await desk.held("some")

    before = await state()
    dry = await desk.back(good, dry_run=True)
    assert await state() == before
    assert len(dry.put_back) == 4
    real = await desk.back(good, if_match=f'"{dry.before}"')
    assert (dry.plan, dry.put_back, dry.kept) == (real.plan, real.put_back, real.kept)
    assert dry.changes == real.changes
    assert await desk.newest() == real.plan
    # What it would do twice is nothing, and makes no plan.
    nothing = await desk.back(good)
    assert (nothing.put_back, nothing.plan, nothing.changes) == ([], real.plan, None)
    assert await desk.newest() == real.plan


async def test_only_the_parts_that_are_named_are_put_back(desk: Desk) -> None:
    filtered, _ = await everything(desk)
    good = await desk.newest()
    await go_wrong(desk, filtered)
    out = await desk.back(good, parts=["instrument_sets"])
    assert kinds(out) == {"some": "instrument_set"}
    assert (await get(desk.world, filtered)).filter == "price > 100"
    assert await desk.held("some") == ["A", "B"]
    assert (await desk.plan()).sets == {"some": ("A", "B")}


async def test_random_changes_are_gone_back_behind(desk: Desk) -> None:
    """Whatever was changed in whatever order: the content is that of the plan gone back to."""
    chosen = random.Random(11)
    world = desk.world
    await world.settle()
    await desk.sets.create(InstrumentSetCreate("some", ["A"]))
    await desk.rules.create(deny("rule", "venue = 'XLON'"))
    # Formats keep their views apart: what others have cannot be come back to at once.
    keys = [await world.subscribe(name, format=name) for name in ("arrow", "json", "csv")]
    await world.settle()
    stood = {}

    async def one() -> None:
        choice = chosen.randrange(4)
        if choice == 0:
            when = f"venue = '{chosen.choice(('XLON', 'XPAR'))}'"
            await desk.rules.update("rule", RuleUpdate(when=when), None)
        elif choice == 1:
            held = chosen.sample("ABCD", chosen.randint(0, 3))
            await desk.sets.update("some", InstrumentSetUpdate(held), None)
        else:
            sql = chosen.choice(("", "price > 1", "price > 2", "instrument IN SET 'some'"))
            try:
                await change(world, chosen.choice(keys), filter=sql)
            except ConflictError:  # it drains that still
                return
        plan = await desk.plan()
        stood[plan.number] = content(plan)

    for _ in range(25):
        await one()
    await world.settle()
    for target in chosen.sample(sorted(stood), 6):
        out = await desk.back(target, widen=True)
        assert content(await desk.plan()) == stood[target], (target, out)
        await world.settle()
        assert {await world.state(key) for key in keys} == {"active"}


async def test_nobody_may_receive_more_than_now(desk: Desk) -> None:
    world = desk.world
    await world.settle()
    held = await world.subscribe("held", filter="price > 1")
    closed = await world.subscribe("closed", filter="price > 3")
    good = await desk.newest()
    await change(world, held, filter="price > 2 AND venue = 'XNAS'")
    await entitle(world, venues=("XNAS",))
    await desk.rules.create(deny("no-quotes", "kind = 'quote'"))
    await world.lifecycles.close(closed, None)
    made = await world.subscribe("made", filter="price > 4")
    await change(world, made, format="json")
    before = await get(world, made)

    out = await desk.back(good)
    assert reasons(out) == {
        "routing rules": "would_widen",
        "closed": "closed_since",
        "made": "made_since",
    }
    assert "desk" in next(each.detail for each in out.kept if each.kind == "rules")
    now = await get(world, held)
    assert now.filter == "price > 1"
    assert set(now.effective_filter.split(" AND ")) == {
        "price > 1", "venue = 'XNAS'", "kind <> 'quote'",
    }  # fmt: skip
    assert (await get(world, closed)).state == "closed"
    after = await get(world, made)
    assert (after.topic, after.plan) == (before.topic, before.plan)
    # Asked for expressly, rules are put back all the same; entitlements never.
    widened = await desk.back(good, widen=True)
    assert kinds(widened) == {"routing rules": "rules"}
    assert await desk.rule_names() == []
    assert set((await get(world, held)).effective_filter.split(" AND ")) == {
        "price > 1", "venue = 'XNAS'",
    }  # fmt: skip


async def test_a_priority_by_a_rule_is_put_back_and_is_nobody_s_gain(desk: Desk) -> None:
    world = desk.world
    key = await world.subscribe("one", filter="kind = 'trade'")
    await world.settle()
    first = await get(world, key)
    await desk.rules.create(RuleCreate("first", "prioritize", priority=3))
    await world.settle()
    good, high = await desk.newest(), await get(world, key)
    assert (high.delivery.priority, high.topic != first.topic) == (3, True)
    await desk.rules.update("first", RuleUpdate(priority=0), None)
    await world.settle()
    assert (await get(world, key)).delivery.priority == 0
    out = await desk.back(good)
    assert kinds(out) == {"routing rules": "rules"}
    await world.settle()
    assert (await get(world, key)).topic == high.topic
    (rule,) = (await desk.rules.page(cursor=None, limit=9))[0].items
    assert (rule.effect, rule.priority) == ("prioritize", 3)


async def test_a_rule_that_was_loosened_holds_again(desk: Desk) -> None:
    world = desk.world
    await world.settle()
    key = await world.subscribe("one")
    await desk.rules.create(deny("first", "venue = 'XLON'"))
    await desk.rules.create(deny("second", "venue = 'XPAR'"))
    good = await desk.newest()
    rules, _ = await desk.rules.page(cursor=None, limit=9)
    await world.subscribe("makes-a-plan", filter="price > 1")
    # Names are exchanged, one is gone, another one has its name, the order is another.
    await desk.rules.update("first", RuleUpdate(name="other"), None)
    await desk.rules.update("second", RuleUpdate(name="first"), None)
    await desk.rules.delete("other", None)
    await desk.rules.create(deny("second", "venue = 'XTKS'", enabled=False))
    await desk.rules.order(RuleOrder(["second", "first"]), None)
    assert "XLON" not in (await get(world, key)).effective_filter
    out = await desk.back(good)
    assert kinds(out) == {"routing rules": "rules"}
    assert reasons(out) == {"makes-a-plan": "made_since"}
    again, _ = await desk.rules.page(cursor=None, limit=9)
    assert [(each.id, each.name, each.when) for each in again.items] == [
        (each.id, each.name, each.when) for each in rules.items
    ]
    assert [each.plan for each in again.items] == [out.plan, out.plan]
    assert "XLON" in (await get(world, key)).effective_filter


async def test_rules_of_which_nothing_is_known_are_left(desk: Desk) -> None:
    await desk.world.settle()
    await desk.world.subscribe("one")
    good = await desk.newest()
    await desk.rules.create(deny("first", "venue = 'XLON'"))
    async with desk.world.database.transaction() as session:
        # As where the rules had been there before what they were was kept.
        await session.execute(text("DELETE FROM rule_list_versions WHERE version = 1"))
    out = await desk.back(good)
    assert reasons(out) == {"routing rules": "not_kept"}
    assert await desk.rule_names() == ["first"]


async def test_sets_that_bound_somebody_hold_no_more_than_now(desk: Desk) -> None:
    world = desk.world
    await world.settle()
    for name in ("entitling", "ruling", "asked"):
        await desk.sets.create(InstrumentSetCreate(name, ["A", "B"]))
        await world.subscribe(name, filter=f"instrument IN SET '{name}'")
    good = await desk.newest()
    for name in ("entitling", "ruling", "asked"):
        await desk.sets.update(name, InstrumentSetUpdate(["B", "C"]), None)
    await world.consumers.update(
        "desk",
        ConsumerUpdate(
            entitlements=EntitlementsUpdate(
                instruments=("A", "B", "C"), instrument_sets=("entitling",)
            )
        ),
        None,
    )
    await desk.rules.create(deny("rule", "instrument IN SET 'ruling'", position=1))
    out = await desk.back(good, parts=["instrument_sets"])
    assert reasons(out) == {"entitling": "entitlements", "ruling": "would_widen"}
    assert kinds(out) == {"asked": "instrument_set"}
    out = await desk.back(good, parts=["instrument_sets"], widen=True)
    assert reasons(out) == {"entitling": "entitlements"}
    assert await desk.held("ruling") == ["A", "B"]
    # What only takes away from somebody is put back.
    fewer = await desk.newest()
    await desk.sets.update("entitling", InstrumentSetUpdate(["B", "C", "D"]), None)
    out = await desk.back(fewer, parts=["instrument_sets"])
    assert kinds(out) == {"entitling": "instrument_set"}
    assert await desk.held("entitling") == ["B", "C"]


async def test_a_deleted_set_is_there_again_and_a_deleted_table_is_not(desk: Desk) -> None:
    world = desk.world
    filtered, enriched = await everything(desk)
    sets_only = await world.subscribe("sets-only", filter="instrument IN SET 'some'")
    good = await desk.newest()
    await change(world, enriched, filter="", transformation=Transformation())
    await change(world, sets_only, filter="price > 9")
    await desk.sets.delete("some", None)
    await world.reference_tables.delete("masters", None)
    out = await desk.back(good)
    assert kinds(out) == {"some": "instrument_set", "sets-only": "subscription"}
    assert reasons(out) == {"masters": "deleted_since", "enriched": "refused"}
    assert await desk.held("some") == ["A", "B"]
    assert (await get(world, sets_only)).filter == "instrument IN SET 'some'"
    assert (await get(world, filtered)).state == "active"


async def test_a_table_whose_content_is_not_kept_stays(desk: Desk) -> None:
    await everything(desk)
    good = await desk.newest()
    await load(desk, "A,9")
    async with desk.world.database.transaction() as session:
        await session.execute(
            text(
                "UPDATE reference_table_versions SET content = NULL, published_at = NULL"
                " WHERE version < 3"
            )
        )
    assert reasons(await desk.back(good)) == {"masters": "not_kept"}


async def test_who_is_suspended_stays_so(desk: Desk) -> None:
    world = desk.world
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    good = await desk.newest()
    await change(world, key, filter="price > 2")
    await world.consumers.update("desk", ConsumerUpdate(suspended=True), None)
    out = await desk.back(good)
    assert reasons(out) == {"one": "suspended"}
    now = await get(world, key)
    assert (now.filter, now.receives_nothing) == ("price > 2", True)


async def test_what_would_be_lost_is_drained_before(desk: Desk) -> None:
    """Others have the view on: what it has left there cannot be told from what is theirs."""
    world = desk.world
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    await other_desk(world, filter="price > 1")
    await world.settle()
    good = await desk.newest()
    await change(world, key, filter="price > 2")
    await world.settle()
    (left,) = (await get(world, key)).draining
    out = await desk.back(good)
    assert reasons(out) == {"one": "draining"}
    assert (out.kept[0].until, out.plan) == (left.until, out.before)
    await drained(world)
    out = await desk.back(good)
    assert kinds(out) == {"one": "subscription"}
    await world.settle()
    after = await get(world, key)
    assert (after.filter, after.from_plan) == ("price > 1", out.plan)


async def test_what_goes_on_is_read_on_whoever_else_has_it(desk: Desk) -> None:
    """Its lane has not come to where the next one begins: all of it is for who left it, too."""
    world = desk.world
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    await other_desk(world, filter="price > 1")
    await world.settle()
    before, good = await get(world, key), await desk.newest()
    await change(world, key, delivery=Delivery(priority=3))
    await world.settle()
    out = await desk.back(good)
    assert (kinds(out), out.kept) == ({"one": "subscription"}, [])
    await world.settle()
    after = await get(world, key)
    assert (after.topic, after.from_plan) == (before.topic, before.from_plan)


async def test_a_plan_that_was_never_published_is_as_if_it_had_not_been(desk: Desk) -> None:
    """No topic can be made for it: no later plan comes either, until it is gone back behind."""
    world = desk.world
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    await other_desk(world, filter="price > 1")
    await world.settle()
    before, good = await get(world, key), await desk.newest()
    await change(world, key, filter="price > 2")
    await change(world, key, filter="price > 3")
    assert world.broker.last.number == good
    bad = await desk.newest()
    out = await desk.back(good)
    assert kinds(out) == {"one": "subscription"}
    await world.settle()
    assert world.broker.last.number == out.plan == bad + 1
    after = await get(world, key)
    # All that the topic got, also meanwhile, is for it: nothing is passed over.
    assert (after.topic, after.from_plan) == (before.topic, before.from_plan)
    assert after.state == "active"
    assert cursor(after) in world.topics.cursors


async def test_what_is_being_published_counts_as_published(
    desk: Desk, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = desk.world
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    await other_desk(world, filter="price > 1")
    await world.settle()
    good = await desk.newest()
    await change(world, key, filter="price > 2")
    monkeypatch.setattr(service, "PATIENCE", "50ms")
    async with database.transaction() as publishing:
        await lock(publishing, Lock.PUBLISH)
        assert reasons(await desk.back(good)) == {"one": "draining"}
    assert kinds(await desk.back(good)) == {"one": "subscription"}


async def test_a_shared_transformation_is_referred_to_again(desk: Desk) -> None:
    world = desk.world
    transformations = TransformationService(world.database)
    mids = Transformation(compute={"mid": "(bid_price + ask_price) / 2"})
    await transformations.create(TransformationCreate("mids", mids))
    await world.settle()
    key = await world.subscribe("one", shared_transformation="mids@1")
    gone = await world.subscribe("gone", shared_transformation="mids@1", format="json")
    good, first = await desk.newest(), await get(world, key)
    spelled = Transformation(compute={"twice": "price * 2"})
    for each in (key, gone):
        await change(world, each, transformation=spelled)
    out = await desk.back(good, dry_run=True)
    assert {each.after["shared_transformation"] for each in out.put_back} == {"mids@1"}
    await desk.back(good)
    assert (await get(world, key)).shared_transformation == "mids@1"
    # It is the content that is delivered; the name may be gone.
    for each in (key, gone):
        await change(world, each, transformation=Transformation(compute={"more": "price * 3"}))
    await transformations.delete("mids@1")
    await desk.back(good)
    now = await get(world, gone)
    assert now.shared_transformation is None
    assert now.transformation == first.transformation


async def test_what_makes_no_difference_to_a_view_makes_no_plan(desk: Desk) -> None:
    world = desk.world
    await world.settle()
    key = await world.subscribe("one", filter="price > 1 AND size > 2")
    good = await desk.newest()
    await world.subscribe("next", filter="price > 5")
    await change(world, key, filter="size > 2 AND price > 1")
    newest = await desk.newest()
    out = await desk.back(good)
    assert (kinds(out), out.plan) == ({"one": "subscription"}, newest)
    assert (await get(world, key)).filter == "price > 1 AND size > 2"
    told = (await history(world, key))[0]
    assert (told.type, told.data["after"]) == (
        "subscription.changed",
        {"filter": "price > 1 AND size > 2"},
    )


async def test_too_much_at_once_and_what_is_not_there_is_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = desk.world
    await world.settle()
    keys = [await world.subscribe(f"s-{n}", filter=f"price > {n}") for n in (1, 2)]
    good = await desk.newest()
    for key in keys:
        await change(world, key, format="json")
    monkeypatch.setattr(asking, "MOST_CHANGED", 1)
    with pytest.raises(ConflictError, match="at most 1 are put back"):
        await desk.back(good)
    with pytest.raises(NotFoundError):
        await desk.back(999)
    with pytest.raises(PreconditionFailedError):
        await desk.back(good, if_match='"1"')
    assert len((await desk.back(good, parts=["rules"])).kept) == 0


async def test_sets_of_the_world_stay_found_by_name(desk: Desk) -> None:
    """Another set that took a deleted one's name is what filters name, and is what is put back."""
    world = desk.world
    await world.settle()
    await desk.sets.create(InstrumentSetCreate("some", ["A"]))
    key = await world.subscribe("one", filter="instrument IN SET 'some'")
    good = await desk.newest()
    await change(world, key, filter="price > 1")
    await desk.sets.delete("some", None)
    again = await desk.sets.create(InstrumentSetCreate("some", ["B"]))
    await desk.back(good)
    async with world.database.transaction() as session:
        found = await set_rows.find(session, "some")
        assert (found.id, found.version) == (again.id, 2)
    assert await desk.held("some") == ["A"]


async def _broker_is_there() -> None:
    return


@pytest.fixture
async def platform(settings: Settings, tmp_path: Path) -> AsyncIterator[tuple[Client, Tokens]]:
    settings = secured(settings, tmp_path)
    app = create_app(settings)
    for part in ("subscriptions", "lifecycles"):
        getattr(app.state.control_plane, part)._require_broker = _broker_is_there
    tokens = Tokens(settings)
    async with AsyncTestClient(app, raise_server_exceptions=False) as client:
        client.headers.update(tokens.platform())
        yield client, tokens


async def test_the_platform_team_rolls_back_over_http(platform: tuple[Client, Tokens]) -> None:
    client, tokens = platform
    desk = (await client.post("/v1/consumers", json={"name": "desk"})).json()
    body = {"consumer": "desk", "name": "one", "filter": "price > 1"}
    made = (await client.post("/v1/subscriptions", json=body)).json()
    path = f"/v1/subscriptions/{made['id']}"
    assert (await client.patch(path, json={"filter": "price > 2"})).status_code == 200
    rollback = f"/v1/rollouts/{made['plan']}/rollback"
    for role, subject in ((Role.CONSUMER, desk["id"]), (Role.READ_ONLY, "eve")):
        refused = await client.post(rollback, json={}, headers=tokens.of(role, subject))
        assert refused.status_code == 403
    dry = await client.post(rollback, json={"dry_run": True})
    assert dry.status_code == 200
    told = dry.json()
    assert (told["to"], told["plan"]) == (made["plan"], made["plan"] + 2)
    assert [each["name"] for each in told["put_back"]] == ["one"]
    # Something comes between: what was looked at is not what there is.
    await client.post("/v1/subscriptions", json=body | {"name": "two", "filter": "price > 5"})
    if_match = {"If-Match": dry.headers["ETag"]}
    overtaken = await client.post(rollback, json={}, headers=if_match)
    assert overtaken.status_code == 412
    key = {"Idempotency-Key": "back-1"}
    real = await client.post(rollback, json={}, headers=key)
    assert real.status_code == 200
    assert real.headers["ETag"] == f'"{real.json()["plan"]}"'
    assert (await client.post(rollback, json={}, headers=key)).json() == real.json()
    assert (await client.get(path)).json()["filter"] == "price > 1"
    plan = (await client.get(f"/v1/plans/{real.json()['plan']}")).json()
    assert plan["rolled_back_to"] == made["plan"]
    for wrong in ({"parts": []}, {"parts": ["all"]}, {"to": 1}):
        assert (await client.post(rollback, json=wrong)).status_code == 400
    missing = await client.post("/v1/rollouts/9999/rollback", json={})
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:dds:problem:not-found")
    query = {"resource": "subscriptions", "resource_id": made["id"]}
    audited = (await client.get("/v1/audit", params=query)).json()["items"]
    assert any(
        entry["operation"] == "rollBackToPlan" and entry["after"].get("filter") == "price > 1"
        for entry in audited
    )


async def test_a_rollback_is_an_event(desk: Desk) -> None:
    filtered, _ = await everything(desk)
    good = await desk.newest()
    await go_wrong(desk, filtered)
    out = await desk.back(good)
    async with desk.world.database.transaction() as session:
        rows = await session.execute(text("SELECT type, data FROM events ORDER BY id DESC LIMIT 8"))
        told: dict[str, Any] = dict(rows.all())
    rolled = told["plan.rolled_back"]
    assert (rolled["plan"], rolled["to"], rolled["before"]) == (out.plan, good, out.before)
    assert sum(rolled["put_back"].values()) == 4
    assert told["instrument_set.changed"]["plan"] == out.plan
    assert told["reference_table.changed"]["plan"] == out.plan
    assert told["rule.changed"]["plan"] == out.plan
