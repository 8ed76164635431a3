"""More and fewer instances, and more partitions: every instrument in order, nothing lost."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pulsar
import pytest

from marketdata.topics import INGEST_EVENTS, SEQUENCED_EVENTS, partition_topic
from scripts.demonstration.subscriptions import DemoSubscription
from scripts.devstack.stack import Stack
from scripts.verification.closing import close
from scripts.verification.expectations import ViewExpectation, everything
from scripts.verification.load import Load
from scripts.verification.recorders import LogRecorder
from tests.e2e.own_stack import OwnStack, own_stack
from tests.e2e.scenario import EVERYTHING, RECOVERY_S, Scenario, await_that

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(900)]

RATE = 5_000
AT_MOST_S = 600.0
AS_JSON = DemoSubscription("", ViewExpectation("everything-json", everything, format="json"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnStack]:
    with own_stack(tmp_path, monkeypatch) as own:
        yield own


def _kill_one(stack: Stack, function: str) -> None:
    os.kill(stack.function_pids(function)[0], signal.SIGKILL)


def test_instances_come_go_and_die_while_events_flow(own: OwnStack) -> None:
    accepted = 0
    with Scenario(own.stack) as scenario:
        for instances in (1, 2, 4, 1):
            load = scenario.load(rate=RATE, seconds=AT_MOST_S, part=f"-{instances}-{accepted}")
            own.scale(sequencer=instances, distributor=instances)
            for function in ("sequencer", "distributor"):
                await_that(
                    lambda f=function, n=instances: len(own.stack.function_pids(f)) == n,
                    RECOVERY_S,
                    f"{instances} instances of {function}",
                )
            if instances > 1:
                _kill_one(own.stack, "sequencer")
                _kill_one(own.stack, "distributor")
            accepted += _end_behind(scenario, load)
        report = scenario.drain()

        assert report.accepted == accepted
        assert report.ok, own.account(report)


def _end_behind(scenario: Scenario, load: Load) -> int:
    """Publish on until what was published by now, and 2 s more of it, has been delivered."""
    behind = load.published + 2 * RATE
    await_that(lambda: load.published > behind, RECOVERY_S, "load")
    stored = load.confirmed
    await_that(
        lambda: scenario.history.received["everything"].events >= stored, RECOVERY_S, "delivery"
    )
    return load.end(RECOVERY_S)


def test_partitions_grow_with_every_instrument_in_order(own: OwnStack) -> None:
    """From 4 to 8: refused while a publisher is there, then done, and again a no-op."""
    with Scenario(own.stack, subscribed=[EVERYTHING, AS_JSON]) as scenario:
        load = scenario.load(rate=RATE, seconds=4)
        load.wait(RECOVERY_S)
        before = load.events
        assert scenario.drain().ok
        code, output = own.deploy("grow", "--partitions", "8", "--dry-run")
        assert code == 2, output
        publisher = scenario.client.create_producer(partition_topic(INGEST_EVENTS, 0))
        code, output = own.deploy("grow", "--partitions", "8")
        assert code == 1, output
        assert f"publishers are still connected: {publisher.producer_name()}" in output
        close(publisher)

        code, output = own.deploy("grow", "--partitions", "8", "--wait", "60")
        assert code == 0, output
        assert _epochs(own.stack, 8) == dict.fromkeys(range(8), 2)

        new = [partition_topic(SEQUENCED_EVENTS, number) for number in range(4, 8)]
        with LogRecorder(scenario.client, scenario.history, topics=new):
            again = scenario.load(rate=RATE, seconds=4, part="-grown")
            again.wait(RECOVERY_S)
            report = scenario.drain()
        assert report.accepted == before + again.events
        assert report.ok, own.account(report)
        partitions = scenario.history.log_rows.columns()["partition"]
        assert set(partitions.tolist()) == set(range(8))
        _moved_instruments_are_read_in_order(scenario)

        code, output = own.deploy("grow", "--partitions", "8")
        assert code == 0, output
        assert "There are 8 partitions everywhere" in output


def _epochs(stack: Stack, partitions: int) -> dict[int, int]:
    """The epoch of the epoch message in each partition of the log."""
    client = pulsar.Client(stack.service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        found = {}
        for number in range(partitions):
            topic = partition_topic(SEQUENCED_EVENTS, number)
            reader = client.create_reader(topic, pulsar.MessageId.earliest)
            while reader.has_message_available():
                properties = reader.read_next(10_000).properties()
                if properties["kind"] == "epoch":
                    assert "grew from 4 to 8" in properties["reason"]
                    found[number] = int(properties["epoch"])
            close(reader)
        return found
    finally:
        close(client)


def _moved_instruments_are_read_in_order(scenario: Scenario) -> None:
    """As a consumer of the view received them: epoch 1 to its end, then epoch 2, each from 1."""
    rows = scenario.history.received["everything"].rows.columns()
    last: dict[int, tuple[int, int]] = {}
    places: dict[int, set[int]] = {}
    for instrument, epoch, sequence, partition in zip(
        *(rows[name].tolist() for name in ("instrument", "epoch", "sequence", "partition")),
        strict=True,
    ):
        before = last.get(instrument, (0, 0))
        expected = (epoch, before[1] + 1) if epoch == before[0] else (before[0] + 1, 1)
        assert (epoch, sequence) == expected
        last[instrument] = (epoch, sequence)
        places.setdefault(instrument, set()).add(partition)
    assert {epoch for epoch, _ in last.values()} == {2}
    assert any(len(found) == 2 for found in places.values())
