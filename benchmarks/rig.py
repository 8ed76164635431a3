"""The rig of the benchmarks on the real stack: a stack of its own, views, publishers, a consumer.

A `load` publishes, waits until everything has arrived and checks it: a figure of a load in which an
event was missing, doubled or out of order is never given.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from benchmarks.cpu import CpuMeter, written_bytes
from benchmarks.figures import BenchmarkFailed
from benchmarks.pool import instrument_names
from benchmarks.profiling import Profile, Profiler
from benchmarks.subscriptions import subscribed
from benchmarks.traffic import Traffic, TrafficMeter
from benchmarks.workers import Answer, Worker
from marketdata.frames import MAX_ROWS
from marketdata.plans import USUAL_PRIORITY
from marketdata.topics import INGEST_EVENTS, SEQUENCED_EVENTS
from scripts.devstack.component import CHECKOUT
from scripts.devstack.console import Console
from scripts.devstack.stack import Stack

PREPARE_TIMEOUT_S: Final = 120.0
SUBSCRIBE_TIMEOUT_S: Final = 600.0
PATIENCE_S: Final = 30.0
"""How long nothing may arrive before what is missing counts as missing."""

PROFILE_FROM_S: Final = 2.0
"""When in a load the profile begins: not with the opening of producers."""

POOL_EVENTS: Final = 1_000_000
POOL_BATCHES = 2_000
FUNCTIONS: Final = ("sequencer", "distributor")


@dataclass(frozen=True, slots=True)
class Load:
    """What a load showed; it was complete and in order.

    Attributes:
        published_per_second: while publishing; events_per_second: first publish to last receive.
        confirm_p50_ms: from sending a frame to its confirmation, of the slowest publisher.
        latest_ms: by how much a publish call was later than due, at most.
        latency_ms: p50, p99, p99.9 and greatest, of events, from `publish` to receipt.
        latency_curve_ms: latency at each of the shares `benchmarks.consuming.CURVE`.
        arrivals: (seconds since the first publish, events per second) over time.
        cpu_s: by component.
        frames: published and delivered.
        traffic: by stage; empty when it was not to be counted.
        disk_bytes: written by the broker: journal, entry log and metadata; None where unknown.
        passages: (arrival, newest publish time) of every delivered frame, when asked for.
    """

    events: int
    events_per_second: float
    published_per_second: float
    confirm_p50_ms: float
    latest_ms: float
    latency_ms: tuple[float, float, float, float]
    latency_curve_ms: list[float]
    arrivals: tuple[list[float], list[float]]
    cpu_s: dict[str, float]
    frames: tuple[int, int]
    payload_bytes: tuple[int, int]
    traffic: dict[str, Traffic]
    disk_bytes: int | None
    passages: list[tuple[int, int]] = field(default_factory=list)
    profiles: dict[str, Profile] = field(default_factory=dict)


class Rig:
    """Everything that takes part, ready to be loaded.

    Args:
        views: topics and names, as `subscribed` yields them.
        names: of the instruments.
        read: how many of the views the consumer reads, from the first on.
    """

    def __init__(
        self,
        stack: Stack,
        publishers: Sequence[Worker],
        consumer: Worker,
        views: Sequence[dict[str, str]],
        names: Sequence[str],
        read: int,
    ) -> None:
        self.stack = stack
        self._publishers = publishers
        self._consumer = consumer
        self._views = views
        self._names = names
        self._read = read
        self._loads = 0

    def load(
        self,
        *,
        seconds: float,
        max_events: int,
        batch_rows: int,
        rate: float | None = None,
        frame_rows: int = MAX_ROWS,
        max_delay_ms: float = 25.0,
        during: Callable[[], None] | None = None,
        count_bytes: bool = True,
        keep_passages: bool = False,
        profile: bool = False,
    ) -> Load:
        """Publish for `seconds`, wait for all of it, check it.

        Args:
            max_events: ends publishing earlier; the disk is finite.
            batch_rows: events in a call of `publish`.
            rate: events a second of all publishers together; None for as fast as taken.
            frame_rows, max_delay_ms: the publishers' settings.
            during: called while events flow.
            count_bytes: ask the broker for its counters before and after: a request a view.
            profile: sample every Python process; costs some of the rate.

        Raises:
            BenchmarkFailed: an event is missing, doubled or out of order.
        """
        self._prepare(batch_rows, rate)
        self._consumer.ask("begin", keep_passages=keep_passages, timeout_s=10.0)
        processes = self._processes()
        traffic = TrafficMeter(self.stack.admin_url, self._topics() if count_bytes else {})
        traffic.start()
        broker = self.stack.pid("pulsar")
        written = written_bytes(broker) if broker else None
        meter = CpuMeter(processes)
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
        profiler = self._profiler(seconds) if profile else None
        if during is not None:
            during()
        published = [each.answer(timeout_s=seconds + 180.0) for each in self._publishers]
        expected = np.sum([each["of_view"] for each in published], axis=0).tolist()
        expected = expected[: self._read]
        received = self._consumer.ask(
            "finish", expected=expected, patience_s=PATIENCE_S, timeout_s=3600.0
        )
        cpu_s = meter.stop()
        written_now = written_bytes(broker) if broker else None
        passed = traffic.stop()
        profiles = profiler.results() if profiler is not None else {}
        _check(expected, received)
        return _result(
            published,
            received,
            cpu_s=cpu_s,
            traffic=passed,
            disk_bytes=None if written is None or written_now is None else written_now - written,
            profiles=profiles,
        )

    def _prepare(self, batch_rows: int, rate: float | None) -> None:
        self._loads += 1
        for number, publisher in enumerate(self._publishers):
            publisher.tell(
                "prepare",
                source=f"bench-{number}-{self._loads}-{time.time_ns():x}",
                events=min(max(1, POOL_EVENTS // batch_rows), POOL_BATCHES) * batch_rows,
                batch_rows=batch_rows,
                names=self._names,
                views=len(self._views),
                rate=rate or 1_000_000.0,
                seed=number + 1,
            )
        for publisher in self._publishers:
            publisher.answer(timeout_s=PREPARE_TIMEOUT_S)

    def _profiler(self, seconds: float) -> Profiler:
        time.sleep(PROFILE_FROM_S)
        python = {
            **{name: self.stack.function_pids(name) for name in FUNCTIONS},
            "publisher": [each.pid for each in self._publishers],
            "consumer": [self._consumer.pid],
        }
        profiler = Profiler(
            python, self.stack.pid("pulsar"), max(1.0, seconds - 2 * PROFILE_FROM_S)
        )
        profiler.start()
        return profiler

    def _topics(self) -> dict[str, list[str]]:
        return {
            "ingest": [INGEST_EVENTS],
            "log": [SEQUENCED_EVENTS],
            "delivery": [view["topic"] for view in self._views],
        }

    def _processes(self) -> dict[str, list[int]]:
        return {
            "broker": _with_children(self.stack.pid("pulsar"), children=False),
            **{name: self.stack.function_pids(name) for name in FUNCTIONS},
            "publisher": [each.pid for each in self._publishers],
            "consumer": [self._consumer.pid],
            "control_plane": _with_children(self.stack.pid("control_plane")),
            "postgresql": _with_children(self.stack.pid("postgresql")),
        }


def add_rig_arguments(
    parser: argparse.ArgumentParser, *, views: int = 4, instruments: int = 1_000
) -> None:
    """The options that every benchmark on the real stack has."""
    parser.add_argument(
        "--views", type=int, default=views, help=f"distinct views (default {views})"
    )
    parser.add_argument(
        "--instruments", type=int, default=instruments, help=f"(default {instruments:,})"
    )
    parser.add_argument(
        "--kinds",
        choices=("apart", "together"),
        default="apart",
        help="whether a view's message holds events of one kind or of several (default apart)",
    )
    parser.add_argument("--publishers", type=int, default=1, help="processes (default 1)")
    add_stack_arguments(parser)


def add_stack_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every benchmark that has a stack."""
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
        "views_read": _read(options),
        "kinds": options.kinds,
        "instruments": options.instruments,
        "publishers": options.publishers,
    }


def _read(options: argparse.Namespace) -> int:
    """How many of the views are read: all of them where there is no such option."""
    found: int = getattr(options, "read", options.views)
    return found


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
def rig_on(
    stack: Stack,
    options: argparse.Namespace,
    *,
    names: Sequence[str] | None = None,
    priority: int = USUAL_PRIORITY,
) -> Iterator[Rig]:
    """A rig on a running stack.

    Args:
        names: of the instruments; None for `options.instruments` of all partitions.
        priority: of the views.
    """
    names = instrument_names(options.instruments) if names is None else names
    logs = stack.home / "logs"
    read = _read(options)
    with ExitStack() as parts:
        views = parts.enter_context(
            subscribed(
                stack.control_plane_url,
                views=options.views,
                names=names,
                kinds=options.kinds,
                priority=priority,
            )
        )
        consumer = parts.enter_context(Worker("consuming", logs / "bench-consumer.log"))
        consumer.ask(
            "subscribe",
            service_url=stack.service_url,
            views=views[:read],
            timeout_s=SUBSCRIBE_TIMEOUT_S,
        )
        publishers = [
            parts.enter_context(Worker("publishing", logs / f"bench-publisher-{number}.log"))
            for number in range(options.publishers)
        ]
        yield Rig(stack, publishers, consumer, views, names, read)


def _with_children(pid: int | None, *, children: bool = True) -> list[int]:
    """The pid and those of its children (the broker's are the function instances)."""
    if pid is None:
        return []
    try:
        found = psutil.Process(pid).children(recursive=True) if children else []
    except psutil.NoSuchProcess:
        return []
    return [pid, *(child.pid for child in found)]


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


def _result(
    published: list[Answer],
    received: Answer,
    *,
    cpu_s: dict[str, float],
    traffic: dict[str, Traffic],
    disk_bytes: int | None,
    profiles: dict[str, Profile],
) -> Load:
    events = sum(each["events"] for each in published)
    started_ns = min(each["started_ns"] for each in published)
    p50, p99, p999, greatest = (ns / 1e6 for ns in received["latency_ns"])
    return Load(
        events=events,
        events_per_second=events / ((received["last_ns"] - started_ns) / 1e9),
        published_per_second=sum(each["events"] / each["published_s"] for each in published),
        confirm_p50_ms=max(each["confirm_p50_ms"] for each in published),
        latest_ms=max(each["latest_s"] for each in published) * 1e3,
        latency_ms=(p50, p99, p999, greatest),
        latency_curve_ms=[ns / 1e6 for ns in received["latency_curve_ns"]],
        arrivals=_rates(received["arrivals"], received["bin_ns"], started_ns),
        cpu_s=cpu_s,
        frames=(sum(each["frames"] for each in published), received["frames"]),
        payload_bytes=(
            sum(each["frame_bytes"] for each in published),
            received["payload_bytes"],
        ),
        traffic=traffic,
        disk_bytes=disk_bytes,
        passages=[(at_ns, newest_ns) for at_ns, newest_ns in received.get("passages", ())],
        profiles=profiles,
    )


def _rates(
    arrivals: list[tuple[int, int]], bin_ns: int, started_ns: int
) -> tuple[list[float], list[float]]:
    """Seconds since the start and events a second, for every bin from the first to the last."""
    events = dict(arrivals)
    bins = range(min(events), max(events) + 1) if events else range(0)
    return (
        [round((number * bin_ns + bin_ns / 2 - started_ns) / 1e9, 3) for number in bins],
        [events.get(number, 0) / (bin_ns / 1e9) for number in bins],
    )
