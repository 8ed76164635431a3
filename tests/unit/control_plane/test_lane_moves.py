"""A move to another lane: what was left goes on until nothing is missing between the two topics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from sqlalchemy import text, update
from test_moves import cursor, drained, entitle, get, other_desk, topics
from world import World

from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.rules.schemas import RuleCreate, RuleUpdate
from control_plane.domains.rules.service import RuleService
from control_plane.domains.subscriptions.lane_moves import LaneMoves
from control_plane.domains.subscriptions.models import Move
from control_plane.domains.subscriptions.schemas import SubscriptionOut, SubscriptionUpdate
from control_plane.errors import InvalidRequestError
from control_plane.pulsar_admin import PulsarAdmin
from control_plane.pulsar_values import TopicStats, topic_stats
from marketdata.plans import Conflate, Delivery
from marketdata.routing_rules import Selector

HIGH, DELAYED = Delivery(priority=3), Delivery(delay_seconds=900)
CONFLATED = Delivery(conflate=Conflate(60_000))
CURSORS = {
    "": "distributor",
    "priority-3": "distributor-high",
    "delay-900": "distributor-delayed",
    "conflated": "conflator",
}


class Log:
    """The statistics of the log: by when each lane's oldest unread message was written."""

    def __init__(self, **oldest: datetime | None) -> None:
        self.oldest: dict[str, datetime | None] = {"distributor": None, **oldest}

    async def partitioned_stats(self, _topic: str, *, oldest: bool) -> TopicStats:
        assert oldest
        subscriptions = {
            name: {
                "msgBacklog": 0 if at is None else 5,
                "earliestMsgPublishTimeInBacklog": 0 if at is None else at.timestamp() * 1e3,
            }
            for name, at in self.oldest.items()
        }
        partition: dict[str, Any] = {"subscriptions": subscriptions}
        return topic_stats({"partitions": {"log-partition-0": partition}})


def lane_moves(world: World, log: Log) -> LaneMoves:
    return LaneMoves(world.database, cast(PulsarAdmin, log), drain_seconds=300)


async def applied(world: World) -> datetime:
    """Every function runs the newest plan."""
    async with world.database.transaction() as session:
        await plan_rows.mark_applied(session, world.broker.last.number, 3)
        at = await session.scalar(text("SELECT max(applied_at) FROM plans"))
    return cast(datetime, at).astimezone(UTC)


def rules_of(world: World) -> RuleService:
    return RuleService(world.database, world.publisher, drain_seconds=300, wait_seconds=0)


async def moved(world: World, delivery: Delivery = HIGH) -> tuple[str, SubscriptionOut]:
    """A subscription that has left the usual lane; as it was before."""
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    await world.settle()
    before = await get(world, key)
    await world.lifecycles.update(key, SubscriptionUpdate(delivery=delivery), None)
    await world.settle()
    return key, before


async def test_what_was_left_goes_on_until_its_lane_has_come_far_enough(world: World) -> None:
    key, before = await moved(world)
    after = await get(world, key)
    assert topics(world) == {before.topic, after.topic}
    (left,) = after.draining
    assert (left.topic, left.plan) == (before.topic, None)
    log = Log()
    looks = lane_moves(world, log)
    # Nobody has seen the new view's function run it; nothing is over, not even by time.
    assert await looks.look(CURSORS) is None
    await drained(world)
    at = await applied(world)
    log.oldest["distributor"] = at - timedelta(seconds=1)
    assert await looks.look(CURSORS) is None
    assert topics(world) == {before.topic, after.topic}
    assert cursor(before) in world.topics.cursors
    log.oldest["distributor"] = at + timedelta(seconds=6)
    number = await looks.look(CURSORS)
    await world.settle()
    assert (world.broker.last.number, topics(world)) == (number, {after.topic})
    (left,) = (await get(world, key)).draining
    assert (left.plan, left.until > datetime.now(UTC)) == (number, True)
    assert cursor(before) in world.topics.cursors
    await drained(world)
    assert world.topics.cursors == {cursor(after)}
    async with world.database.transaction() as session:
        (retired,) = await plan_rows.retired_views(session, world.broker.last.number)
        assert retired.topic == before.topic
    assert await looks.look(CURSORS) is None


async def test_a_rule_moves_to_its_lane_as_the_subscription_itself_would(world: World) -> None:
    rules = rules_of(world)
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    await world.settle()
    before = await get(world, key)
    await rules.create(RuleCreate("first", "prioritize", priority=3))
    await world.settle()
    after = await get(world, key)
    assert (after.delivery, after.asked_delivery) == (HIGH, Delivery())
    assert topics(world) == {before.topic, after.topic}
    assert [(left.topic, left.plan) for left in after.draining] == [(before.topic, None)]
    # Back before that is over: it reads on where it was, and the other one goes on.
    await rules.update("first", RuleUpdate(enabled=False), None)
    await world.settle()
    back = await get(world, key)
    assert (back.topic, back.from_plan) == (before.topic, before.from_plan)
    assert [(left.topic, left.plan) for left in back.draining] == [(after.topic, None)]
    assert topics(world) == {before.topic, after.topic}


HIGHER = RuleCreate("first", "prioritize", priority=3)
FOR_DESK = RuleCreate("first", "prioritize", priority=3, consumers=Selector(names=("desk",)))
OFF = RuleUpdate(enabled=False)


@pytest.fixture
async def sharing(world: World) -> tuple[str, SubscriptionOut, SubscriptionOut]:
    """A subscription of the desk and one of another consumer, with one view of the usual lane."""
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    foreign = await other_desk(world, filter="price > 1")
    await world.settle()
    before = await get(world, key)
    assert before.topic == foreign.topic
    return key, before, foreign


@pytest.mark.parametrize("rule", [HIGHER, FOR_DESK])
@pytest.mark.parametrize("published", [True, False])
async def test_a_rule_that_is_taken_back_loses_nothing_of_a_view_that_others_have(
    world: World,
    sharing: tuple[str, SubscriptionOut, SubscriptionOut],
    rule: RuleCreate,
    *,
    published: bool,
) -> None:
    """The view goes on for who left it, whether others have it still or have left it, too."""
    key, before, foreign = sharing
    rules = rules_of(world)
    await rules.create(rule)
    if published:
        await world.settle()
    assert (await get(world, key)).delivery == HIGH
    await rules.update("first", OFF, None)
    await world.settle()
    for each, was in ((key, before), (foreign.id, foreign)):
        back = await get(world, each)
        assert (back.topic, back.from_plan) == (was.topic, was.from_plan) == (before.topic, 0)
        assert cursor(was) in world.topics.cursors
    assert before.topic in topics(world)


async def test_what_another_goes_on_to_get_is_not_for_who_has_read_it_out(
    world: World, sharing: tuple[str, SubscriptionOut, SubscriptionOut]
) -> None:
    """It has left the lane that is behind for good, and drains; the other one has left it since."""
    key, before, foreign = sharing
    rules = rules_of(world)
    await rules.create(FOR_DESK)
    await world.settle()
    await applied(world)
    assert await lane_moves(world, Log()).look(CURSORS) is not None
    await world.settle()
    (left,) = (await get(world, key)).draining
    assert left.plan == world.broker.last.number
    await rules.update("first", RuleUpdate(consumers=Selector()), None)
    await world.settle()
    await rules.update("first", OFF, None)
    await world.settle()
    back, other = await get(world, key), await get(world, foreign.id)
    assert (back.topic, back.from_plan) == (before.topic, back.plan)
    assert (other.topic, other.from_plan) == (before.topic, foreign.from_plan)


@pytest.mark.parametrize("rule", [HIGHER, FOR_DESK])
@pytest.mark.parametrize("published", [True, False])
async def test_who_might_not_see_it_meanwhile_is_not_shown_what_went_on_for_others(
    world: World,
    sharing: tuple[str, SubscriptionOut, SubscriptionOut],
    rule: RuleCreate,
    *,
    published: bool,
) -> None:
    key, before, foreign = sharing
    rules = rules_of(world)
    await rules.create(rule)
    await world.settle()
    for venues in (("XNAS",), None):
        await entitle(world, venues=venues)
        if published:
            await world.settle()
            assert before.topic in topics(world)
            assert cursor(before) not in world.topics.cursors
    await rules.update("first", OFF, None)
    back = await get(world, key)
    assert (back.topic, back.from_plan) == (before.topic, back.plan)
    assert before.topic not in [left.topic for left in back.draining]
    await world.settle()
    other = await get(world, foreign.id)
    assert (other.topic, other.from_plan) == (before.topic, foreign.from_plan)


async def test_what_went_on_until_it_was_forbidden_can_be_read_to_there(world: World) -> None:
    """The next lane began ahead of it: what it got since the move is nowhere else."""
    key, before = await moved(world)
    async with world.database.transaction() as session:  # as if it went on for long
        await session.execute(update(Move).values(drain_until=datetime(2000, 1, 1, tzinfo=UTC)))
    await entitle(world, venues=("XNAS",))
    await world.settle()
    after = await get(world, key)
    (left, *_) = after.draining
    assert (left.topic, left.from_plan, left.plan) == (before.topic, 0, after.plan)
    assert cursor(before) in world.topics.cursors
    assert before.topic not in topics(world)


async def test_who_has_come_back_to_what_went_on_has_it_as_any_other_view(world: World) -> None:
    """What is forbidden then ends by the same plan, and what lies there is drained."""
    rules = rules_of(world)
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    await world.settle()
    before = await get(world, key)
    await rules.create(HIGHER)
    await world.settle()
    await rules.update("first", OFF, None)
    await world.settle()
    await entitle(world, venues=("XNAS",))
    await world.settle()
    assert before.topic not in topics(world)
    assert cursor(before) in world.topics.cursors
    await entitle(world, venues=None)
    await world.settle()
    back = await get(world, key)
    assert (back.topic, back.from_plan) == (before.topic, before.from_plan)


@pytest.mark.parametrize("delivery", [CONFLATED, DELAYED])
async def test_what_is_delayed_or_conflated_is_not_moved_for_a_priority(
    world: World, delivery: Delivery
) -> None:
    rules = rules_of(world)
    await world.settle()
    key = await world.subscribe("one", filter="price > 1", delivery=delivery)
    await world.settle()
    before, number = await get(world, key), world.broker.last.number
    rule, _ = await rules.create(RuleCreate("first", "prioritize", priority=3))
    assert rule.plan == number
    await world.settle()
    assert (world.broker.last.number, await get(world, key)) == (number, before)
    await world.lifecycles.update(key, SubscriptionUpdate(delivery=Delivery()), None)
    await world.settle()
    assert (await get(world, key)).delivery == HIGH
    # What is asked for may change, and makes no difference while the rule holds.
    number = world.broker.last.number
    asked = Delivery(priority=0)
    await world.lifecycles.update(key, SubscriptionUpdate(delivery=asked), None)
    await world.settle()
    after = await get(world, key)
    assert (after.delivery, after.asked_delivery) == (HIGH, asked)
    assert world.broker.last.number == number


async def test_who_may_not_see_what_goes_on_for_another_is_cut_off(world: World) -> None:
    await world.settle()
    key = await world.subscribe("one", filter="price > 1")
    foreign = await other_desk(world, filter="price > 1")
    await world.settle()
    before = await get(world, key)
    await world.lifecycles.update(foreign.id, SubscriptionUpdate(delivery=HIGH), None)
    await world.settle()
    await entitle(world, venues=("XNAS",))
    await world.settle()
    after = await get(world, key)
    # It is still routed, since the other one's lane is behind.
    assert before.topic in topics(world)
    assert cursor(foreign) in world.topics.cursors
    assert cursor(before) not in world.topics.cursors
    assert (after.state, after.draining) == ("active", [])
    # What came there meanwhile is not for it, if it comes back.
    await entitle(world, venues=None)
    await world.settle()
    back = await get(world, key)
    assert (back.topic, back.from_plan) == (before.topic, back.plan)


async def test_a_view_that_goes_on_no_longer_is_retired(world: World) -> None:
    key, before = await moved(world)
    assert before.topic in topics(world)
    await entitle(world, venues=("XNAS",))
    await world.settle()
    after = await get(world, key)
    assert topics(world) == {after.topic}
    await drained(world)
    async with world.database.transaction() as session:
        retired = await plan_rows.retired_views(session, world.broker.last.number)
    assert before.topic in {view.topic for view in retired}


async def test_a_lane_of_which_the_broker_tells_nothing_has_not_come_far_enough(
    world: World,
) -> None:
    await moved(world)
    await applied(world)
    log = Log()
    del log.oldest["distributor"]
    assert await lane_moves(world, log).look(CURSORS) is None


async def test_a_lane_that_has_read_all_has_come_far_enough(world: World) -> None:
    key, _ = await moved(world)
    await applied(world)
    assert await lane_moves(world, Log()).look(CURSORS) == world.broker.last.number + 1
    await world.settle()
    assert topics(world) == {(await get(world, key)).topic}


async def test_a_longer_delay_begins_before_so_nothing_goes_on(world: World) -> None:
    key, before = await moved(world, DELAYED)
    after = await get(world, key)
    assert topics(world) == {after.topic}
    (left,) = after.draining
    assert (left.topic, left.plan) == (before.topic, after.plan)


async def test_a_delay_that_is_taken_away_lets_the_delayed_view_go_on(world: World) -> None:
    await entitle(world, minimum_delay_seconds=900)
    await world.settle()
    key = await world.subscribe("one")
    await world.settle()
    before = await get(world, key)
    assert before.delivery.delay_seconds == 900
    await entitle(world, minimum_delay_seconds=None)
    await world.settle()
    after = await get(world, key)
    assert after.delivery == Delivery()
    assert topics(world) == {before.topic, after.topic}
    at = await applied(world)
    log = Log(**{"distributor-delayed": at - timedelta(seconds=899)})
    assert await lane_moves(world, log).look(CURSORS) is None
    log.oldest["distributor-delayed"] = at + timedelta(seconds=6)
    assert await lane_moves(world, log).look(CURSORS) is not None


async def test_a_delay_that_is_imposed_ends_the_view_at_once(world: World) -> None:
    key, before = await moved(world)
    high = await get(world, key)
    assert topics(world) == {before.topic, high.topic}
    await entitle(world, minimum_delay_seconds=900)
    await world.settle()
    after = await get(world, key)
    assert after.delivery == DELAYED
    # Also what went on for a move before.
    assert topics(world) == {after.topic}
    # The consumer cannot ask for less, and for more only where there is a function.
    await world.lifecycles.update(key, SubscriptionUpdate(delivery=Delivery(delay_seconds=2)), None)
    assert (await get(world, key)).topic == after.topic
    with pytest.raises(InvalidRequestError, match="no function delays by 1000 s"):
        await world.lifecycles.update(
            key, SubscriptionUpdate(delivery=Delivery(delay_seconds=1000)), None
        )


async def test_entitlements_with_a_delay_that_no_function_has_are_refused(world: World) -> None:
    await world.settle()
    with pytest.raises(InvalidRequestError, match="no function delays by 60 s"):
        await entitle(world, minimum_delay_seconds=60)


async def test_what_goes_on_for_a_closed_subscription_is_let_go(world: World) -> None:
    key, _ = await moved(world)
    await world.lifecycles.close(key, None)
    await world.settle()
    assert await lane_moves(world, Log()).look(CURSORS) is not None
    await world.settle()
    assert topics(world) == set()
    await drained(world)
    assert world.topics.cursors == set()


async def test_who_comes_back_reads_the_view_that_went_on(world: World) -> None:
    await world.settle()
    await entitle(world, minimum_delay_seconds=900)
    key = await world.subscribe("one")
    await world.settle()
    before = await get(world, key)
    for delay in (None, 900):
        await entitle(world, minimum_delay_seconds=delay)
        await world.settle()
    after = await get(world, key)
    assert (after.topic, after.from_plan) == (before.topic, 0)
    assert topics(world) == {before.topic}
    await lane_moves(world, Log()).look(CURSORS)
    await world.settle()
    assert topics(world) == {before.topic}


async def test_who_comes_back_after_long_has_lost_nothing_of_what_went_on(world: World) -> None:
    """The time to drain a view begins when its lane has done with it."""
    await world.settle()
    await entitle(world, minimum_delay_seconds=900)
    key = await world.subscribe("one")
    await world.settle()
    before = await get(world, key)
    await entitle(world, minimum_delay_seconds=None)
    await world.settle()
    await drained(world)
    await entitle(world, minimum_delay_seconds=900)
    await world.settle()
    after = await get(world, key)
    assert (after.topic, after.from_plan) == (before.topic, 0)


async def test_a_conflated_view_that_is_left_goes_on_until_its_windows_are_sent(
    world: World,
) -> None:
    """A window that is open at the plan is sent behind it, and the next view begins there."""
    await world.settle()
    key = await world.subscribe("one", filter="price > 1", delivery=CONFLATED)
    await world.settle()
    before = await get(world, key)
    await world.lifecycles.update(key, SubscriptionUpdate(filter="price > 2"), None)
    await world.settle()
    after = await get(world, key)
    assert after.topic != before.topic
    assert topics(world) == {before.topic, after.topic}
    assert [left.plan for left in after.draining] == [None]
    at = await applied(world)
    log = Log(conflator=at - timedelta(seconds=1))
    assert await lane_moves(world, log).look(CURSORS) is None
    log.oldest["conflator"] = at + timedelta(seconds=6)
    number = await lane_moves(world, log).look(CURSORS)
    await world.settle()
    assert (world.broker.last.number, topics(world)) == (number, {after.topic})


@pytest.mark.parametrize(
    ("delivery", "bounds"),
    [
        (CONFLATED, {"minimum_delay_seconds": 900}),
        (DELAYED, {"maximum_rate": 5}),
        (Delivery(follows="analysis"), {"minimum_delay_seconds": 900}),
    ],
)
async def test_entitlements_that_leave_a_subscription_served_by_nobody_are_refused(
    world: World, delivery: Delivery, bounds: dict[str, int]
) -> None:
    await world.settle()
    key = await world.subscribe("one", delivery=delivery)
    await world.settle()
    before = await get(world, key)
    with pytest.raises(InvalidRequestError, match=rf"'one' .{key}. would be both delayed and \w"):
        await entitle(world, **bounds)
    assert await get(world, key) == before
    await world.lifecycles.close(key, None)
    await entitle(world, **bounds)


async def test_what_goes_on_is_no_work_for_the_publisher(world: World) -> None:
    await moved(world)
    async with world.database.transaction() as session:
        await session.execute(text("UPDATE subscription_moves SET drain_until = now()"))
        assert not await world.publisher._has_work(session)
