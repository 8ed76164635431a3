"""A backlog that is too large conflates a subscription, and it comes back when it has caught up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from test_backlog import Kept
from test_lane_moves import CURSORS, Log, applied, lane_moves
from test_lifecycle import change, history, pause
from test_moves import cursor, entitle, get, other_desk
from world import World

from control_plane.domains.consumers.schemas import ConsumerUpdate
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.subscriptions.conflated import hindrance, left_of
from control_plane.domains.subscriptions.schemas import (
    OnBacklog,
    SubscriptionCreate,
    SubscriptionOut,
)
from control_plane.domains.subscriptions.view_check import view_spec
from control_plane.errors import ConflictError, InvalidRequestError
from marketdata.entitlements import Bounds
from marketdata.filters import Filter, compile_filter
from marketdata.plans import Conflate, Delivery, Sample, view_of

LIMIT = OnBacklog("conflate", messages=10, every_ms=1000)
EVERY = Conflate(1000)


async def conflated(world: World, **members: Any) -> tuple[Kept, SubscriptionOut]:
    """A subscription that has just been conflated, and what it was before."""
    kept = Kept(world)
    await world.settle()
    kept.key = await world.subscribe(
        "one", **{"filter": "price > 1", **members, "on_backlog": LIMIT}
    )
    await world.settle()
    before = await get(world, kept.key)
    kept.broker.name = before.subscription_name
    await look(kept, 30)
    assert (await get(world, kept.key)).conflated_since
    return kept, before


async def look(kept: Kept, waiting: int) -> None:
    kept.broker.waiting = {0: waiting}
    await kept.keeper.look()
    await kept.world.settle()


async def time_passes(kept: Kept, unread: int = 0) -> None:
    """Lanes come so far, and nothing can be drained any more."""
    world = kept.world
    await applied(world)
    await lane_moves(world, Log(conflator=None)).look(CURSORS)
    await world.settle()
    await applied(world)
    async with world.database.transaction() as session:
        await session.execute(text("UPDATE subscription_moves SET drain_until = now()"))
        await session.execute(
            text("UPDATE subscriptions SET conflated_since = conflated_since - interval '61 s'")
        )
    await world.settle()
    await look(kept, unread)
    await world.settle()


def told(entries: list[Any], *names: str) -> list[dict[str, Any]]:
    """What the history says of these, the oldest first."""
    wanted = {f"subscription.{name}" for name in names}
    return [{"type": each.type, **each.data} for each in reversed(entries) if each.type in wanted]


async def test_who_is_beyond_a_limit_is_moved_to_its_view_conflated_and_back(world: World) -> None:
    kept, before = await conflated(world)
    during = await get(world, kept.key)
    assert (during.state, during.delivery) == ("active", Delivery(conflate=EVERY))
    assert during.asked_delivery == before.delivery == Delivery()
    assert during.effective_filter == before.effective_filter
    assert during.topic != before.topic
    (left,) = during.draining
    # It goes on until the lane of the next view has come so far.
    assert (left.topic, left.plan) == (before.topic, None)
    reason = (await kept.readings.health(kept.key)).reason
    assert reason.startswith("It is conflated every 1000 ms since ")
    assert kept.counted("dds_backlog_conflated") == 1
    # What is left is drained, whatever becomes of the backlog meanwhile.
    for waiting in (50, 0):
        await look(kept, waiting)
        assert await get(world, kept.key) == during
    await time_passes(kept, unread=6)
    now = await get(world, kept.key)
    assert (now.topic, now.draining) == (during.topic, [])
    # Half of the limit is not enough.
    await look(kept, 6)
    assert (await get(world, kept.key)).conflated_since
    await look(kept, 5)
    after = await get(world, kept.key)
    assert (after.topic, after.delivery) == (before.topic, before.delivery)
    assert (after.conflated_since, after.from_plan) == (None, after.plan)
    assert [left.topic for left in after.draining] == [during.topic]
    assert world.topics.starts[cursor(after)] == "latest"
    assert told(await history(world, kept.key), "moved", "conflated", "unconflated") == [
        {"type": "subscription.moved", "reason": "backlog"},
        {"type": "subscription.conflated", "every_ms": 1000, "beyond": {"messages": 30}},
        {"type": "subscription.moved", "reason": "backlog"},
        {"type": "subscription.unconflated", "reason": "backlog"},
    ]
    # Not again before what it came from is drained.
    await look(kept, 30)
    assert await get(world, kept.key) == after
    await time_passes(kept)
    await look(kept, 30)
    assert (await get(world, kept.key)).topic == during.topic


async def test_what_was_not_read_in_time_is_told_before_it_goes(world: World) -> None:
    kept, before = await conflated(world)
    await applied(world)
    await lane_moves(world, Log(conflator=None)).look(CURSORS)
    await world.settle()
    async with world.database.transaction() as session:
        await session.execute(text("UPDATE subscription_moves SET drain_until = now()"))
    # Not before every function runs the plan without it: more may come.
    await look(kept, 6)
    await world.settle()
    assert cursor(before) in world.topics.cursors
    await applied(world)
    # Nor while the broker does not tell.
    kept.broker.failing = before.topic
    await look(kept, 6)
    await world.settle()
    assert cursor(before) in world.topics.cursors
    assert kept.counted("dds_reconcile_errors", dependency="backlog") == 1
    kept.broker.failing = ""
    await look(kept, 6)
    assert cursor(before) not in world.topics.cursors
    assert told(await history(world, kept.key), "backlog_dropped") == [
        {
            "type": "subscription.backlog_dropped",
            "messages": 6,
            "beyond": {},
            "topic": before.topic,
            "partitions": [{"partition": 0, "messages": 6, "from": "7:-1", "to": "7:5"}],
        }
    ]
    assert kept.counted("dds_backlog_dropped_messages") == 6
    # Once; and what is dropped of another topic is another entry.
    await look(kept, 6)
    assert len(told(await history(world, kept.key), "backlog_dropped")) == 1


async def test_who_is_closed_while_the_broker_is_asked_waits_for_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, before = await conflated(world)
    ask = kept.broker.partitioned_stats

    async def while_it_is_closed(topic: str, *, oldest: bool) -> Any:
        if topic == before.topic:
            async with asyncio.timeout(60):
                await world.lifecycles.close(kept.key, None)
        return await ask(topic, oldest=oldest)

    monkeypatch.setattr(kept.broker, "partitioned_stats", while_it_is_closed)
    await time_passes(kept, unread=6)
    assert await world.state(kept.key) == "closed"
    assert told(await history(world, kept.key), "backlog_dropped") == []
    assert cursor(before) not in world.topics.cursors


async def test_who_may_read_on_meanwhile_is_told_nothing_yet(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, before = await conflated(world)
    ask = kept.broker.partitioned_stats

    async def while_it_is_given_time(topic: str, *, oldest: bool) -> Any:
        if topic == before.topic:
            async with asyncio.timeout(60), world.database.transaction() as session:
                # Over again by the time that it is looked at: what was seen is old.
                await session.execute(
                    text("UPDATE subscription_moves SET drain_until = clock_timestamp()")
                )
        return await ask(topic, oldest=oldest)

    monkeypatch.setattr(kept.broker, "partitioned_stats", while_it_is_given_time)
    await time_passes(kept, unread=6)
    assert told(await history(world, kept.key), "backlog_dropped") == []
    monkeypatch.setattr(kept.broker, "partitioned_stats", ask)
    await look(kept, 4)
    (entry,) = told(await history(world, kept.key), "backlog_dropped")
    assert entry["messages"] == 4


async def test_of_what_was_read_in_time_nothing_is_told(world: World) -> None:
    kept, before = await conflated(world)
    await time_passes(kept)
    assert cursor(before) not in world.topics.cursors
    assert told(await history(world, kept.key), "backlog_dropped") == []


async def test_a_topic_that_is_lost_meanwhile_holds_up_nothing(world: World) -> None:
    kept, before = await conflated(world)
    kept.broker.name = ""
    await time_passes(kept)
    assert cursor(before) not in world.topics.cursors


async def test_entitlements_and_suspension_neither_lose_nor_double_it(world: World) -> None:
    kept, before = await conflated(world)
    since = (await get(world, kept.key)).conflated_since
    await entitle(world, venues=("XNAS",))
    await world.settle()
    narrow = await get(world, kept.key)
    assert (narrow.delivery, narrow.conflated_since) == (Delivery(conflate=EVERY), since)
    assert "venue = 'XNAS'" in narrow.effective_filter
    for suspended in (True, False):
        await world.consumers.update("desk", ConsumerUpdate(suspended=suspended), None)
        await world.settle()
        there = await get(world, kept.key)
        assert (there.receives_nothing, there.conflated_since) == (suspended, since)
    assert (there.topic, there.delivery) == (narrow.topic, narrow.delivery)
    await time_passes(kept)
    await look(kept, 0)
    after = await get(world, kept.key)
    assert (after.delivery, after.effective_filter) == (Delivery(), narrow.effective_filter)
    assert after.canonical_filter == before.canonical_filter


@pytest.mark.parametrize(
    ("bounds", "delivery"),
    [
        ({"minimum_delay_seconds": 900}, Delivery(delay_seconds=900)),
        ({"maximum_rate": 5}, Delivery(max_rate=5)),
        ({"kinds": ("book",)}, Delivery()),
    ],
)
async def test_entitlements_that_hinder_it_end_it_and_say_so(
    world: World, bounds: dict[str, Any], delivery: Delivery
) -> None:
    kept, _ = await conflated(world)
    await entitle(world, **bounds)
    await world.settle()
    after = await get(world, kept.key)
    assert (after.delivery, after.conflated_since) == (delivery, None)
    assert after.on_backlog == LIMIT
    entries = await history(world, kept.key)
    assert told(entries, "unconflated") == [
        {"type": "subscription.unconflated", "reason": "entitlements"}
    ]
    # It holds from then on, and that is told.
    await time_passes(kept)
    await look(kept, 30)
    assert (await get(world, kept.key)).topic == after.topic
    assert (await kept.readings.health(kept.key)).reason.startswith("A backlog is held, not ")


async def test_what_its_owner_changes_is_conflated_too(world: World) -> None:
    kept, _ = await conflated(world)
    first = await get(world, kept.key)
    await change(world, kept.key, filter="price > 2", labels={"a": "b"})
    await world.settle()
    now = await get(world, kept.key)
    assert (now.canonical_filter, now.delivery) == ("price > 2", Delivery(conflate=EVERY))
    assert now.conflated_since == first.conflated_since
    # What cannot be conflated is refused, as where it is not.
    with pytest.raises(InvalidRequestError, match="kind"):
        await change(world, kept.key, delivery=Delivery(kinds="together"))
    with pytest.raises(InvalidRequestError, match="intervals"):
        await change(world, kept.key, delivery=Delivery(conflate=EVERY))
    await time_passes(kept)
    await look(kept, 0)
    after = await get(world, kept.key)
    assert (after.effective_filter, after.delivery) == ("price > 2", Delivery())


async def test_another_policy_ends_it_when_nothing_is_left_to_drain(world: World) -> None:
    kept, before = await conflated(world)
    await change(world, kept.key, on_backlog=OnBacklog())
    await look(kept, 50)
    assert (await get(world, kept.key)).conflated_since
    await time_passes(kept, unread=50)
    await look(kept, 50)
    after = await get(world, kept.key)
    assert (after.topic, after.conflated_since) == (before.topic, None)


async def test_another_policy_with_another_view_ends_it_at_once(world: World) -> None:
    kept, before = await conflated(world)
    await change(world, kept.key, on_backlog=OnBacklog(), filter="price > 2")
    await world.settle()
    after = await get(world, kept.key)
    assert (after.delivery, after.conflated_since) == (Delivery(), None)
    entries = await history(world, kept.key)
    assert told(entries, "unconflated") == [
        {"type": "subscription.unconflated", "reason": "changed"}
    ]
    # Not where that is what it drains.
    with pytest.raises(ConflictError, match="drains it until"):
        await change(world, kept.key, filter=before.filter)


async def test_who_pauses_stays_as_it_is_and_who_resumes_has_time(world: World) -> None:
    kept = Kept(world)
    await kept.subscribe(policy="conflate", messages=10, every_ms=1000)
    await pause(world, kept.key)
    await look(kept, 30)
    await world.lifecycles.resume(kept.key, None)
    await look(kept, 30)
    assert (await get(world, kept.key)).conflated_since is None
    await look(kept, 10)
    await look(kept, 11)
    during = await get(world, kept.key)
    assert during.conflated_since
    await time_passes(kept, unread=9)
    await pause(world, kept.key)
    await look(kept, 0)
    assert (await get(world, kept.key)).topic == during.topic
    await world.lifecycles.close(kept.key, None)
    await world.settle()
    assert world.topics.cursors == set()


async def test_others_with_the_same_view_are_left_where_they_are(world: World) -> None:
    _, before = await conflated(world)
    foreign = await other_desk(world, filter="price > 1")
    await world.settle()
    assert (await get(world, foreign.id)).topic == before.topic
    assert before.topic in {view.topic for view in world.broker.last.views}


async def test_all_of_a_look_are_moved_by_one_plan(world: World) -> None:
    kept = Kept(world)
    await world.settle()
    keys = [
        await world.subscribe(name, filter=f"price > {number}", on_backlog=LIMIT)
        for number, name in enumerate(("one", "two"))
    ]
    await world.settle()
    before = [await get(world, key) for key in keys]
    stats = kept.broker.partitioned_stats

    async def of_both(topic: str, *, oldest: bool) -> Any:
        kept.broker.name = next(out.subscription_name for out in before if out.topic == topic)
        return await stats(topic, oldest=oldest)

    kept.broker.partitioned_stats = of_both  # type: ignore[method-assign]
    await look(kept, 30)
    plans = {(await get(world, key)).plan for key in keys}
    assert plans == {max(out.plan for out in before) + 1}
    assert kept.counted("dds_backlog_conflated") == 2


async def test_without_room_in_the_plan_or_a_function_it_holds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(world)
    await kept.subscribe(policy="conflate", messages=10, every_ms=1000)
    before = await get(world, kept.key)
    kept.lanes = ("",)
    await look(kept, 30)
    kept.lanes = ("", "conflated")
    with monkeypatch.context() as full:
        full.setattr(plan_rows, "ROOM_BYTES", 0)
        await look(kept, 30)
    assert kept.counted("dds_reconcile_errors", dependency="backlog") == 1
    assert await get(world, kept.key) == before
    await look(kept, 30)
    assert (await get(world, kept.key)).conflated_since


async def test_who_is_changed_meanwhile_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(world)
    await kept.subscribe(policy="conflate", messages=10, every_ms=1000)
    carry_out = kept.keeper._conflating.carry_out

    async def while_somebody_asks() -> None:
        await change(world, kept.key, on_backlog=OnBacklog())
        await carry_out()

    monkeypatch.setattr(kept.keeper._conflating, "carry_out", while_somebody_asks)
    await look(kept, 30)
    assert (await get(world, kept.key)).conflated_since is None


@pytest.mark.parametrize(
    ("members", "bounds", "pointer"),
    [
        ({"delivery": Delivery(kinds="together")}, {}, "policy"),
        ({"filter": "kind = 'book'"}, {}, "policy"),
        ({"delivery": Delivery(delay_seconds=900)}, {}, "policy"),
        ({"delivery": Delivery(follows="analysis")}, {}, "policy"),
        ({}, {"minimum_delay_seconds": 900}, "policy"),
        ({"delivery": Delivery(conflate=EVERY)}, {}, "every_ms"),
        ({"delivery": Delivery(max_rate=5)}, {}, "every_ms"),
    ],
)
async def test_what_cannot_be_conflated_is_refused(
    world: World, members: dict[str, Any], bounds: dict[str, Any], pointer: str
) -> None:
    await world.settle()
    await entitle(world, **bounds)
    with pytest.raises(InvalidRequestError) as refused:
        await world.subscribe("one", on_backlog=LIMIT, **members)
    key = await world.subscribe("one", **members)
    with pytest.raises(InvalidRequestError) as later:
        await change(world, key, on_backlog=LIMIT)
    for error in (refused, later):
        (problem,) = error.value.problems
        assert problem.pointer == f"/on_backlog/{pointer}"
        assert problem.hint


async def test_what_is_conflated_already_may_be_so_at_longer_intervals(world: World) -> None:
    kept, _ = await conflated(world, delivery=Delivery(conflate=Conflate(500), max_rate=50))
    during = await get(world, kept.key)
    assert during.delivery == Delivery(conflate=EVERY, max_rate=50)
    assert during.asked_delivery == Delivery(conflate=Conflate(500), max_rate=50)


deliveries = st.sampled_from(
    [
        Delivery(),
        Delivery(priority=3),
        Delivery(kinds="together"),
        Delivery(granularity="event"),
        Delivery(delay_seconds=900),
        Delivery(conflate=Conflate(500)),
        Delivery(conflate=Conflate(5000)),
        Delivery(sample=Sample(3)),
        Delivery(max_rate=5),
    ]
)
all_bounds = st.builds(
    Bounds,
    st.sampled_from(
        [Filter.nothing(), *map(compile_filter, ("", "venue = 'XNAS'", "kind = 'book'"))]
    ),
    st.sampled_from([0, 900]),
    st.sampled_from([None, 50]),
    st.sampled_from([(), ((compile_filter("venue = 'XNAS'"), 3),), ((Filter.everything(), 1),)]),
)


@given(st.sampled_from(["", "price > 1"]), deliveries, all_bounds)
def test_what_is_delivered_follows_from_what_is_asked_for_alone(
    sql: str, delivery: Delivery, bounds: Bounds
) -> None:
    """Whatever a subscription had before: neither lost nor doubled, and never beyond its bounds."""
    format_ = "json" if delivery.by_event else "arrow"
    request = SubscriptionCreate("c", "s", filter=sql, delivery=delivery, format=format_)
    asked = view_spec(request)
    plain, conflated = left_of(asked, bounds, None).spec, left_of(asked, bounds, 1000)
    assert conflated.conflated == (hindrance(plain, 1000) is None)
    assert conflated.conflated == (conflated.spec != plain)
    assert conflated.spec.filter == plain.filter
    if conflated.conflated:
        assert conflated.spec.delivery.conflate == EVERY
        assert conflated.spec.delivery.delay_seconds == plain.delivery.delay_seconds
        assert conflated.spec.delivery.max_rate == plain.delivery.max_rate
    # A rule's priority beats the own one, where every event of the view fulfils it.
    rules = bounds.priorities
    fulfilled = rules and (rules[0][0] == Filter.everything() or plain.filter == "FALSE")
    fulfilled = fulfilled or (rules and "venue = 'XNAS'" in plain.filter)
    usual = plain.delivery.delay_seconds or plain.delivery.conflates
    given = rules[0][1] if fulfilled else (delivery.priority or 1)
    assert (plain.delivery.priority or 1) == (1 if usual else given)
    # What is allowed is recognized by its view: bounds change nothing of it a second time.
    again = left_of(conflated.spec, bounds, None).spec
    assert view_of(again).id == view_of(conflated.spec).id
