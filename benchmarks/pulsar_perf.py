"""Pulsar's own load generator for comparison: produce and consume 100-byte messages at once."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.figures import BenchmarkFailed, Sample
from benchmarks.scratch import scratch_topics
from scripts.devstack.archive import pulsar_home
from scripts.devstack.component import process_environment
from scripts.devstack.console import Console
from scripts.devstack.java import java_home
from scripts.devstack.stack import Stack

MESSAGE_BYTES: Final = 100
PARTITIONS: Final = 4
UNREACHABLE_RATE: Final = 10_000_000
MEMORY: Final = "-Xms256m -Xmx512m -XX:MaxDirectMemorySize=512m"
START_AND_END_S: Final = 60.0

_INTERVAL = re.compile(r"Throughput received:.*?---\s*([\d.]+)\s*msg/s")


def pulsar_perf(stack: Stack, seconds: float) -> dict[str, Sample]:
    """The rate at which `pulsar-perf consume` received what `pulsar-perf produce` sent meanwhile."""
    return asyncio.run(_measure(stack, seconds))


async def _measure(stack: Stack, seconds: float) -> dict[str, Sample]:
    async with scratch_topics(stack.admin_url, "perf", partitions=PARTITIONS) as (_, (topic,)):
        rates = await asyncio.to_thread(_run, stack, topic, seconds)
    return {"pulsar_perf_msgs_per_second": Sample(median(rates), "msg/s")}


def _run(stack: Stack, topic: str, seconds: float) -> list[float]:
    logs = stack.home / "logs"
    common = ["--service-url", stack.service_url, "--test-duration", f"{seconds:.0f}", topic]
    rate, size = ["--rate", str(UNREACHABLE_RATE)], ["--size", str(MESSAGE_BYTES)]
    with ExitStack() as running:
        consuming = _start(running, logs, "consume", common)
        producing = _start(running, logs, "produce", [*rate, *size, *common])
        deadline = time.monotonic() + seconds + START_AND_END_S
        for process in (producing, consuming):
            try:
                process.wait(max(1.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise BenchmarkFailed(f"pulsar-perf does not end; its logs are in {logs}") from None
    log = _log(logs, "consume")
    return received_rates(log.read_text("utf-8", "replace"), log)


def received_rates(text: str, log: Path) -> list[float]:
    """The rates that `pulsar-perf consume` printed for intervals in which messages flowed all along.

    The first interval with messages holds the producer's start and the last one its end: they
    count only when there are no others.

    >>> line = "Throughput received: 9 msg --- {}  msg/s --- 1.0 Mbit/s"
    >>> received_rates("\\n".join(line.format(x) for x in ("0.000", "5.5", "9.0", "8.0", "1.5")),
    ...                Path("log"))
    [9.0, 8.0]
    """
    rates = [rate for rate in map(float, _INTERVAL.findall(text)) if rate > 0]
    if not rates:
        raise BenchmarkFailed(f"pulsar-perf received nothing; its log is {log}")
    return rates[1:-1] or [max(rates)]


def _log(logs: Path, verb: str) -> Path:
    return logs / f"bench-pulsar-perf-{verb}.log"


def _start(
    running: ExitStack, logs: Path, verb: str, arguments: list[str]
) -> subprocess.Popen[bytes]:
    environment = process_environment(
        {
            "JAVA_HOME": str(java_home()),
            "PULSAR_MEM": MEMORY,
            "PULSAR_LOG_DIR": str(logs),
        }
    )
    command = [str(pulsar_home(Console(quiet=True)) / "bin" / "pulsar-perf"), verb, *arguments]
    output = running.enter_context(_log(logs, verb).open("wb"))
    process = running.enter_context(
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=os.sep,
        )
    )
    running.callback(process.kill)
    return process
