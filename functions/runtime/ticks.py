"""Publishing ticks: messages on `ingest` that only let time pass (`marketdata.control_frames`).

A tick may be lost or doubled without harm, so its producers have no fixed name, and nothing waits
for them: a thread of their own opens them, because that blocks while the broker is away.
"""

import contextlib
import functools
import queue
import threading
from collections.abc import Callable
from logging import Logger
from typing import Any, Final

import pulsar

from marketdata.control_frames import TICK
from marketdata.topics import partition_topic

PRODUCER_PROPERTIES: Final = {"role": "tick"}
"""By these the broker's statistics tell the producers of ticks from publishers of events."""

SEND_TIMEOUT_MS: Final = 5_000


class TickSender:
    """Sends ticks to partitions; each producer is opened with the first tick for it."""

    def __init__(self, client: pulsar.Client, topic: str, log: Logger) -> None:
        self._client = client
        self._topic = topic
        self._log = log
        self._producers: dict[int, pulsar.Producer] = {}
        self._under_way: set[int] = set()
        self._work: queue.SimpleQueue[tuple[Callable[[int], None], int]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="ticks", daemon=True).start()

    def send(self, partition: int) -> None:
        """Send a tick, unless the last one for the partition is still being sent."""
        if partition not in self._under_way:
            self._under_way.add(partition)
            self._work.put((self._send, partition))

    def _run(self) -> None:
        while True:
            step, partition = self._work.get()
            step(partition)

    def _send(self, partition: int) -> None:
        try:
            producer = self._producers.get(partition)
            if producer is None:
                producer = self._client.create_producer(
                    partition_topic(self._topic, partition),
                    properties=PRODUCER_PROPERTIES,
                    send_timeout_millis=SEND_TIMEOUT_MS,
                    batching_enabled=False,
                )
                self._producers[partition] = producer
            producer.send_async(
                b"", functools.partial(self._sent, partition), properties={"kind": TICK}
            )
        except Exception as error:  # noqa: BLE001 - the next tick will do, whatever it was
            self._log.debug("ticks: partition %d: %s", partition, error)
            self._drop(partition)

    def _sent(self, partition: int, result: Any, _: Any) -> None:
        if result == pulsar.Result.Ok:
            self._under_way.discard(partition)
        else:
            # On the thread: a client's callback must not wait for the client.
            self._work.put((self._drop, partition))

    def _drop(self, partition: int) -> None:
        producer = self._producers.pop(partition, None)
        if producer is not None:
            with contextlib.suppress(pulsar.PulsarException):
                producer.close()
        self._under_way.discard(partition)
