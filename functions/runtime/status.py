"""What a function instance reports about itself: to `control/status` and as user metrics."""

import contextlib
import time
from collections import Counter
from typing import Any

import msgspec
import pulsar

from marketdata.errors import printable

REPORT_INTERVAL_S = 1.0


class Status(msgspec.Struct):
    """One report; the newest per key `function/instance` stays on the compacted topic.

    `partitions` are those of which this instance has received inputs, not a claim of ownership: a
    Failover subscription moves partitions without telling. `counters` rise since `started_at_ns`;
    times are nanoseconds since the epoch, UTC.
    """

    function: str
    instance: int
    version: str
    started_at_ns: int
    reported_at_ns: int = 0
    plan: int = 0
    plan_digest: str = ""
    partitions: list[int] = []
    counters: dict[str, int] = {}
    last_error: str | None = None


class StatusReporter:
    """Counts, and publishes the status every second and when asked."""

    def __init__(self, context: Any, *, function: str, version: str, topic: str) -> None:
        self.counters: Counter[str] = Counter()
        self.status = Status(
            function, int(context.get_instance_id()), version, started_at_ns=time.time_ns()
        )
        self._context = context
        self._topic = topic
        self._recorded: Counter[str] = Counter()
        self._producer: pulsar.Producer | None = None
        self._due = 0.0

    @property
    def due_in_s(self) -> float:
        """Seconds until the next regular report."""
        return max(0.0, self._due - time.monotonic())

    def observe_latency(self, ts_publish_ns: int) -> None:
        """Record how old a frame is that leaves this function, as user metric `latency_ms`."""
        self._context.record_metric("latency_ms", (time.time_ns() - ts_publish_ns) / 1e6)

    def error(self, text: str) -> None:
        """Remember the newest error for the next report."""
        self.status.last_error = printable(text[:1_000])
        self.counters["errors"] += 1

    def report(self) -> None:
        """Publish now. A broker that is away is no error here: the next report will do."""
        self._due = time.monotonic() + REPORT_INTERVAL_S
        for name, value in self.counters.items():
            increase = value - self._recorded[name]
            if increase:
                self._context.record_metric(name, increase)
                self._recorded[name] = value
        status = self.status
        status.reported_at_ns = time.time_ns()
        status.counters = dict(self.counters)
        with contextlib.suppress(pulsar.PulsarException):
            if self._producer is None:
                self._producer = self._context.get_pulsar_client().create_producer(
                    self._topic, send_timeout_millis=5_000
                )
            self._producer.send_async(
                msgspec.json.encode(status),
                lambda *_: None,
                partition_key=f"{status.function}/{status.instance}",
            )
