"""CPU seconds and disk writes of the processes that take part, by component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil


class CpuMeter:
    """Counts from `start` to `stop`; what a process that ended used since `start` is not counted.

    Args:
        processes: component -> pids; a component without any is left out of the result.
    """

    def __init__(self, processes: Mapping[str, Sequence[int]]) -> None:
        self._processes = {
            component: [psutil.Process(pid) for pid in pids]
            for component, pids in processes.items()
            if pids
        }
        self._started: dict[str, float] = {}

    def start(self) -> None:
        """Begin to count."""
        self._started = self._read()

    def stop(self) -> dict[str, float]:
        """Component -> user and system seconds since `start`."""
        now = self._read()
        return {name: max(0.0, now[name] - self._started[name]) for name in now}

    def _read(self) -> dict[str, float]:
        return {name: sum(map(_seconds, each)) for name, each in self._processes.items()}


def written_bytes(pid: int) -> int | None:
    """Bytes that a process has caused to be written to disk; None where the system does not say."""
    try:
        counters = psutil.Process(pid).io_counters()
    except (AttributeError, psutil.Error):
        return None
    return int(counters.write_bytes)


def thread_seconds(pid: int) -> dict[str, float]:
    """Thread name (numbers stripped, so that a pool counts as one) -> CPU seconds; Linux only."""
    found: dict[str, float] = {}
    for thread in psutil.Process(pid).threads():
        try:
            name = Path(f"/proc/{pid}/task/{thread.id}/comm").read_text().strip()
        except OSError:
            continue
        group = name.rstrip("0123456789-#_ ") or name
        found[group] = found.get(group, 0.0) + thread.user_time + thread.system_time
    return found


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
