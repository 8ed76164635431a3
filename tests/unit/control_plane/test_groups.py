"""Who reads under a subscription, how that changes, and who is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from test_moves import get
from world import World

from control_plane.domains.consumers.schemas import ConsumerCreate
from control_plane.domains.groups import watch as watching
from control_plane.domains.groups.membership import (
    DEPARTED_KEPT,
    MEMBERS_KEPT,
    Departed,
    Member,
    compare,
    departed,
    members,
)
from control_plane.domains.groups.service import GroupService
from control_plane.domains.groups.watch import GroupWatch
from control_plane.domains.ordering.follower import FollowerState
from control_plane.domains.subscriptions.schemas import SubscriptionCreate, SubscriptionUpdate
from control_plane.domains.system.metrics import Metrics
from control_plane.errors import BrokerUnavailableError, NotFoundError
from control_plane.pulsar_admin import AdminNotFound, AdminUnavailable, PulsarAdmin
from control_plane.pulsar_values import TopicStats, topic_stats

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def member(name: str, *partitions: int, joined_at: datetime = NOW) -> Member:
    return Member(name, [f"/10.0.0.1:{name}"], sorted(partitions), joined_at)


groups = st.lists(st.sampled_from("abcd"), unique=True).flatmap(
    lambda names: st.lists(
        st.sampled_from(names) if names else st.nothing(), max_size=4 if names else 0
    ).map(
        lambda readers: [
            member(name, *(n for n, reader in enumerate(readers) if reader == name))
            for name in names
        ]
    )
)


@given(groups, groups)
def test_changes_lead_from_the_group_before_to_the_group_now(
    before: list[Member], now: list[Member]
) -> None:
    found = compare(before, now)
    names = {each.name for each in before} | {each.name for each in found.joined}
    assert names - {each.name for each in found.left} == {each.name for each in now}
    reads = {number: each.name for each in before for number in each.partitions}
    for moved in found.moved:
        assert reads.pop(moved.partition, None) == moved.before != moved.after
        if moved.after is not None:
            reads[moved.partition] = moved.after
    assert reads == {number: each.name for each in now for number in each.partitions}
    assert bool(found) == (
        {e.name: e.partitions for e in before} != {e.name: e.partitions for e in now}
    )


def test_who_stays_keeps_the_time_of_joining() -> None:
    earlier = NOW - timedelta(hours=1)
    found = compare([member("a", 0, joined_at=earlier)], [member("a", 0), member("b", 1)])
    assert [each.joined_at for each in found.members] == [earlier, NOW]


def test_who_comes_back_has_not_left() -> None:
    gone = departed([], [member("a", 0), member("b", 1)], [], NOW)
    assert [(each.name, each.left_at) for each in gone] == [("a", NOW), ("b", NOW)]
    later = NOW + timedelta(seconds=5)
    again = departed(gone, [member("c", 0)], [member("b", 1)], later)
    assert [(each.name, each.left_at) for each in again] == [("c", later), ("a", NOW)]
    many = [Departed(str(n), [], [], NOW, NOW) for n in range(DEPARTED_KEPT)]
    assert len(departed(many, [member("c")], [], later)) == DEPARTED_KEPT


def cursor(active: str, *names: str) -> dict[str, Any]:
    consumers = [
        {
            "consumerName": name,
            "address": f"/10.0.0.1:{name}",
            "msgRateOut": 2.5,
            "msgRateRedeliver": 0.5,
            "msgOutCounter": 7,
            "lastConsumedTimestamp": 1_790_000_000_000,
        }
        for name in names
    ]
    return {"activeConsumerName": active, "consumers": consumers, "msgBacklog": 3}


def topic(subscription: str, *cursors: dict[str, Any] | None) -> TopicStats:
    """What the broker says of a topic; None for a partition that does not have the cursor."""
    return topic_stats(
        {
            "partitions": {
                f"t-partition-{number}": {"subscriptions": {subscription: each} if each else {}}
                for number, each in enumerate(cursors)
            }
        }
    )


def test_of_a_crowd_those_that_read_are_kept() -> None:
    names = [f"{number:04}" for number in range(2 * MEMBERS_KEPT)]
    cursors = topic("s", cursor(names[-1], *names)).partitions
    partitions = {number: each.subscriptions["s"] for number, each in cursors.items()}
    found = members(partitions, NOW)
    assert len(found) == MEMBERS_KEPT
    assert [each.name for each in found[:2]] == [names[-1], names[0]]


class Broker:
    """The statistics of topics, as a test sets them."""

    def __init__(self) -> None:
        self.topics: dict[str, TopicStats | Exception] = {}
        self.asked: list[str] = []

    async def partitioned_stats(self, topic: str, **_: Any) -> TopicStats:
        self.asked.append(topic)
        found = self.topics.get(topic, AdminNotFound("none", status=404))
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(FollowerState())


@pytest.fixture
def watch(world: World, broker: Broker, metrics: Metrics) -> GroupWatch:
    return GroupWatch(world.database, cast(PulsarAdmin, broker), metrics)


@pytest.fixture
def service(world: World, broker: Broker) -> GroupService:
    return GroupService(world.database, cast(PulsarAdmin, broker))


async def events(world: World, key: str) -> list[tuple[str, Any]]:
    async with world.database.transaction() as session:
        rows = await session.execute(
            text(
                "SELECT type, data FROM events"
                " WHERE subscription_id = :key AND type LIKE 'group.%' ORDER BY id"
            ),
            {"key": key},
        )
        return [(row.type, row.data) for row in rows]


async def test_members_that_come_and_go_are_told_with_what_moves(
    world: World, broker: Broker, watch: GroupWatch, service: GroupService
) -> None:
    key = await world.subscribe("apples", group="pickers")
    await world.settle()
    found = await get(world, key)
    name = found.subscription_name
    broker.topics[found.topic] = topic(name, cursor("a", "a"), cursor("a", "a"))
    await watch.look()
    await watch.look()  # nothing has changed
    broker.topics[found.topic] = topic(name, cursor("a", "a", "b"), cursor("b", "a", "b"))
    await watch.look()
    # A partition that is being loaded says nothing of who reads it.
    broker.topics[found.topic] = topic(name, cursor("a", "a", "b"), None)
    await watch.look()
    broker.topics[found.topic] = topic(name, cursor("b", "b"), cursor("b", "b"))
    await watch.look()
    assert await events(world, key) == [
        ("group.joined", {"name": "pickers", "members": ["a"], "size": 1}),
        (
            "group.rebalanced",
            {
                "name": "pickers",
                "moved": [
                    {"partition": 0, "from": None, "to": "a"},
                    {"partition": 1, "from": None, "to": "a"},
                ],
                "size": 1,
            },
        ),
        ("group.joined", {"name": "pickers", "members": ["b"], "size": 2}),
        (
            "group.rebalanced",
            {"name": "pickers", "moved": [{"partition": 1, "from": "a", "to": "b"}], "size": 2},
        ),
        ("group.left", {"name": "pickers", "members": ["a"], "size": 1}),
        (
            "group.rebalanced",
            {"name": "pickers", "moved": [{"partition": 0, "from": "a", "to": "b"}], "size": 1},
        ),
    ]
    group = await service.describe(key)
    (one,) = group.members
    assert (one.name, one.partitions, one.rate, one.redelivery_rate) == ("b", [0, 1], 5.0, 1.0)
    assert (one.delivered_messages, one.unacknowledged_messages) == (14, 6)
    assert [(each.name, each.partitions) for each in group.departed] == [("a", [0])]
    assert (group.name, group.partitions, group.unread) == ("pickers", 2, [])
    listed = await service.page(
        cursor=None, limit=10, consumer="desk", name="pickers", occupied=True
    )
    assert [(each.subscription, [m.name for m in each.members]) for each in listed.items] == [
        (key, ["b"])
    ]
    none = await service.page(cursor=None, limit=10, consumer=None, name=None, occupied=False)
    assert none.items == []


async def test_a_look_goes_on_where_the_last_one_ended(
    world: World, broker: Broker, watch: GroupWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [await world.subscribe(f"s{n}", filter=f"price > {n}") for n in range(3)]
    await world.settle()
    monkeypatch.setattr(watching, "TOPICS_PER_LOOK", 2)
    for _ in range(3):
        await watch.look()
    topics = sorted([(await get(world, key)).topic for key in keys])
    assert sorted(broker.asked[:3]) == topics
    assert broker.asked[3:] == broker.asked[:2]


async def test_what_the_broker_does_not_tell_changes_nothing(
    world: World, broker: Broker, watch: GroupWatch, metrics: Metrics, service: GroupService
) -> None:
    key = await world.subscribe("apples")
    await world.settle()
    found = await get(world, key)
    broker.topics[found.topic] = topic(found.subscription_name, cursor("a", "a"))
    await watch.look()
    told = await events(world, key)
    broker.topics[found.topic] = AdminUnavailable("http://inside is away", status=503)
    await watch.look()
    assert metrics.reconcile_errors.labels("groups")._value.get() == 1
    with pytest.raises(BrokerUnavailableError) as refused:
        await service.describe(key)
    # What a consumer is told says nothing of where the broker is.
    assert "inside" not in str(refused.value)
    assert "inside" in refused.value.reason
    del broker.topics[found.topic]
    await watch.look()
    assert await events(world, key) == told
    assert (await service.describe(key)).members == []


async def test_nobody_has_left_a_partition_that_is_being_loaded(
    world: World, broker: Broker, watch: GroupWatch, service: GroupService
) -> None:
    key = await world.subscribe("apples")
    await world.settle()
    found = await get(world, key)
    name = found.subscription_name
    broker.topics[found.topic] = topic(name, cursor("a", "a"), cursor("b", "b"))
    await watch.look()
    broker.topics[found.topic] = topic(name, cursor("a", "a"), None)
    group = await service.describe(key)
    assert ([each.name for each in group.members], group.departed) == (["a"], [])
    assert group.unread == [1]


async def test_names_that_a_client_made_up_are_stored_and_told(
    world: World, broker: Broker, watch: GroupWatch
) -> None:
    key = await world.subscribe("apples")
    await world.settle()
    found = await get(world, key)
    bad = "a\x00\ud800" + "x" * 500
    broker.topics[found.topic] = topic(found.subscription_name, cursor(bad, bad))
    await watch.look()
    (joined, rebalanced) = await events(world, key)
    (name,) = joined[1]["members"]
    assert name.startswith("a??xxx")
    assert len(name) == 100
    assert rebalanced[1]["moved"] == [{"partition": 0, "from": None, "to": name}]


async def test_a_consumer_knows_of_its_own_groups_and_of_none_that_is_closed(
    world: World, broker: Broker, watch: GroupWatch, service: GroupService
) -> None:
    other, _ = await world.consumers.create(ConsumerCreate(name="other"))
    mine = await world.subscribe("apples")
    data = SubscriptionCreate(consumer="other", name="apples")
    theirs = (await world.subscriptions.create(data))[0].id
    await world.settle()
    desk = (await get(world, mine)).consumer
    with pytest.raises(NotFoundError):
        await service.describe(theirs, only=desk)
    everything: dict[str, Any] = {"cursor": None, "limit": 1, "consumer": None, "name": None}
    page = await service.page(**everything, occupied=None, only=desk)
    assert [each.subscription for each in page.items] == [mine]
    assert page.next_cursor is None
    first = await service.page(**everything, occupied=None)
    rest = await service.page(**{**everything, "cursor": first.next_cursor}, occupied=None)
    assert [each.subscription for each in (*first.items, *rest.items)] == [mine, theirs]
    found = await get(world, theirs)
    assert found.consumer == other.id
    broker.topics[found.topic] = topic(found.subscription_name, cursor("a", "a"))
    await watch.look()
    await world.lifecycles.close(theirs, None)
    with pytest.raises(NotFoundError):
        await service.describe(theirs)
    await watch.look()
    async with world.database.transaction() as session:
        assert await session.scalar(text("SELECT count(*) FROM groups")) == 0


async def test_a_group_has_the_subscriptions_name_until_it_has_its_own(world: World) -> None:
    key = await world.subscribe("apples")
    assert (await get(world, key)).group == "apples"
    changed, _ = await world.lifecycles.update(key, SubscriptionUpdate(group="pickers"), None)
    assert changed.group == "pickers"
    changed, _ = await world.lifecycles.update(key, SubscriptionUpdate(group=None), None)
    assert changed.group == "apples"
