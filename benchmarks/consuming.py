"""The worker that consumes: a plain Pulsar client on every view, which counts and checks.

The client's thread only notes when a message came; one thread takes what has come, every tenth of
a second, checks it (`benchmarks.checking`) and acknowledges it. It thereby costs the
machine that is measured as little as a consumer can that looks at every event.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pulsar

from benchmarks.checking import BIN_NS, Arrived, DeliveryCheck, Tally
from benchmarks.workers import Answer, serve
from marketdata.connection import open_client

RECEIVER_QUEUE_FRAMES: Final = 200
MAX_WAITING_FRAMES: Final = 4_000
TURN_S: Final = 0.1
SURPLUS_WAIT_S: Final = 0.3
OPENERS: Final = 16

QUANTILES: Final = (0.5, 0.99, 0.999, 1.0)
CURVE: Final = (*(n / 100 for n in range(0, 100, 2)), 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0)
"""Shares of the events of the latency curve."""


class Reader(threading.Thread):
    """Takes what the consumers were handed, checks and acknowledges it, until the process ends."""

    def __init__(self, views: int) -> None:
        super().__init__(name="check", daemon=True)
        self.tally = Tally(views)
        self.failure: str | None = None
        self._consumers: dict[int, pulsar.Consumer] = {}
        self._check = DeliveryCheck(views)
        self._arrived: deque[Arrived] = deque()
        self._room = threading.BoundedSemaphore(MAX_WAITING_FRAMES)

    def listener(self, view: int) -> Callable[[pulsar.Consumer, pulsar.Message], None]:
        """What a view's consumer calls for each message; blocks while too many wait."""

        def arrived(_: pulsar.Consumer, message: pulsar.Message) -> None:
            at_ns = time.time_ns()
            self._room.acquire()
            self._arrived.append(Arrived(view, message, at_ns))

        return arrived

    def consumes(self, view: int, consumer: pulsar.Consumer) -> None:
        """Acknowledge the view's messages with this consumer."""
        self._consumers[view] = consumer

    def run(self) -> None:
        """Turn after turn; a failure ends the thread and is told by the next answer."""
        try:
            while True:
                time.sleep(TURN_S)
                self.turn()
        except Exception as error:  # noqa: BLE001 - told by the next answer
            self.failure = f"{self.name}: {type(error).__name__}: {error}"

    def turn(self) -> None:
        """Check and acknowledge all that waits."""
        frames = [self._arrived.popleft() for _ in range(len(self._arrived))]
        if not frames:
            return
        self._check.take(frames, self.tally)
        newest = {frame.message.topic_name(): frame for frame in frames}
        for frame in newest.values():
            self._consumers[frame.view].acknowledge_cumulative(frame.message)
        self._room.release(len(frames))


class Consuming:
    """The commands `subscribe`, `begin`, `progress` and `finish`."""

    def __init__(self) -> None:
        self._client: pulsar.Client | None = None
        self._reader = Reader(0)
        self._views = 0

    def subscribe(self, *, service_url: str, views: list[dict[str, str]]) -> Answer:
        """Open the subscriptions that the control plane made."""
        logger = pulsar.ConsoleLogger(pulsar.LoggerLevel.Warn)
        client = self._client = open_client(service_url, {"logger": logger})[0]
        reader = self._reader = Reader(len(views))

        def open_consumer(number: int) -> None:
            consumer = client.subscribe(
                views[number]["topic"],
                views[number]["subscription_name"],
                consumer_type=pulsar.ConsumerType.Failover,
                receiver_queue_size=RECEIVER_QUEUE_FRAMES,
                message_listener=reader.listener(number),
            )
            reader.consumes(number, consumer)

        with ThreadPoolExecutor(OPENERS) as openers:
            list(openers.map(open_consumer, range(len(views))))
        self._views = len(views)
        reader.start()
        return {}

    def begin(self, *, keep_passages: bool = False) -> Answer:
        """Start a phase; comes while nothing flows."""
        self._reader.tally = Tally(self._views, keep_passages=keep_passages)
        return {}

    def finish(self, *, expected: list[int], patience_s: float) -> Answer:
        """Wait for what is expected of each view; give up `patience_s` after the last arrival."""
        reader = self._reader
        last, changed = -1, time.monotonic()
        while reader.failure is None:
            counts = list(reader.tally.of_view)
            if all(count >= due for count, due in zip(counts, expected, strict=True)):
                break
            if sum(counts) != last:
                last, changed = sum(counts), time.monotonic()
            elif time.monotonic() > changed + patience_s:
                break
            time.sleep(TURN_S / 4)
        time.sleep(SURPLUS_WAIT_S)
        return self._answer()

    def _answer(self) -> Answer:
        tally, failure = self._reader.tally, self._reader.failure
        answer: dict[str, Any] = {
            "of_view": tally.of_view,
            "frames": tally.frames,
            "control_frames": tally.control_frames,
            "payload_bytes": tally.payload_bytes,
            "last_ns": tally.last_ns,
            "breaks": tally.breaks,
            "first_breaks": [*([failure] if failure else []), *tally.first_breaks],
            "latency_ns": tally.latencies.quantiles_ns(QUANTILES),
            "latency_curve_ns": tally.latencies.quantiles_ns(CURVE),
            "bin_ns": BIN_NS,
            "arrivals": sorted(tally.arrivals.items()),
        }
        if tally.passages is not None:
            answer["passages"] = tally.passages
        return answer


if __name__ == "__main__":
    work = Consuming()
    serve({"subscribe": work.subscribe, "begin": work.begin, "finish": work.finish})
