"""Where the time goes: py-spy on each Python process, thread times of the broker.

py-spy looks into a process 100 times a second from outside (it needs the right to trace: root, or
a system that lets a user trace his own processes). Only threads of Python that run or are ready to
run are counted; what the Pulsar client's own threads cost is the rest of the component's CPU time.
The broker is a JVM: for it the CPU time of its threads, by name, is given.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.cpu import thread_seconds

RATE_HZ: Final = 100
TOP: Final = 20
FINISH_TIMEOUT_S: Final = 60.0


class FrameShare(NamedTuple):
    """A function's share of a component's samples: by itself, and with all that it called."""

    frame: str
    own: float
    total: float


class Profile(NamedTuple):
    """Of one component; `note` says what was sampled, or why nothing could be."""

    shares: list[FrameShare]
    note: str


class Profiler:
    """Samples from `start` for `seconds`; `results` waits for the end.

    Args:
        processes: component -> pids of Python processes.
        broker: pid of the broker's JVM.
    """

    def __init__(
        self, processes: Mapping[str, Sequence[int]], broker: int | None, seconds: float
    ) -> None:
        self._processes = processes
        self._broker = broker
        self._seconds = seconds
        self._running: list[tuple[str, Path, subprocess.Popen[str]]] = []
        self._threads: dict[str, float] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="dds-profile-"))

    def start(self) -> None:
        """Attach to every process."""
        if self._broker is not None:
            self._threads = thread_seconds(self._broker)
        program = Path(sys.executable).parent / "py-spy"
        for component, pids in self._processes.items():
            for pid in pids:
                target = self._folder / f"{component}-{pid}.txt"
                # Stopping a process to look at it would slow it down and, woken again, make its
                # idle threads look busy; the few torn stacks that come instead are left out.
                command = [str(program), "record", "--nonblocking", "--pid", str(pid)]
                command += ["--format", "raw"]
                command += ["--rate", str(RATE_HZ), "--duration", f"{self._seconds:.0f}"]
                command += ["--output", str(target)]
                process = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
                )
                self._running.append((component, target, process))

    def results(self) -> dict[str, Profile]:
        """Component -> where its time went."""
        lines: dict[str, list[str]] = {name: [] for name in self._processes}
        notes: dict[str, str] = {}
        for component, target, process in self._running:
            try:
                _, said = process.communicate(timeout=FINISH_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                _, said = process.communicate()
            if target.exists():
                lines[component] += target.read_text().splitlines()
            else:
                last = (said.strip().splitlines() or ["it said nothing"])[-1]
                notes[component] = f"py-spy could not sample it: {last}"
        shutil.rmtree(self._folder)
        profiles = {}
        for component, stacks in lines.items():
            shares, samples = frame_shares(stacks)
            note = f"{samples} samples in {self._seconds:.0f} s at {RATE_HZ} Hz"
            profiles[component] = Profile(shares[:TOP], notes.get(component, note))
        if self._broker is not None:
            profiles["broker"] = self._of_broker(self._broker)
        return profiles

    def _of_broker(self, pid: int) -> Profile:
        now = thread_seconds(pid)
        spent = {name: now[name] - self._threads.get(name, 0.0) for name in now}
        whole = sum(spent.values()) or 1.0
        shares = [
            FrameShare(f"threads {name}", seconds / whole, seconds / whole)
            for name, seconds in sorted(spent.items(), key=lambda item: -item[1])
        ]
        return Profile(shares[:TOP], f"{whole:.1f} CPU seconds, by name of thread")


def frame_shares(lines: Iterable[str]) -> tuple[list[FrameShare], int]:
    """Shares by function, the greatest own share first, and the number of samples.

    Args:
        lines: py-spy's raw form: frames from the outermost to the innermost, separated by `;`,
            then a blank and how often this stack was seen.

    >>> frame_shares(["run (a.py:1);work (a.py:9) 3", "run (a.py:2) 1"])
    ([FrameShare(frame='work (a.py)', own=0.75, total=0.75), FrameShare(frame='run (a.py)', \
own=0.25, total=1.0)], 4)
    """
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in lines:
        stack, _, times = line.rpartition(" ")
        frames = [_function(frame) for frame in stack.split(";") if frame]
        if not frames:
            continue
        own[frames[-1]] += int(times)
        for frame in set(frames):
            total[frame] += int(times)
    samples = own.total()
    shares = [FrameShare(name, own[name] / samples, total[name] / samples) for name in total]
    return sorted(shares, key=lambda share: (-share.own, -share.total)), samples


def _function(frame: str) -> str:
    """`name (file:line)` without the line: a function is one row of the table."""
    name, _, place = frame.rpartition(" (")
    return f"{name} ({place.rpartition(':')[0] or place.rstrip(')')})"
