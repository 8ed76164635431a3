"""`recovery`: kill -9 the owner of a partition while events flow, on the real stack.

All instruments belong to one partition. Given is the time from the kill to the first receipt, by
the consumer, of an event that was published after it: what is behind the kill in its partition
comes in order, so from then on events flow again. Each run kills, one after the other and with
time to settle in between: the sequencer's owner of the partition (the other instance takes over),
the distributor's, and last all instances of both at once (the functions worker has to start new
ones). Every event is checked as always: none may be missing, doubled or out of order.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import psutil

from benchmarks.end_to_end import rows_of_tick
from benchmarks.figures import BenchmarkFailed, Measured, Sample
from benchmarks.plotting import Panel
from benchmarks.pool import instrument_names
from benchmarks.rig import (
    FUNCTIONS,
    Load,
    Rig,
    add_rig_arguments,
    bench_stack,
    rig_on,
    rig_settings,
)
from benchmarks.traffic import topic_statistics
from marketdata.topics import INGEST_EVENTS, SEQUENCED_EVENTS, partition_topic
from scripts.devstack.processes import wait_until
from scripts.devstack.stack import Stack

SUMMARY = "time until events flow again after kill -9 of a partition's owner"
PARTITION: Final = 1
PARTITIONS: Final = 4
INSTANCES: Final = 2
"""Of the topology."""

INPUTS: Final = {"sequencer": INGEST_EVENTS, "distributor": SEQUENCED_EVENTS}
COLD: Final = "cold"
CASES: Final = (*FUNCTIONS, COLD)
WARM_UP_S = 10.0
WARM_UP_ROWS: Final = 32_768
BEFORE_KILL_S: Final = 8.0
"""Longer than the pace of snapshots: recovery reads a snapshot and what follows it."""

INSTANCES_TIMEOUT_S: Final = 90.0
SETTLE_S: Final = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_rig_arguments(parser, views=16, instruments=10_000)
    parser.add_argument("--rate", type=float, default=20_000.0, help="events/s (default 20,000)")
    parser.add_argument(
        "--tick-ms", type=float, default=20.0, help="pace of publish calls (default 20)"
    )
    parser.add_argument(
        "--after-s", type=float, default=12.0, help="of events after the kill (default 12)"
    )
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=list(CASES), help="(default all)"
    )


def measure(options: argparse.Namespace) -> Measured:
    """Run it `options.runs` times on one stack."""
    names = instrument_names(options.instruments, partition=PARTITION, of=PARTITIONS)
    runs: list[dict[str, Sample]] = []
    lines = {}
    with bench_stack(options) as stack, rig_on(stack, options, names=names) as rig:
        rig.load(seconds=WARM_UP_S, max_events=sys.maxsize, batch_rows=WARM_UP_ROWS)
        for number in range(1, options.runs + 1):
            found: dict[str, Sample] = {}
            for case in options.cases:
                load, recovered_s = _kill_while_loaded(rig, options, case)
                found[f"{case}_recovery_s"] = Sample(recovered_s, "s")
                found[f"{case}_recovery_latency_max_ms"] = Sample(load.latency_ms[3], "ms")
                lines[f"{case}, run {number}"] = load.arrivals
                print(f"run {number}: {case} recovered in {recovered_s:.2f} s", file=sys.stderr)
            runs.append(found)
    settings = {**rig_settings(options), "rate": options.rate, "tick_ms": options.tick_ms}
    panel = Panel("received and checked", "seconds since the first publish", "events/s", lines)
    return Measured(runs, settings, [panel])


def _kill_while_loaded(rig: Rig, options: argparse.Namespace, case: str) -> tuple[Load, float]:
    killed_ns: list[int] = []

    def kill() -> None:
        time.sleep(BEFORE_KILL_S)
        victims = _victims(rig.stack, case)
        killed_ns.append(time.time_ns())
        for pid in victims:
            os.kill(pid, signal.SIGKILL)

    await_instances(rig.stack)
    load = rig.load(
        seconds=BEFORE_KILL_S + options.after_s,
        max_events=sys.maxsize,
        batch_rows=rows_of_tick(options.rate, options),
        rate=options.rate,
        during=kill,
        keep_passages=True,
    )
    return load, recovery_s(load.passages, killed_ns[0])


def recovery_s(passages: Sequence[tuple[int, int]], killed_ns: int) -> float:
    """From the kill to the first arrival of an event published after it.

    Args:
        passages: (arrival, newest publish time) of frames.

    >>> recovery_s([(10, 5), (30, 14), (2_000_000_040, 20)], 15)
    2.000000025
    """
    after = [at_ns for at_ns, newest_ns in passages if newest_ns > killed_ns]
    if not after:
        raise BenchmarkFailed(
            "nothing that was published after the kill arrived: give more time with --after-s"
        )
    return (min(after) - killed_ns) / 1e9


def _victims(stack: Stack, case: str) -> list[int]:
    if case == COLD:
        return [pid for function in FUNCTIONS for pid in stack.function_pids(function)]
    return [owner(stack, case)]


def owner(stack: Stack, function: str) -> int:
    """The process that reads the partition: the one at the other end of the active consumer."""
    topic = partition_topic(INPUTS[function], PARTITION)
    statistics: dict[str, Any] = topic_statistics(stack.admin_url, topic, partitioned=False)
    pids = stack.function_pids(function)
    for subscription in statistics["subscriptions"].values():
        for consumer in subscription["consumers"]:
            if consumer["consumerName"] != subscription.get("activeConsumerName"):
                continue
            port = int(consumer["address"].rpartition(":")[2])
            for pid in pids:
                if any(c.laddr.port == port for c in psutil.Process(pid).net_connections("tcp")):
                    return pid
    raise BenchmarkFailed(f"no instance of {function} is the active reader of {topic}")


def await_instances(stack: Stack) -> None:
    """Wait until as many instances as before run and read, and give them time to settle."""
    for function, topic in INPUTS.items():
        if not wait_until(_reads(stack, function, topic), INSTANCES_TIMEOUT_S, interval_s=0.2):
            raise BenchmarkFailed(f"the instances of {function} do not come back; see its log")
    time.sleep(SETTLE_S)


def _reads(stack: Stack, function: str, topic: str) -> Callable[[], bool]:
    def reads() -> bool:
        statistics: dict[str, Any] = topic_statistics(
            stack.admin_url, partition_topic(topic, PARTITION), partitioned=False
        )
        pids = stack.function_pids(function)
        readers = [
            len(subscription["consumers"])
            for subscription in statistics["subscriptions"].values()
            if subscription["consumers"]
        ]
        return len(pids) >= INSTANCES and min(readers, default=0) >= INSTANCES

    return reads
