"""Lanes on a real broker: each view is served once, by its lane; what has to wait never early."""

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pulsar
import pytest
from local_runtime import Cluster, LocalInstance, eventually
from test_distributor import Log, Plans, _prices

from control_plane.domains.ordering.follower import FollowerState
from control_plane.domains.subscriptions.confirming import Confirmations
from control_plane.domains.subscriptions.followed import Following, Member
from control_plane.domains.system.metrics import Metrics
from control_plane.pulsar_admin import PulsarAdmin
from functions.distributor import DistributorFunction
from marketdata.confirmed import Confirmed, encode_confirmed
from marketdata.lanes import DEFAULT_LANE
from marketdata.plans import Delivery, View, ViewSpec
from marketdata.positions import Position
from marketdata.topics import partition_topic

pytestmark = pytest.mark.integration

HIGH, DELAYED = Delivery(priority=3), Delivery(delay_seconds=2)
FOLLOWS, FOLLOWING = Delivery(follows="analysis"), "follows-analysis"


@pytest.fixture
def cluster(stack: Any) -> Iterator[Cluster]:
    cluster = Cluster(stack.service_url, stack.admin_url)
    yield cluster
    cluster.client.close()


def _distributor(cluster: Cluster, lane: str = "", **config: Any) -> LocalInstance:
    name = f"distributor-{lane}" if lane else "distributor"
    return LocalInstance(cluster, DistributorFunction, "sequenced", name=name, lane=lane, **config)


def _delivered(cluster: Cluster, view: View, events: int) -> list[int]:
    """Prices in the order of delivery, once there are enough."""
    return eventually(lambda: (p := _prices(cluster, view)) and len(p) >= events and p)


def _reports(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """The newest report of each function."""
    told = map(msgspec.json.decode, (m.data() for m in cluster.read_all(cluster.topics["status"])))
    return {report["function"]: report for report in told}


def test_each_lane_serves_its_own_views_whatever_becomes_of_the_others(cluster: Cluster) -> None:
    log, plans = Log(cluster), Plans(cluster)
    views = plans.publish(usual=ViewSpec(), high=ViewSpec(delivery=HIGH))
    log.write(3)
    usual = _distributor(cluster, elsewhere=["priority-3"])
    high = _distributor(cluster, "priority-3")
    prices = [event["price"] for event in log.events]
    assert _delivered(cluster, views["usual"], len(prices)) == prices
    assert _delivered(cluster, views["high"], len(prices)) == prices
    usual.close()
    log.write(3)
    prices = [event["price"] for event in log.events]
    assert _delivered(cluster, views["high"], len(prices)) == prices
    high.close()
    # Where no function has the lane any more, the usual one serves it from where it stopped.
    last = _distributor(cluster)
    log.write(1)
    prices = [event["price"] for event in log.events]
    for view in views.values():
        assert _delivered(cluster, view, len(prices)) == prices
    assert _reports(cluster).keys() == {"distributor", "distributor-priority-3"}
    last.close()


def test_what_is_delayed_comes_whole_in_order_and_never_early(cluster: Cluster) -> None:
    log, plans = Log(cluster), Plans(cluster)
    views = plans.publish(delayed=ViewSpec(delivery=DELAYED))
    log.write(3)
    instance = _distributor(cluster, "delay-2")
    log.write(2)
    # A plan is taken while frames wait, and holds from there on.
    both = plans.publish(delayed=ViewSpec(delivery=DELAYED), more=_json(DELAYED))
    log.write(2)
    prices = [event["price"] for event in log.events]
    assert _delivered(cluster, views["delayed"], len(prices)) == prices
    eventually(lambda: cluster.read(partition_topic(both["more"].topic, 0)))
    _assert_old_enough(cluster, views["delayed"], 2_000)
    _assert_old_enough(cluster, both["more"], 2_000)
    # Nor when another takes over.
    instance.close()
    log.write(2)
    successor = _distributor(cluster, "delay-2")
    prices = [event["price"] for event in log.events]
    assert _delivered(cluster, views["delayed"], len(prices)) == prices
    _assert_old_enough(cluster, views["delayed"], 2_000)
    successor.close()


def test_what_is_held_back_is_left_to_the_broker_and_nobody_looks_dead(cluster: Cluster) -> None:
    log, plans = Log(cluster), Plans(cluster)
    hour = ViewSpec(delivery=Delivery(delay_seconds=3_600))
    views = plans.publish(delayed=hour)
    log.write(200)
    instance = _distributor(cluster, "delay-3600")
    plans.publish(delayed=hour, more=_json(hour.delivery))
    report = eventually(
        lambda: (r := _reports(cluster).get("distributor-delay-3600")) and r["plan"] == 2 and r
    )
    assert not report["counters"].get("frames_in")
    assert _prices(cluster, views["delayed"]) == []
    first = report["reported_at_ns"]
    eventually(lambda: _reports(cluster)["distributor-delay-3600"]["reported_at_ns"] > first)
    instance.close()


class Analysts:
    """The one subscription of the workflow `analysis`, and the look at what it has confirmed."""

    def __init__(self, cluster: Cluster, view: View) -> None:
        self._cluster = cluster
        self._view = view
        self._reader = cluster.client.subscribe(
            view.topic,
            "analyst",
            consumer_type=pulsar.ConsumerType.Failover,
            initial_position=pulsar.InitialPosition.Earliest,
        )
        self._runner = asyncio.Runner()
        self._admin = PulsarAdmin(cluster.admin_url)
        self._confirmations = Confirmations(self._admin, Metrics(FollowerState()))

    def take(self, events: int) -> list[pulsar.Message]:
        """So many events, not acknowledged yet."""
        messages, rows = [], 0
        while rows < events:
            messages.append(self._reader.receive(120_000))
            rows += int(messages[-1].properties()["count"])
        return messages

    def acknowledge(self, messages: list[pulsar.Message]) -> None:
        for message in messages:
            self._reader.acknowledge(message)

    def look(self) -> Confirmed:
        """What the control plane does about once a second."""
        lanes = {DEFAULT_LANE: "distributor", FOLLOWING: f"distributor-{FOLLOWING}"}
        sequenced = self._cluster.topics["sequenced"]
        (told,) = self._runner.run(self._confirmations.look(sequenced, lanes, self._members))
        producer = self._cluster.client.create_producer(self._cluster.topics["confirmed"])
        producer.send(encode_confirmed(told), partition_key=told.workflow)
        producer.close()
        return told

    async def _members(self, workflow: str) -> Following:
        assert workflow == "analysis"
        return Following({Member(self._view.topic, "analyst", DEFAULT_LANE)})

    def close(self) -> None:
        self._runner.run(self._admin.aclose())
        self._runner.close()


@pytest.fixture
def following(cluster: Cluster) -> Iterator[tuple[dict[str, View], Analysts]]:
    views = Plans(cluster).publish(analysis=ViewSpec(), prediction=ViewSpec(delivery=FOLLOWS))
    analysts = Analysts(cluster, views["analysis"])
    yield views, analysts
    analysts.close()


def test_a_view_gets_what_another_workflow_has_acknowledged_and_no_more(
    cluster: Cluster, following: tuple[dict[str, View], Analysts]
) -> None:
    log, (views, analysts) = Log(cluster), following
    usual, follower = _distributor(cluster), _distributor(cluster, FOLLOWING)

    def written(frames: int) -> list[pulsar.Message]:
        """Deliver more to the analysts, who are seen to have it."""
        before = len(log.events)
        log.write(frames)
        messages = analysts.take(len(log.events) - before)
        # All of it was passed by their lane, which is what a look goes by.
        eventually(lambda: _waiting(cluster, "distributor") == 0, within_s=120)
        assert analysts.look().waits == "1 of its 1 subscriptions have more to acknowledge"
        return messages

    def released(events: int) -> list[int]:
        eventually(
            lambda: analysts.look() and len(_prices(cluster, views["prediction"])) >= events,
            within_s=120,
        )
        return _prices(cluster, views["prediction"])

    first = written(3)
    upto, second = len(log.events), written(2)
    name = f"distributor-{FOLLOWING}"
    told = eventually(lambda: _reports(cluster).get(name), within_s=120)
    report = eventually(
        lambda: (
            (r := _reports(cluster)[name])["reported_at_ns"] > told["reported_at_ns"]
            and r["plan"]
            and r
        ),
        within_s=120,
    )
    assert not report["counters"].get("frames_in")
    analysts.acknowledge(first)
    prices = [event["price"] for event in log.events]
    assert released(upto) == prices[:upto]
    # Nor does one that takes over let more through: it knows no less, and no more.
    follower.close()
    successor = _distributor(cluster, FOLLOWING)
    third = written(1)
    assert _prices(cluster, views["prediction"]) == prices[:upto]
    analysts.acknowledge(second + third)
    prices = [event["price"] for event in log.events]
    assert released(len(prices)) == prices
    assert analysts.look().waits == ""
    for instance in (usual, successor):
        instance.close()


def _waiting(cluster: Cluster, subscription: str) -> int:
    """How many messages of the log a lane has not done with."""

    async def ask() -> int:
        async with PulsarAdmin(cluster.admin_url) as admin:
            stats = await admin.partitioned_stats(cluster.topics["sequenced"])
            return sum(each.backlog_messages for each in stats.cursors(subscription).values())

    return asyncio.run(ask())


def _json(delivery: Delivery) -> ViewSpec:
    return ViewSpec(format="json", delivery=delivery)


def _assert_old_enough(cluster: Cluster, view: View, delay_ms: int) -> None:
    """No message of a view was published before its newest input was so old."""
    written = {}
    for message in cluster.read(partition_topic(cluster.topics["sequenced"], 0)):
        place = message.message_id()
        written[Position(place.ledger_id(), place.entry_id()).pack()] = message.publish_timestamp()
    found = cluster.read_all(partition_topic(view.topic, 0))
    assert found
    for message in found:
        inputs = written[int(message.properties()["position"])]
        # Both stamps are cut to milliseconds.
        assert message.publish_timestamp() - inputs >= delay_ms - 1
