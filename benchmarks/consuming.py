"""The worker that consumes: a plain Pulsar client on every view, which counts and checks.

Checked of every message: it can be decoded and holds as many events as it says; its delivery
sequence follows the one before in its partition; within the view, each instrument's sequences
rise by one. None of the project's client code is used, so it cannot hide a loss.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pulsar
import pyarrow as pa

from benchmarks.workers import Answer, serve

RECEIVER_QUEUE_FRAMES = 200
MAX_BREAKS_KEPT = 5
SURPLUS_WAIT_S = 0.3

Ints = npt.NDArray[np.int64]


class Tally:
    """What one view has received in the current phase."""

    def __init__(self) -> None:
        self.events = 0
        self.frames = 0
        self.payload_bytes = 0
        self.last_ns = 0
        self.breaks = 0
        self.first_breaks: list[str] = []
        self.latencies_ns: list[Ints] = []
        self.weights: list[Ints] = []

    def broken(self, what: str) -> None:
        """Note a violation of order or continuity."""
        self.breaks += 1
        if len(self.first_breaks) < MAX_BREAKS_KEPT:
            self.first_breaks.append(what)


class InstrumentOrder:
    """Checks that within a view every instrument's sequences rise by one."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._last = np.zeros(1 << 15, dtype=np.int64)

    def check(self, column: pa.DictionaryArray, sequences: Ints) -> int:
        """How many events of a frame do not follow the one before of their instrument."""
        names = column.dictionary.to_pylist()
        known = self._numbers
        numbers = np.array([known.setdefault(name, len(known)) for name in names])
        codes = column.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        sorted_codes, ordered = codes[order], sequences[order]
        first = np.concatenate(([True], sorted_codes[1:] != sorted_codes[:-1]))
        last = np.concatenate((first[1:], [True]))
        of_first = numbers[sorted_codes[first]]
        before = self._last[of_first]
        wrong = np.count_nonzero((before != 0) & (ordered[first] != before + 1))
        wrong += np.count_nonzero(np.diff(ordered)[~first[1:]] != 1)
        self._last[of_first] = ordered[last]
        return int(wrong)


class ViewReader(threading.Thread):
    """Reads one view until the process ends."""

    def __init__(self, consumer: pulsar.Consumer, view: str) -> None:
        super().__init__(name=f"view-{view}", daemon=True)
        self.tally = Tally()
        self.failure: str | None = None
        self._consumer = consumer
        self._next: dict[str, int] = {}
        self._order = InstrumentOrder()

    def run(self) -> None:
        """Receive, check, acknowledge."""
        try:
            while True:
                message = self._consumer.receive()
                self._take(message, time.time_ns())
                self._consumer.acknowledge(message)
        except Exception as error:  # noqa: BLE001 - told by the next answer
            self.failure = f"{self.name}: {type(error).__name__}: {error}"

    def _take(self, message: pulsar.Message, now_ns: int) -> None:
        tally = self.tally
        data, properties, topic = message.data(), message.properties(), message.topic_name()
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            batch = reader.read_next_batch()
        rows = batch.num_rows
        if rows != int(properties["count"]):
            tally.broken(f"{topic}: says {properties['count']} events, holds {rows}")
        first = int(properties["delivery_sequence"])
        expected = self._next.get(topic, first)
        if first != expected:
            tally.broken(f"{topic}: delivery sequence {first} where {expected} was due")
        self._next[topic] = first + rows
        sequences = batch.column("sequence").to_numpy().view(np.int64)
        wrong = self._order.check(batch.column("instrument"), sequences)
        if wrong:
            tally.broken(f"{topic}: {wrong} events out of their instrument's sequence")
        published = batch.column("ts_publish").view(pa.int64()).to_numpy()
        # The events of one publish call share their time and stand together.
        starts = np.concatenate(([0], np.flatnonzero(np.diff(published)) + 1))
        tally.latencies_ns.append(now_ns - published[starts])
        tally.weights.append(np.diff(starts, append=rows))
        tally.payload_bytes += len(data)
        tally.frames += 1
        tally.last_ns = now_ns
        tally.events += rows


class Consuming:
    """The commands `subscribe`, `begin` and `finish`."""

    def __init__(self) -> None:
        self._readers: list[ViewReader] = []
        self._client: pulsar.Client | None = None

    def subscribe(self, *, service_url: str, views: list[dict[str, str]]) -> Answer:
        """Open the subscriptions that the control plane made."""
        logger = pulsar.ConsoleLogger(pulsar.LoggerLevel.Warn)
        self._client = pulsar.Client(service_url, logger=logger)
        for view in views:
            consumer = self._client.subscribe(
                view["topic"],
                view["subscription_name"],
                consumer_type=pulsar.ConsumerType.Failover,
                receiver_queue_size=RECEIVER_QUEUE_FRAMES,
            )
            self._readers.append(ViewReader(consumer, view["name"]))
        for reader in self._readers:
            reader.start()
        return {}

    def begin(self) -> Answer:
        """Start a phase; comes while nothing flows."""
        for reader in self._readers:
            reader.tally = Tally()
        return {}

    def finish(self, *, expected: list[int], patience_s: float) -> Answer:
        """Wait for what is expected of each view; give up `patience_s` after the last arrival."""
        last, changed = -1, time.monotonic()
        while True:
            counts = [reader.tally.events for reader in self._readers]
            if all(count >= due for count, due in zip(counts, expected, strict=True)):
                break
            if any(reader.failure for reader in self._readers):
                break
            if sum(counts) != last:
                last, changed = sum(counts), time.monotonic()
            elif time.monotonic() > changed + patience_s:
                break
            time.sleep(0.005)
        time.sleep(SURPLUS_WAIT_S)
        return self._answer()

    def _answer(self) -> Answer:
        tallies = [reader.tally for reader in self._readers]
        failures = [reader.failure for reader in self._readers if reader.failure]
        answer: dict[str, Any] = {
            "of_view": [tally.events for tally in tallies],
            "frames": sum(tally.frames for tally in tallies),
            "payload_bytes": sum(tally.payload_bytes for tally in tallies),
            "last_ns": max(tally.last_ns for tally in tallies),
            "breaks": sum(tally.breaks for tally in tallies),
            "first_breaks": [*failures, *(text for t in tallies for text in t.first_breaks)],
        }
        latencies = [each for tally in tallies for each in tally.latencies_ns]
        if latencies:
            weights = np.concatenate([each for tally in tallies for each in tally.weights])
            answer["latency_ns"] = quantiles(
                np.concatenate(latencies), weights, (0.5, 0.99, 0.999, 1.0)
            )
        return answer


def quantiles(values: Ints, weights: Ints, shares: tuple[float, ...]) -> list[int]:
    """The least values that at least the given shares of the weight do not exceed.

    >>> quantiles(np.array([10, 30, 20]), np.array([98, 1, 1]), (0.5, 0.99, 1.0))
    [10, 20, 30]
    """
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    # Whole weights: rounding must not push a share beyond the value that just reaches it.
    due = np.ceil(np.array(shares) * reached[-1] - 1e-6)
    return [int(values[order[i]]) for i in np.searchsorted(reached, due)]


if __name__ == "__main__":
    work = Consuming()
    serve({"subscribe": work.subscribe, "begin": work.begin, "finish": work.finish})
