"""What the broker is told when entitlements change: who can read what from which plan on."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select, text
from world import World

from control_plane.domains.consumers.schemas import (
    ConsumerCreate,
    ConsumerUpdate,
    EntitlementsUpdate,
)
from control_plane.domains.instrument_sets.schemas import InstrumentSetCreate, InstrumentSetUpdate
from control_plane.domains.instrument_sets.service import InstrumentSetService
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.subscriptions.models import Move
from control_plane.domains.subscriptions.schemas import (
    SubscriptionCreate,
    SubscriptionOut,
    SubscriptionUpdate,
)
from control_plane.errors import BrokerUnavailableError, ConflictError
from marketdata.entitlements import Entitlements


async def entitle(world: World, **bounds: Any) -> None:
    update = ConsumerUpdate(entitlements=EntitlementsUpdate(**bounds))
    await world.consumers.update("desk", update, None)


async def get(world: World, key: str) -> SubscriptionOut:
    return (await world.subscriptions.get(key))[0]


def cursor(out: SubscriptionOut) -> tuple[str, str]:
    return out.topic, out.subscription_name


def grant(out: SubscriptionOut) -> tuple[str, str]:
    return out.topic, out.consumer


def topics(world: World) -> set[str]:
    return {view.topic for view in world.broker.last.views}


async def drained(world: World) -> None:
    """Time passes: what may be drained is overdue."""
    async with world.database.transaction() as session:
        await session.execute(text("UPDATE subscription_moves SET drain_until = now()"))
    await world.publisher.publish_once()


async def other_desk(world: World, **members: Any) -> SubscriptionOut:
    await world.consumers.create(ConsumerCreate(name="other"))
    data = SubscriptionCreate(consumer="other", name="one", **members)
    return (await world.subscriptions.create(data))[0]


async def test_a_topic_of_ones_own_is_left_to_be_drained(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    await world.settle()
    before = await get(world, key)
    await entitle(world, venues=("XNAS",))
    moving = await get(world, key)
    assert (moving.state, moving.plan) == ("pending", before.plan + 1)
    assert moving.topic != before.topic
    assert topics(world) == {before.topic}
    await world.settle()
    after = await get(world, key)
    assert (after.state, after.plan) == ("active", world.broker.last.number)
    assert topics(world) == {after.topic}
    assert world.topics.cursors == {cursor(before), cursor(after)}
    assert world.topics.granted == {grant(before), grant(after)}
    (left,) = after.draining
    assert (left.topic, left.plan) == (before.topic, after.plan)
    assert isinstance(left.until, datetime)
    # The topic stays as long as it may be read, and goes then.
    async with world.database.transaction() as session:
        assert await plan_rows.retired_views(session, after.plan) == []
    await drained(world)
    assert world.topics.cursors == {cursor(after)}
    assert world.topics.granted == {grant(after)}
    assert (await get(world, key)).draining == []
    async with world.database.transaction() as session:
        (retired,) = await plan_rows.retired_views(session, after.plan)
        assert (retired.topic, retired.retired_in_plan) == (before.topic, after.plan)


async def test_a_topic_that_goes_on_for_others_is_cut_off_before_the_plan(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    foreign = await other_desk(world, filter="price > 1")
    await world.settle()
    before, foreign = await get(world, key), await get(world, foreign.id)
    assert before.topic == foreign.topic
    plans = len(world.broker.plans)
    await entitle(world, venues=("XNAS",))
    # The plan cannot be published: at that moment the old topic must be closed to the consumer,
    # and the new one be ready.
    world.broker.down = True
    with pytest.raises(BrokerUnavailableError):
        await world.publisher.publish_once()
    after = await get(world, key)
    assert world.topics.cursors == {cursor(after), cursor(foreign)}
    assert world.topics.granted == {grant(after), grant(foreign)}
    assert len(world.broker.plans) == plans
    world.broker.down = False
    await world.settle()
    after = await get(world, key)
    assert (after.state, after.draining) == ("active", [])
    assert topics(world) == {after.topic, foreign.topic}
    assert await get(world, foreign.id) == foreign


async def test_who_is_given_more_reads_out_a_topic_that_goes_on_for_others(world: World) -> None:
    await world.settle()
    await entitle(world, venues=("XNAS",))
    key = await world.subscribe("one")
    foreign = await other_desk(world, filter="venue = 'XNAS'")
    await world.settle()
    before = await get(world, key)
    assert before.topic == foreign.topic
    await entitle(world, venues=("XNAS", "XNYS"))
    await world.settle()
    after = await get(world, key)
    assert world.topics.cursors == {cursor(before), cursor(after), cursor(foreign)}
    assert [left.topic for left in after.draining] == [before.topic]
    # What may no longer be seen meanwhile is closed to it, as ever.
    await entitle(world, venues=("XNYS",))
    await world.settle()
    assert cursor(before) not in world.topics.cursors


async def test_no_plan_is_published_while_the_old_topic_cannot_be_closed(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one")
    await other_desk(world)
    await world.settle()
    before = await get(world, key)
    plans = len(world.broker.plans)
    await entitle(world, kinds=("trade",))
    world.topics.stuck = True
    with pytest.raises(BrokerUnavailableError, match="could not be removed"):
        await world.publisher.publish_once()
    assert (len(world.broker.plans), await world.state(key)) == (plans, "pending")
    world.topics.stuck = False
    await world.settle()
    assert await world.state(key) == "active"
    assert cursor(before) not in world.topics.cursors


async def test_a_topic_that_somebody_gets_later_is_cut_off_as_well(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one")
    await world.settle()
    before = await get(world, key)
    await entitle(world, kinds=("trade",))
    await world.settle()
    assert cursor(before) in world.topics.cursors
    foreign = await other_desk(world)
    assert foreign.topic == before.topic
    await world.settle()
    assert world.topics.cursors == {cursor(await get(world, key)), cursor(foreign)}


async def test_who_comes_back_reads_on_where_it_was(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one")
    await world.settle()
    before = await get(world, key)
    await entitle(world, venues=("XNAS",))
    await world.settle()
    between = await get(world, key)
    await entitle(world, venues=None)
    await world.settle()
    after = await get(world, key)
    assert after.topic == before.topic
    assert after.plan == between.plan + 1
    # What it had not read is its own: nothing was routed there meanwhile.
    assert (before.from_plan, between.from_plan, after.from_plan) == (0, between.plan, 0)
    assert [left.topic for left in after.draining] == [between.topic]
    await drained(world)
    assert world.topics.cursors == {cursor(before)}
    async with world.database.transaction() as session:
        assert len((await session.scalars(select(Move))).all()) == 2
        assert [v.topic for v in await plan_rows.retired_views(session, after.plan)] == [
            between.topic
        ]


async def test_who_goes_to_and_fro_keeps_what_it_has_not_read_on_both_topics(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one")
    twin = await world.subscribe("two")
    await world.settle()
    seen = []
    for venues in (("XNAS",), None, ("XNAS",), None):
        await entitle(world, venues=venues)
        await world.settle()
        seen.append(await get(world, key))
    first = seen[0].plan
    assert [out.from_plan for out in seen] == [first, 0, first, 0]
    (left,) = seen[-1].draining
    assert (left.topic, left.from_plan, left.plan) == (seen[0].topic, first, seen[-1].plan)
    assert (await get(world, twin)).from_plan == 0


async def test_who_comes_back_is_not_told_to_read_what_was_for_others_meanwhile(
    world: World,
) -> None:
    await world.settle()
    key = await world.subscribe("one")
    await world.settle()
    before = await get(world, key)
    await entitle(world, venues=("XNAS",))
    # Nothing is published between: the topic was not closed to it.
    foreign = await other_desk(world)
    assert foreign.topic == before.topic
    await world.lifecycles.close(foreign.id, None)
    await entitle(world, venues=None)
    after = await get(world, key)
    assert after.topic == before.topic
    assert after.from_plan == after.plan


async def test_who_comes_back_is_not_told_to_read_what_another_of_its_own_got(
    world: World,
) -> None:
    await world.settle()
    key = await world.subscribe("one", filter="venue = 'XNAS'")
    await world.settle()
    before = await get(world, key)
    # A change of its own, and a twin that gets what was left.
    await world.lifecycles.update(key, SubscriptionUpdate(filter=""), None)
    twin = await world.subscribe("two", filter="venue = 'XNAS'")
    await world.settle()
    assert (await get(world, twin)).topic == before.topic
    await entitle(world, venues=("XNAS",))
    await world.settle()
    after = await get(world, key)
    assert after.topic == before.topic
    assert after.from_plan == after.plan


async def test_who_comes_back_too_late_has_given_up_what_it_had_not_read(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one")
    await world.settle()
    before = await get(world, key)
    await entitle(world, venues=("XNAS",))
    async with world.database.transaction() as session:
        await session.execute(text("UPDATE subscription_moves SET drain_until = now()"))
    await entitle(world, venues=None)
    after = await get(world, key)
    assert after.topic == before.topic
    assert after.from_plan == after.plan


async def test_a_move_between_topics_that_both_go_on_makes_a_plan(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one")
    await other_desk(world)
    narrow = SubscriptionCreate(consumer="other", name="narrow", filter="venue = 'XNAS'")
    shared, _ = await world.subscriptions.create(narrow)
    await world.settle()
    number = world.broker.last.number
    await entitle(world, venues=("XNAS",))
    await world.settle()
    after = await get(world, key)
    assert after.topic == shared.topic
    assert after.plan == world.broker.last.number == number + 1


async def test_who_has_been_active_begins_on_the_new_topic_with_what_comes(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one", start="earliest")
    await world.settle()
    before = await get(world, key)
    await entitle(world, venues=("XNAS",))
    await world.settle()
    after = await get(world, key)
    assert world.topics.starts[cursor(before)] == "earliest"
    assert world.topics.starts[cursor(after)] == "latest"
    assert after.start == "earliest"


async def test_who_was_never_active_does_not_get_what_a_set_held_before(world: World) -> None:
    sets = InstrumentSetService(world.database, world.publisher, wait_seconds=0)
    await sets.create(InstrumentSetCreate(name="mine", instruments=["A"]))
    key = await world.subscribe("one", start="earliest")
    await entitle(world, venues=("XNAS",))
    assert (await get(world, key)).start == "earliest"
    await entitle(world, instrument_sets=("mine",))
    await world.settle()
    after = await get(world, key)
    assert (after.start, world.topics.starts[cursor(after)]) == ("latest", "latest")


async def test_closing_takes_away_what_is_being_drained(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one")
    await world.settle()
    await entitle(world, venues=("XNAS",))
    await world.settle()
    assert len(world.topics.cursors) == 2
    await world.lifecycles.close(key, None)
    await world.settle()
    assert world.topics.cursors == set()


async def test_changes_one_after_the_other_leave_the_last_one(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one")
    await world.settle()
    first = await get(world, key)
    for venue in ("XNAS", "XLON", "XPAR"):
        await entitle(world, venues=(venue,))
    await world.settle()
    after = await get(world, key)
    assert after.effective_filter == "venue = 'XPAR'"
    assert topics(world) == {after.topic}
    assert after.draining[0].topic == first.topic
    await drained(world)
    assert world.topics.cursors == {cursor(after)}


async def test_a_set_that_changes_leaves_topic_and_cursor(world: World) -> None:
    sets = InstrumentSetService(world.database, world.publisher, wait_seconds=0)
    await sets.create(InstrumentSetCreate(name="mine", instruments=["A", "B"]))
    await world.settle()
    await world.consumers.create(
        ConsumerCreate(name="bound", entitlements=Entitlements(instrument_sets=("mine",)))
    )
    made, _ = await world.subscriptions.create(SubscriptionCreate(consumer="bound", name="one"))
    await world.settle()
    assert world.broker.last.sets == {"mine": ("A", "B")}
    await sets.update("mine", InstrumentSetUpdate(remove=["A"]), None)
    await world.settle()
    assert world.broker.last.sets == {"mine": ("B",)}
    after = await get(world, made.id)
    assert (after.topic, after.plan, after.draining) == (made.topic, made.plan, [])


async def test_who_is_suspended_receives_nothing_until_it_is_not(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    await world.settle()
    before = await get(world, key)
    await world.consumers.update("desk", ConsumerUpdate(suspended=True), None)
    await world.settle()
    during = await get(world, key)
    assert during.receives_nothing
    assert during.plan > before.plan
    assert before.topic not in topics(world)
    assert world.topics.cursors == {cursor(during)}
    assert world.topics.granted == {grant(during)}
    with pytest.raises(ConflictError, match="suspended"):
        await world.subscribe("two")
    # Entitlements that change meanwhile hold when the consumer comes back, not before.
    await entitle(world, venues=("XNAS",))
    assert (await get(world, key)).plan == during.plan
    await world.consumers.update("desk", ConsumerUpdate(suspended=False), None)
    await world.settle()
    after = await get(world, key)
    assert not after.receives_nothing
    assert "'XNAS'" in after.effective_filter
    assert world.topics.starts[cursor(after)] == "latest"
    assert topics(world) == {after.topic}


async def test_suspending_ends_what_may_still_be_drained(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    await world.settle()
    await entitle(world, venues=())
    await world.settle()
    assert (await get(world, key)).draining
    # Nothing changes for the views: they were empty already.
    await world.consumers.update("desk", ConsumerUpdate(suspended=True), None)
    await world.publisher.publish_once()
    after = await get(world, key)
    assert after.draining == []
    assert world.topics.cursors == {cursor(after)}


async def test_a_move_while_the_plan_before_it_is_published_waits_for_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    before = await get(world, key)
    make = world.topics.ensure

    async def ensure_slowly(rows: Any, *, start: str | None) -> None:
        monkeypatch.undo()
        await make(rows, start=start)
        await entitle(world, venues=("XNAS",))

    monkeypatch.setattr(world.topics, "ensure", ensure_slowly)
    await world.publisher.publish_once()
    between = await get(world, key)
    assert (between.state, between.plan) == ("pending", before.plan + 1)
    await world.settle()
    after = await get(world, key)
    assert (after.state, after.plan) == ("active", world.broker.last.number)
    assert topics(world) == {after.topic}
    assert cursor(after) in world.topics.cursors
    assert grant(after) in world.topics.granted


async def test_a_view_that_takes_the_name_of_another_is_refused(world: World) -> None:
    await world.settle()
    await world.subscribe("one", filter="price > 1")
    async with world.database.transaction() as session:
        other = """{"filter": "price > 2"}"""
        await session.execute(text(f"UPDATE views SET spec = '{other}'"))  # as a collision would
    with pytest.raises(ConflictError, match="change its filter"):
        await world.subscribe("two", filter="price > 1")


async def test_a_full_plan_takes_no_more_but_can_be_narrowed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    await world.settle()
    monkeypatch.setattr(plan_rows, "ROOM_BYTES", 300)
    with pytest.raises(ConflictError, match="no room"):
        await world.subscribe("two", filter="price > 2")
    await entitle(world, venues=("XNAS",))
    await world.settle()
    assert (await get(world, key)).state == "active"


async def test_a_grant_that_is_drained_outlives_another_subscription_to_the_view(
    world: World,
) -> None:
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    twin = await world.subscribe("two", filter="price > 1")
    await world.settle()
    before = await get(world, key)
    await entitle(world, venues=("XNAS",))
    await world.settle()
    after = await get(world, key)
    assert world.topics.granted == {grant(before), grant(after)}
    await world.lifecycles.close(twin, None)
    await world.settle()
    assert world.topics.granted == {grant(before), grant(after)}
    await drained(world)
    assert world.topics.granted == {grant(after)}
