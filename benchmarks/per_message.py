"""A Python function with one event per message, for comparison, on the same functions worker.

Its input is stored before it is deployed, so it has the machine almost for itself: only the broker
and a client that counts the output run beside it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pulsar

from benchmarks.figures import BenchmarkFailed, Sample
from benchmarks.scratch import NAMESPACE, scratch_topics
from control_plane.pulsar_admin import PulsarAdmin
from control_plane.topology import build_bundle
from scripts.devstack.stack import Stack

NAME: Final = f"{NAMESPACE}/forward"
CLASS: Final = "per_message_function.forward.ForwardFunction"
PARTITIONS: Final = 4
PARALLELISM: Final = 2
START_TIMEOUT_S: Final = 60.0
WARM_UP_SHARE: Final = 0.2


def per_message_function(stack: Stack, events: int) -> dict[str, Sample]:
    """The rate at which two instances hand on `events` stored events, one a message."""
    return asyncio.run(_measure(stack, events))


async def _measure(stack: Stack, events: int) -> dict[str, Sample]:
    async with scratch_topics(
        stack.admin_url, "events-in", "events-out", partitions=PARTITIONS
    ) as (admin, (source, target)):
        with _client(stack.service_url) as client:
            output = client.subscribe(target, "count", receiver_queue_size=10_000)
            await asyncio.to_thread(_store, client, source, events)
            await _deploy(admin, source, target)
            try:
                rate = await asyncio.to_thread(_count, output, events)
            finally:
                output.close()
                await admin.delete_function(NAME)
    return {"per_message_function_events_per_second": Sample(rate, "events/s")}


@contextmanager
def _client(service_url: str) -> Iterator[pulsar.Client]:
    logger = pulsar.ConsoleLogger(pulsar.LoggerLevel.Error)
    with closing(pulsar.Client(service_url, logger=logger)) as client:
        yield client


def _store(client: pulsar.Client, topic: str, events: int) -> None:
    # Small batches, so that both instances get their share; storing is not what is measured.
    producer = client.create_producer(
        topic,
        block_if_queue_full=True,
        batching_enabled=True,
        batching_max_messages=100,
        message_routing_mode=pulsar.PartitionsRoutingMode.RoundRobinDistribution,
    )
    for number in range(events):
        event = {"instrument": f"SYN{number % 1000:05d}", "price": "187.25", "size": "100"}
        producer.send_async(json.dumps(event).encode(), _stored)
    producer.flush()
    producer.close()


def _stored(result: Any, _message_id: Any) -> None:
    if result != pulsar.Result.Ok:
        # Runs on a thread of the client's: the missing message is noticed by the count.
        print(f"storing an event for the function failed: {result}")


async def _deploy(admin: PulsarAdmin, source: str, target: str) -> None:
    folder = Path(__file__).parent / "per_message_function"
    bundle = build_bundle({"per_message_function": folder}, "benchmark")
    tenant, namespace, name = NAME.split("/")
    config = {
        "tenant": tenant,
        "namespace": namespace,
        "name": name,
        "className": CLASS,
        "runtime": "PYTHON",
        "inputs": [source],
        "output": target,
        "parallelism": PARALLELISM,
        "subscriptionPosition": "Earliest",
        "py": bundle.name,
    }
    await admin.create_function(NAME, config, bundle.content, bundle.name)


def _count(output: pulsar.Consumer, events: int) -> float:
    """Events a second after the first part of them, with which the instances warm up."""
    begin = int(events * WARM_UP_SHARE)
    begun = 0.0
    timeout_s = START_TIMEOUT_S
    for number in range(1, events + 1):
        try:
            message = output.receive(int(timeout_s * 1000))
        except pulsar.Timeout:
            raise BenchmarkFailed(
                f"the per-message function gave {number - 1} of {events} events, then none for"
                f" {timeout_s:.0f} s; see the log of {NAME}"
            ) from None
        output.acknowledge(message)
        if number == begin:
            begun = time.monotonic()
    return (events - begin) / (time.monotonic() - begun)
