"""Pulsar's own load generator for comparison: produce and consume 100-byte messages at once."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.figures import BenchmarkFailed, Sample
from benchmarks.scratch import scratch_topics
from scripts.devstack.archive import pulsar_home
from scripts.devstack.component import process_environment
from scripts.devstack.console import Console
from scripts.devstack.java import java_home
from scripts.devstack.processes import wait_until
from scripts.devstack.stack import Stack

MESSAGE_BYTES: Final = 100
PARTITIONS: Final = 4
UNREACHABLE_RATE: Final = 10_000_000
MEMORY: Final = "-Xms256m -Xmx512m -XX:MaxDirectMemorySize=512m"
START_TIMEOUT_S: Final = 180.0

_RECEIVING = b"Start receiving"
_INTERVAL = re.compile(r"Throughput received:.*?---\s*([\d.]+)\s*msg/s")


def pulsar_perf(stack: Stack, seconds: float) -> dict[str, Sample]:
    """The rate of `pulsar-perf consume` while `pulsar-perf produce` sends as fast as it can."""
    return asyncio.run(_measure(stack, seconds))


async def _measure(stack: Stack, seconds: float) -> dict[str, Sample]:
    async with scratch_topics(stack.admin_url, "perf", partitions=PARTITIONS) as (_, (topic,)):
        rate = await asyncio.to_thread(_run, stack, topic, seconds)
    return {"pulsar_perf_msgs_per_second": Sample(rate, "msg/s")}


def _run(stack: Stack, topic: str, seconds: float) -> float:
    logs = stack.home / "logs"
    common = ["--service-url", stack.service_url, topic]
    load = ["--rate", str(UNREACHABLE_RATE), "--size", str(MESSAGE_BYTES)]
    log = _log(logs, "consume")
    with ExitStack() as running:
        # The consumer is given no duration: it would count its own start.
        consuming = _start(running, logs, "consume", common)
        ready = wait_until(
            lambda: _RECEIVING in log.read_bytes() or consuming.poll() is not None, START_TIMEOUT_S
        )
        if not ready or consuming.poll() is not None:
            raise BenchmarkFailed(f"pulsar-perf consume does not start; its log is {log}")
        duration = ["--test-duration", f"{seconds:.0f}"]
        producing = _start(running, logs, "produce", [*load, *duration, *common])
        try:
            producing.wait(START_TIMEOUT_S + seconds)
        except subprocess.TimeoutExpired:
            raise BenchmarkFailed(
                f"pulsar-perf produce does not end; its log is {_log(logs, 'produce')}"
            ) from None
    return best_rate(log.read_text("utf-8", "replace"), log)


def best_rate(text: str, log: Path) -> float:
    r"""The best rate that `pulsar-perf consume` printed for one of its intervals of 10 s.

    The best and not the average, so that neither the start of two JVMs nor their warming up counts
    against the tool that the service is compared with.

    >>> line = "Throughput received: 9 msg --- {}  msg/s --- 1.0 Mbit/s"
    >>> best_rate("\n".join(line.format(x) for x in ("0.000", "5.5", "9.0", "8.0")), Path("log"))
    9.0
    """
    rate = max(map(float, _INTERVAL.findall(text)), default=0.0)
    if rate == 0.0:
        raise BenchmarkFailed(f"pulsar-perf received nothing; its log is {log}")
    return rate


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
