"""Topics are told as they should be and as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from test_moves import get
from world import World

from control_plane.domains.topics.service import TopicService, TopologyUnavailableError
from control_plane.errors import BrokerUnavailableError, NotFoundError
from control_plane.pulsar_admin import AdminNotFound, AdminUnavailable, PulsarAdmin
from control_plane.pulsar_values import TopicStats, topic_stats
from control_plane.topology import load_topology

TOPOLOGY = load_topology("topology")


class Broker:
    """Topics with their partitions; `down` makes every call fail."""

    def __init__(self) -> None:
        self.topics = {name: topic.partitions for name, topic in TOPOLOGY.topics.items()}
        self.down = False

    async def partitions(self, topic: str) -> int:
        if self.down:
            raise AdminUnavailable("down")
        return self.topics.get(topic, 0)

    async def topic_stats(self, topic: str) -> TopicStats:
        if topic not in self.topics:
            raise AdminNotFound("none", status=404)
        return topic_stats({"msgInCounter": 7, "subscriptions": {"a": {}}})

    partitioned_stats = topic_stats


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def service(world: World, broker: Broker) -> TopicService:
    return TopicService(world.database, cast(PulsarAdmin, broker), Path("topology"))


async def states(service: TopicService) -> dict[str, str]:
    return {each.key: each.state for each in (await service.listing()).items}


async def test_drift_of_declared_topics_is_told(service: TopicService, broker: Broker) -> None:
    assert set((await states(service)).values()) == {"present"}
    assert (await states(service)).keys() == TOPOLOGY.topic_names.keys()
    broker.topics[TOPOLOGY.topic_names["ingest"]] += 1
    del (
        broker.topics[TOPOLOGY.topic_names["plans"]],
        broker.topics[TOPOLOGY.topic_names["ordering"]],
    )
    found = await states(service)
    assert {key: state for key, state in found.items() if state != "present"} == {
        "ingest": "drifted",
        "plans": "missing",
        "ordering": "missing",
    }
    (ingest,) = [each for each in (await service.listing()).items if each.key == "ingest"]
    assert (ingest.desired_partitions, ingest.actual_partitions) == (4, 5)
    one = await service.describe("ingest")
    assert (one.state, one.messages_in, one.subscriptions) == ("drifted", 7, 1)
    gone = await service.describe("plans")
    assert (gone.actual_partitions, gone.messages_in) == (None, 0)


async def test_a_views_topic_should_be_there_while_a_subscription_has_it(
    world: World, service: TopicService, broker: Broker
) -> None:
    subscription = await get(world, await world.subscribe("apples"))
    key = f"view-{subscription.view}"
    assert (await service.describe(key)).state == "missing"
    broker.topics[subscription.topic] = TOPOLOGY.partitions
    found = await service.describe(key)
    assert (found.name, found.state) == (subscription.topic, "present")
    await world.lifecycles.close(subscription.id, None)
    left = await service.describe(key)
    assert (left.state, left.desired_partitions, left.actual_partitions) == ("left over", None, 4)
    del broker.topics[subscription.topic]
    for unknown in (key, "nothing", "view-x"):
        with pytest.raises(NotFoundError):
            await service.describe(unknown)


async def test_who_cannot_be_asked_is_named(
    world: World, service: TopicService, broker: Broker, tmp_path: Path
) -> None:
    broker.down = True
    with pytest.raises(BrokerUnavailableError):
        await service.listing()
    nowhere: Any = TopicService(world.database, cast(PulsarAdmin, broker), tmp_path)
    with pytest.raises(TopologyUnavailableError):
        await nowhere.listing()
