"""CPU seconds of the processes that take part, by component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psutil


class CpuMeter:
    """Counts from `start` to `stop`; processes that end in between count up to their last look.

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


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
