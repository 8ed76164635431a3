"""One run of the demo: subscribe over HTTP, consume with plain clients, publish, check."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pulsar
import pyarrow as pa

from marketdata.publisher import Publisher
from scripts.demonstration.data import DataSet
from scripts.demonstration.show import LiveProgress
from scripts.demonstration.subscriptions import DemoSubscription
from scripts.verification.control_api import ControlApi
from scripts.verification.draining import drain
from scripts.verification.recorders import LogRecorder, ViewRecorder, open_client
from scripts.verification.recording import History
from scripts.verification.report import Report

_SLICES_A_SECOND = 50


@dataclass(slots=True)
class Consumption:
    """The subscriptions of a run, with consumers reading them."""

    history: History
    client: pulsar.Client


def consume(
    cleanup: ExitStack,
    api: ControlApi,
    service_url: str,
    run: str,
    subscriptions: list[DemoSubscription],
) -> Consumption:
    """Register a consumer, subscribe, wait until the functions follow, and begin to read."""
    history = History(subscription.expectation for subscription in subscriptions)
    client = open_client(service_url)
    cleanup.callback(client.close)
    # The log first: whatever the views deliver was sequenced after it, or before this run.
    cleanup.enter_context(LogRecorder(client, history))
    consumer = api.register(run, owner="demo", labels={"purpose": "demonstration"})
    made = [
        api.subscribe(consumer, subscription.name, **subscription.request())
        for subscription in subscriptions
    ]
    api.await_applied(max(one["plan"] for one in made))
    for subscription, one in zip(subscriptions, made, strict=True):
        cleanup.enter_context(
            ViewRecorder(client, history, subscription.name, one["topic"], one["subscription_name"])
        )
    return Consumption(history, client)


def play(
    consumption: Consumption, data: DataSet, run: str, rate: int, progress: LiveProgress
) -> tuple[Report, float]:
    """Publish everything at the given rate, wait for it, and check.

    Returns:
        What was found, and the seconds from the first event published to the last one received.
    """
    history = consumption.history
    start = time.monotonic()
    start_ns = time.time_ns()
    with Publisher(consumption.client, name=run) as publisher:
        publisher.on_confirmed(
            lambda partition, _sequence_id, _message_id, batch: history.accepted(
                run, partition, batch
            )
        )
        for batch in _paced(data.batches, rate, start):
            publisher.publish(batch)
            progress.show()
    report = drain(history, timeout_s=120.0, stall_s=30.0)
    progress.show()
    return report, (history.last_received_ns() - start_ns) / 1e9


def _paced(batches: list[pa.RecordBatch], rate: int, start: float) -> Iterator[pa.RecordBatch]:
    rows = max(1, rate // _SLICES_A_SECOND)
    given = 0
    for batch in batches:
        for at in range(0, batch.num_rows, rows):
            piece = batch.slice(at, rows)
            time.sleep(max(0.0, start + given / rate - time.monotonic()))
            given += piece.num_rows
            yield piece
