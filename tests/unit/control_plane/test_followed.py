"""Who is waited for, that nobody waits for himself, and what the control plane tells of it."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from world import LANES as SERVED
from world import World

from control_plane.broker import Broker
from control_plane.database import Database
from control_plane.domains.consumers.schemas import ConsumerCreate, ConsumerUpdate
from control_plane.domains.functions.topology import KnownTopology
from control_plane.domains.ordering.follower import FollowerState
from control_plane.domains.preview.proposal import propose
from control_plane.domains.preview.schemas import Proposal, SubscriptionChange
from control_plane.domains.subscriptions.confirming import (
    NOBODY,
    UNSERVED,
    ConfirmationKeeper,
    Confirmations,
    ConfirmedBoard,
)
from control_plane.domains.subscriptions.followed import (
    Dependencies,
    Following,
    Member,
    following,
)
from control_plane.domains.subscriptions.health import Thresholds
from control_plane.domains.subscriptions.reading import LATE, ReadingService
from control_plane.domains.subscriptions.schemas import SubscriptionCreate, SubscriptionUpdate
from control_plane.domains.system.metrics import Metrics
from control_plane.errors import InvalidRequestError
from control_plane.pulsar_admin import AdminNotFound, AdminUnavailable, PulsarAdmin
from control_plane.pulsar_values import CursorPlace, StoredEntries, topic_stats
from marketdata.confirmed import Confirmed, Place, decode_confirmed, encode_confirmed
from marketdata.plans import Delivery
from marketdata.topics import CONFIRMED, SEQUENCED_EVENTS

ANALYSIS, PREDICTION = Delivery(follows="analysis"), Delivery(follows="prediction")
LANES = {"": "distributor", "priority-3": "high", "follows-analysis": "prediction"}


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), max_size=12))
def test_what_is_accepted_never_closes_a_circle(pairs: list[tuple[str, str]]) -> None:
    known, accepted = Dependencies([]), set()
    for workflow, follows in pairs:
        if known.problem(workflow, Delivery(follows=follows)) is None:
            accepted.add((workflow, follows))
    # Whatever waits for nobody can be taken away, until nothing is left.
    while waiting := {workflow for workflow, _ in accepted}:
        left = {pair for pair in accepted if pair[1] in waiting}
        assert left < accepted
        accepted = left


async def consumer(world: World, name: str, workflow: str) -> None:
    await world.consumers.create(ConsumerCreate(name=name, workflow=workflow))


async def subscribed(world: World, consumer: str, **members: Any) -> str:
    data = SubscriptionCreate(consumer=consumer, name="one", **members)
    key = (await world.subscriptions.create(data))[0].id
    await world.settle()
    return key


async def drained(world: World) -> None:
    async with world.database.transaction() as session:
        await session.execute(text("UPDATE subscription_moves SET goes_on = false"))
        await session.execute(text("UPDATE subscription_moves SET drain_until = now()"))
    await world.publisher.publish_once()


async def test_a_circle_is_refused_and_named_wherever_it_would_be_closed(world: World) -> None:
    await world.settle()
    await consumer(world, "p", "prediction")
    await consumer(world, "a", "analysis")
    await consumer(world, "free", "")
    p = await subscribed(world, "p", delivery=ANALYSIS)
    circle = "'analysis' follows 'prediction' follows 'analysis'"
    with pytest.raises(InvalidRequestError, match=circle) as made:
        await subscribed(world, "a", delivery=PREDICTION)
    a = await subscribed(world, "a")
    change = SubscriptionUpdate(delivery=PREDICTION)
    with pytest.raises(InvalidRequestError, match=circle) as changed:
        await world.lifecycles.update(a, change, None)
    # Who is in no workflow holds up none, until it joins one.
    await subscribed(world, "free", delivery=PREDICTION)
    with pytest.raises(InvalidRequestError, match=circle) as joined:
        await world.consumers.update("free", ConsumerUpdate(workflow="analysis"), None)
    with pytest.raises(InvalidRequestError, match="'analysis' follows 'analysis'"):
        await world.lifecycles.update(a, SubscriptionUpdate(delivery=ANALYSIS), None)
    pointers = [each.value.problems[0].pointer for each in (made, changed, joined)]
    assert pointers == ["/delivery/follows", "/delivery/follows", "/workflow"]
    # What was left is waited for until it is drained.
    await world.lifecycles.update(p, SubscriptionUpdate(delivery=Delivery()), None)
    await world.settle()
    with pytest.raises(InvalidRequestError, match=circle):
        await world.lifecycles.update(a, change, None)
    await drained(world)
    await world.lifecycles.update(a, change, None)


async def test_a_consumer_is_told_of_a_circle_what_it_knows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.settle()
    for name, workflow in (("p", "prediction"), ("s", "secret"), ("a", "analysis")):
        await consumer(world, name, workflow)
    await subscribed(world, "p", delivery=ANALYSIS)
    lanes = (*SERVED, "follows-secret")
    monkeypatch.setattr(world.subscriptions, "_lanes", lambda: lanes)
    monkeypatch.setattr(world.lifecycles, "_lanes", lambda: lanes)
    await subscribed(world, "s", delivery=PREDICTION)
    a = await subscribed(world, "a")
    owner = (await world.subscriptions.get(a))[0].consumer
    data = SubscriptionCreate(consumer="a", name="two", delivery=Delivery(follows="secret"))
    change = SubscriptionUpdate(delivery=data.delivery)
    refusals = []
    for only in (owner, None):
        with pytest.raises(InvalidRequestError) as made:
            await world.subscriptions.create(data, only=only)
        with pytest.raises(InvalidRequestError) as changed:
            await world.lifecycles.update(a, change, None, only=only)
        proposed = Proposal(create=[data])
        with pytest.raises(InvalidRequestError) as previewed:
            async with world.database.transaction() as session:
                await propose(session, proposed, lanes=lanes, only=only)
        refusals += [(only, each.value) for each in (made, changed, previewed)]
    for only, refused in refusals:
        told = f"{refused} {refused.problems[0].detail} {refused.problems[0].hint}"
        assert "'analysis'" in told
        assert "'secret'" in told
        assert ("prediction" in told) is (only is None)


async def test_what_can_be_followed_is_not_told_to_everybody(world: World) -> None:
    await world.settle()
    with pytest.raises(InvalidRequestError, match="no function follows the workflow 'x'") as made:
        await subscribed(world, "desk", delivery=Delivery(follows="x"))
    (problem,) = made.value.problems
    assert "analysis" not in f"{made.value} {problem.detail} {problem.hint}"


async def test_what_is_proposed_together_closes_no_circle(world: World) -> None:
    await world.settle()
    await consumer(world, "p", "prediction")
    await consumer(world, "a", "analysis")
    p = await subscribed(world, "p")
    first = SubscriptionCreate(consumer="p", name="two", delivery=ANALYSIS)
    second = SubscriptionCreate(consumer="a", name="two", delivery=PREDICTION)
    changed = SubscriptionChange(p, delivery=ANALYSIS)
    circles = {
        "/create/1/delivery/follows": Proposal(create=[first, second]),
        "/change/0/delivery/follows": Proposal(create=[second], change=[changed]),
    }
    async with world.database.transaction() as session:
        for pointer, proposed in circles.items():
            with pytest.raises(InvalidRequestError, match="for ever") as refused:
                await propose(session, proposed, lanes=SERVED, only=None)
            assert [each.pointer for each in refused.value.problems] == [pointer]
        # Each by itself can be made.
        for alone in (first, second):
            found = await propose(session, Proposal(create=[alone]), lanes=SERVED, only=None)
            assert [each.what for each in found.affected] == ["create"]


async def test_a_workflow_has_its_open_subscriptions_with_what_they_left(world: World) -> None:
    await world.settle()
    for name in ("a", "b"):
        await consumer(world, name, "analysis")
    await consumer(world, "p", "prediction")
    a, b = [await subscribed(world, name) for name in "ab"]

    async def found(workflow: str) -> Following:
        async with world.database.transaction() as session:
            return await following(session, workflow)

    before = await found("analysis")
    names = {(await world.subscriptions.get(key))[0].subscription_name for key in (a, b)}
    assert {member.name for member in before.members} == names
    assert {member.lane for member in before.members} == {""}
    high = SubscriptionUpdate(delivery=Delivery(priority=3))
    await world.lifecycles.update(a, high, None)
    after = await found("analysis")
    assert after.members > before.members  # also while it is pending
    (new,) = after.members - before.members
    assert new.lane == "priority-3"
    await world.lifecycles.pause(b, None)
    assert await found("analysis") == after
    await world.lifecycles.close(b, None)
    assert {member.name for member in (await found("analysis")).members} == {new.name}
    await world.lifecycles.close(a, None)
    assert await found("analysis") == Following(set(), waited_for=False)
    await subscribed(world, "p", delivery=ANALYSIS)
    assert await found("analysis") == Following(set(), waited_for=True)


async def test_who_follows_goes_on_to_any_other_lane(world: World) -> None:
    """Nobody knows how far behind it is: a delay may begin before or behind it."""
    await world.settle()
    await consumer(world, "p", "prediction")
    key = await subscribed(world, "p", delivery=ANALYSIS)
    update = SubscriptionUpdate(delivery=Delivery(delay_seconds=900))
    await world.lifecycles.update(key, update, None)
    await world.settle()
    assert len(world.broker.last.views) == 2


def place(acknowledged: Place, newest: Place = (7, 9)) -> CursorPlace:
    return CursorPlace(acknowledged, StoredEntries(((7, 10),), True), newest=newest)


class FakeBroker:
    """Cursors of topics by partition and name, and what is published."""

    def __init__(self) -> None:
        log = {name: place((7, 5)) for name in LANES.values()}
        self.cursors: dict[str, Any] = {SEQUENCED_EVENTS: {0: log}, "view": {0: {}}}
        self.asked: list[str] = []
        self.told: list[Confirmed] = []

    async def cursor_places(self, topic: str) -> dict[int, dict[str, CursorPlace]]:
        self.asked.append(topic)
        found = self.cursors.get(topic, AdminNotFound("no such topic", status=404))
        if isinstance(found, Exception):
            raise found
        return cast(dict[int, dict[str, CursorPlace]], found)

    async def partitioned_stats(self, _: str, *, oldest: bool) -> Any:
        assert oldest
        cursor = {"subscriptions": {self.name: {"msgBacklog": 0}}}
        return topic_stats({"partitions": {"view-partition-0": cursor}})

    name = ""

    async def publish(self, topic: str, payload: bytes, *, key: str) -> None:
        assert topic == CONFIRMED
        self.told.append(decode_confirmed(payload))
        assert self.told[-1].workflow == key


class Asked:
    """Confirmations at a broker, for a workflow of some members."""

    def __init__(self, *members: Member, waited_for: bool = True) -> None:
        self.broker = FakeBroker()
        self.metrics = Metrics(FollowerState())
        self.confirmations = Confirmations(cast(PulsarAdmin, self.broker), self.metrics)
        self.following = Following(set(members), waited_for)

    async def look(self) -> Confirmed:
        (told,) = await self.confirmations.look(SEQUENCED_EVENTS, LANES, self._members)
        return told

    async def _members(self, workflow: str) -> Following:
        assert workflow == "analysis"
        self.broker.asked.append("members")
        return self.following


READER = Member("view", "reader", "")


async def test_the_log_is_asked_for_before_its_readers_and_these_before_their_topics() -> None:
    asked = Asked(READER)
    asked.broker.cursors["view"][0]["reader"] = place((7, 9))
    told = await asked.look()
    assert asked.broker.asked == [SEQUENCED_EVENTS, "members", "view"]
    assert (told.places, told.waits) == ({0: (7, 5)}, "")
    assert told.as_of_ns


async def test_more_to_acknowledge_is_told_and_confirms_nothing() -> None:
    asked = Asked(READER, Member("view", "other", ""))
    cursors = asked.broker.cursors["view"][0]
    cursors |= {"reader": place((7, 8)), "other": place((7, 9))}
    told = await asked.look()
    assert (told.places, told.as_of_ns) == ({}, 0)
    assert told.waits == "1 of its 2 subscriptions have more to acknowledge"
    cursors["reader"] = place((7, 9))
    assert (await asked.look()).places == {0: (7, 5)}


@pytest.mark.parametrize("lost", [{}, {0: {}}, AdminUnavailable("down"), None])
async def test_a_cursor_that_is_not_there_confirms_nothing(lost: Any) -> None:
    asked = Asked(READER)
    asked.broker.cursors["view"] = lost
    if lost is None:
        del asked.broker.cursors["view"]
    told = await asked.look()
    assert (told.places, told.waits) == ({}, "1 of its 1 subscriptions have more to acknowledge")


async def test_the_last_of_all_who_may_serve_the_views_counts() -> None:
    """While a priority's function is new, it or the usual one serves its views."""
    asked = Asked(Member("view", "reader", "priority-3"))
    asked.broker.cursors["view"][0]["reader"] = place((7, 9))
    log = asked.broker.cursors[SEQUENCED_EVENTS][0]
    log["high"], log["distributor"], log["prediction"] = (place((7, n)) for n in (8, 4, 0))
    assert (await asked.look()).places == {0: (7, 4)}
    log["distributor"], log["high"] = place((7, 9)), place((7, 6))
    assert (await asked.look()).places == {0: (7, 6)}
    del log["high"]
    told = await asked.look()
    assert (told.places, told.waits) == ({}, UNSERVED)


async def test_a_view_that_no_function_serves_confirms_nothing() -> None:
    asked = Asked(Member("view", "reader", "delay-900"))
    asked.broker.cursors["view"][0]["reader"] = place((7, 9))
    told = await asked.look()
    assert (told.places, told.waits) == ({}, UNSERVED)


async def test_without_anybody_there_is_nothing_to_hold_unless_somebody_waits() -> None:
    asked = Asked(waited_for=True)
    told = await asked.look()
    assert (told.places, told.waits) == ({}, NOBODY)
    # The log must not be kept for a function that serves nobody.
    asked.following = Following(set(), waited_for=False)
    told = await asked.look()
    assert (told.places, told.waits) == ({0: (7, 5)}, "")


class Topology:
    """Functions with lanes; `lane_subscriptions` is all that matters."""

    def __init__(self, lanes: dict[str, str]) -> None:
        self.functions = None if not lanes else self
        self.lane_subscriptions = lanes
        self.loaded = 0

    async def load(self) -> None:
        self.loaded += 1


def keeper(database: Database, broker: FakeBroker, lanes: dict[str, str]) -> ConfirmationKeeper:
    return ConfirmationKeeper(
        database,
        cast(PulsarAdmin, broker),
        cast(Broker, broker),
        Metrics(FollowerState()),
        cast(KnownTopology, Topology(lanes)),
    )


async def test_nothing_is_asked_where_no_function_follows(database: Database) -> None:
    broker = FakeBroker()
    for lanes in ({}, {"": "distributor"}):
        assert not await keeper(database, broker, lanes).look_once()
    assert (broker.asked, broker.told) == ([], [])


async def test_whoever_looks_next_tells_no_less_than_the_one_before(world: World) -> None:
    await world.settle()
    broker = FakeBroker()
    first = keeper(world.database, broker, LANES)
    assert await first.look_once()
    assert broker.told[-1].places == {0: (7, 5)}
    second = keeper(world.database, broker, LANES)
    second.board.take(encode_confirmed(broker.told[-1]))
    # A broker that crashed may know less of what was acknowledged.
    broker.cursors[SEQUENCED_EVENTS][0]["distributor"] = place((7, 2))
    assert await second.look_once()
    assert broker.told[-1].places == {0: (7, 5)}
    assert broker.told[-1].as_of_ns >= broker.told[0].as_of_ns > 0


def test_the_board_keeps_what_was_confirmed_and_refuses_the_rest() -> None:
    board = ConfirmedBoard()
    board.take(encode_confirmed(Confirmed("analysis", {0: (7, 5)}, 9)))
    board.take(encode_confirmed(Confirmed("analysis", {0: (7, 2), 1: (8, 0)}, 4, NOBODY)))
    with pytest.raises(msgspec.MsgspecError):
        board.take(b"{}")
    kept = Confirmed("analysis", {0: (7, 5), 1: (8, 0)}, 9, NOBODY)
    assert board.of("analysis") == kept
    assert board.all() == [kept]
    assert board.of("other") == Confirmed("other", {})


async def test_its_health_says_what_a_subscription_waits_for(world: World) -> None:
    await world.settle()
    await consumer(world, "p", "prediction")
    key = await subscribed(world, "p", delivery=ANALYSIS)
    broker, board = FakeBroker(), ConfirmedBoard()
    made, _ = await world.subscriptions.get(key)
    broker.name, owner = made.subscription_name, made.consumer
    admin = cast(PulsarAdmin, broker)
    readings = ReadingService(world.database, admin, Thresholds(10, 30), board)
    waits = (await readings.health(key)).waits_for
    assert waits is not None
    assert (waits.workflow, waits.confirmed_until, waits.behind_seconds) == ("analysis", None, None)
    board.take(encode_confirmed(Confirmed("analysis", {}, 2_000_000_000, NOBODY)))
    waits = (await readings.health(key)).waits_for
    assert waits is not None
    assert waits.confirmed_until is not None
    assert waits.confirmed_until.timestamp() == 2
    assert waits.behind_seconds
    assert waits.reason == NOBODY
    counted = "1 of its 7 subscriptions have more to acknowledge"
    board.take(encode_confirmed(Confirmed("analysis", {}, 3_000_000_000, counted)))
    for only, reason in ((None, counted), (owner, LATE)):
        waits = (await readings.health(key, only=only)).waits_for
        assert waits is not None
        assert waits.reason == reason


def test_how_far_behind_a_workflow_is_can_be_measured() -> None:
    metrics, board = Metrics(FollowerState()), ConfirmedBoard()
    metrics.follow_confirmed(board.all)
    board.take(encode_confirmed(Confirmed("analysis", {}, 2_000_000_000)))
    board.take(encode_confirmed(Confirmed("new", {})))

    def value(workflow: str) -> float | None:
        name = "dds_workflow_confirmed_behind_seconds"
        return metrics.registry.get_sample_value(name, {"workflow": workflow})

    assert value("analysis")
    assert value("new") is None
