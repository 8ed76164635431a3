"""The rig of the benchmarks on the real stack: a stack of its own, views, publishers, a consumer.

A `load` publishes, waits until everything has arrived and checks it: a figure of a load in which an
event was missing, doubled or out of order is never given.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.cpu import CpuMeter
from benchmarks.figures import BenchmarkFailed
from benchmarks.subscriptions import subscribed
from benchmarks.workers import Answer, Worker
from marketdata.frames import MAX_ROWS
from scripts.devstack.component import CHECKOUT
from scripts.devstack.console import Console
from scripts.devstack.stack import Stack

PREPARE_TIMEOUT_S: Final = 120.0
PATIENCE_S: Final = 30.0
"""How long nothing may arrive before what is missing counts as missing."""

POOL_EVENTS: Final = 1_000_000
FUNCTIONS: Final = ("sequencer", "distributor")


@dataclass(frozen=True, slots=True)
class Load:
    """What a load showed; it was complete and in order.

    Attributes:
        published_per_second: while publishing; events_per_second: first publish to last receive.
        confirm_p50_ms: from sending a frame to its confirmation, of the slowest publisher.
        latency_ms: p50, p99, p99.9 and greatest, of events, from `publish` to receipt.
        cpu_s: by component.
        frames: published and delivered.
    """

    events: int
    events_per_second: float
    published_per_second: float
    confirm_p50_ms: float
    latency_ms: tuple[float, float, float, float]
    cpu_s: dict[str, float]
    frames: tuple[int, int]
    bytes_per_event: tuple[float, float]


class Rig:
    """Everything that takes part, ready to be loaded."""

    def __init__(
        self, stack: Stack, publishers: list[Worker], consumer: Worker, views: int, instruments: int
    ) -> None:
        self.stack = stack
        self._publishers = publishers
        self._consumer = consumer
        self._views = views
        self._instruments = instruments
        self._loads = 0

    def load(
        self,
        *,
        seconds: float,
        max_events: int,
        batch_rows: int,
        rate: float | None = None,
        frame_rows: int = MAX_ROWS,
        max_delay_ms: float = 5.0,
    ) -> Load:
        """Publish for `seconds`, wait for all of it, check it.

        Args:
            max_events: ends publishing earlier; the disk is finite.
            batch_rows: events in a call of `publish`.
            rate: events a second of all publishers together; None for as fast as taken.
            frame_rows, max_delay_ms: the publishers' settings.

        Raises:
            BenchmarkFailed: an event is missing, doubled or out of order.
        """
        self._prepare(batch_rows, rate)
        self._consumer.ask("begin", timeout_s=10.0)
        meter = CpuMeter(self._processes())
        meter.start()
        share = len(self._publishers)
        for number, publisher in enumerate(self._publishers):
            publisher.tell(
                "run",
                service_url=self.stack.service_url,
                name=f"bench-{number}-{time.time_ns():x}",
                seconds=seconds,
                max_events=max_events // share,
                rate=rate / share if rate else None,
                publisher={"max_events": frame_rows, "max_delay_ms": max_delay_ms},
            )
        published = [each.answer(timeout_s=seconds + 180.0) for each in self._publishers]
        expected = np.sum([each["of_view"] for each in published], axis=0).tolist()
        received = self._consumer.ask(
            "finish", expected=expected, patience_s=PATIENCE_S, timeout_s=3600.0
        )
        cpu_s = meter.stop()
        _check(expected, received)
        return _result(published, received, cpu_s)

    def _prepare(self, batch_rows: int, rate: float | None) -> None:
        self._loads += 1
        for number, publisher in enumerate(self._publishers):
            publisher.tell(
                "prepare",
                source=f"bench-{number}-{self._loads}-{time.time_ns():x}",
                events=max(batch_rows, POOL_EVENTS // batch_rows * batch_rows),
                batch_rows=batch_rows,
                instruments=self._instruments,
                views=self._views,
                rate=rate or 1_000_000.0,
                seed=number + 1,
            )
        for publisher in self._publishers:
            publisher.answer(timeout_s=PREPARE_TIMEOUT_S)

    def _processes(self) -> dict[str, list[int]]:
        broker = self.stack.pid("pulsar")
        return {
            "broker": [broker] if broker else [],
            **{name: self.stack.function_pids(name) for name in FUNCTIONS},
            "publisher": [each.pid for each in self._publishers],
            "consumer": [self._consumer.pid],
        }


def add_rig_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark on the real stack has."""
    parser.add_argument("--views", type=int, default=4, help="distinct views (default 4)")
    parser.add_argument("--instruments", type=int, default=1_000, help="(default 1,000)")
    parser.add_argument("--publishers", type=int, default=1, help="processes (default 1)")
    parser.add_argument(
        "--home", type=Path, default=CHECKOUT / ".dds-bench", help="of the stack to measure on"
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="go on with the stack that is there and leave it up; otherwise it starts empty and"
        " its data is deleted afterwards",
    )


def rig_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What figures depend on, of these options."""
    return {
        "views": options.views,
        "instruments": options.instruments,
        "publishers": options.publishers,
    }


@contextmanager
def bench_stack(options: argparse.Namespace) -> Iterator[Stack]:
    """A stack for benchmarks only, up; gone afterwards with its data unless it is to be kept."""
    stack = Stack(options.home, console=Console())
    if not options.keep:
        stack.reset()
    try:
        stack.up()
        yield stack
    except BaseException:
        if not options.keep:
            # Data and logs stay for whoever looks for the reason; the next benchmark deletes them.
            stack.down()
        raise
    if not options.keep:
        stack.reset()


@contextmanager
def rig_on(stack: Stack, options: argparse.Namespace) -> Iterator[Rig]:
    """A rig on a running stack."""
    logs = stack.home / "logs"
    with ExitStack() as parts:
        views = parts.enter_context(
            subscribed(
                stack.control_plane_url, views=options.views, instruments=options.instruments
            )
        )
        consumer = parts.enter_context(Worker("consuming", logs / "bench-consumer.log"))
        consumer.ask("subscribe", service_url=stack.service_url, views=views, timeout_s=60.0)
        publishers = [
            parts.enter_context(Worker("publishing", logs / f"bench-publisher-{number}.log"))
            for number in range(options.publishers)
        ]
        yield Rig(stack, publishers, consumer, options.views, options.instruments)


def _check(expected: list[int], received: Answer) -> None:
    if received["breaks"] or received["first_breaks"]:
        raise BenchmarkFailed(
            f"{received['breaks']} breaks of order or continuity, the first:"
            f" {'; '.join(received['first_breaks'])}"
        )
    if received["of_view"] != expected:
        raise BenchmarkFailed(
            f"of {expected} events per view {received['of_view']} arrived; look at the logs of"
            " sequencer and distributor with --keep and scripts/dev.py logs"
        )


def _result(published: list[Answer], received: Answer, cpu_s: dict[str, float]) -> Load:
    events = sum(each["events"] for each in published)
    started_ns = min(each["started_ns"] for each in published)
    p50, p99, p999, greatest = (ns / 1e6 for ns in received["latency_ns"])
    return Load(
        events=events,
        events_per_second=events / ((received["last_ns"] - started_ns) / 1e9),
        published_per_second=sum(each["events"] / each["published_s"] for each in published),
        confirm_p50_ms=max(each["confirm_p50_ms"] for each in published),
        latency_ms=(p50, p99, p999, greatest),
        cpu_s=cpu_s,
        frames=(sum(each["frames"] for each in published), received["frames"]),
        bytes_per_event=(
            sum(each["frame_bytes"] for each in published) / events,
            received["payload_bytes"] / events,
        ),
    )
