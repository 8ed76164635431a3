"""Background processes of a stack: start them detached, know them again, end them.

A process is known by its pid *and* its start time, so a recycled pid is never killed. Every
process started here carries `DDS_STACK_PROCESS=<home>` in its environment, and hands it to its
children: that is how `leftovers` finds what a killed `up` or a killed broker left behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "DDS_STACK_PROCESS"
"""Name of the environment variable that marks every process of a stack with the stack's home."""

_START_TIME_TOLERANCE_S = 0.05
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    created_at_s: float

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The identity of a living process, or None."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def process(self) -> psutil.Process | None:
        """The process when it still lives (a zombie does not), or None."""
        process = self._living()
        if process is None:
            _reap(self.pid)
        return process

    def _living(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            if abs(process.create_time() - self.created_at_s) > _START_TIME_TOLERANCE_S:
                return None
        except psutil.Error:
            return None
        return process

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return self.process() is not None

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to this very process; False when it no longer lives."""
        process = self.process()
        if process is None:
            return False
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            return False
        return True

    def listening_ports(self) -> set[int]:
        """The TCP ports that this very process accepts connections on."""
        process = self.process()
        if process is None:
            return set()
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            return set()
        return {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the process; False when it still lives after `timeout_s`."""
        return wait_until(lambda: not self.alive, timeout_s)


def spawn(
    command: Sequence[str],
    *,
    home: Path,
    log: Path,
    environment: Mapping[str, str],
    cwd: Path,
    user: int | None = None,
    group: int | None = None,
) -> Identity:
    """Start a process in a session of its own that outlives the caller; output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**environment, MARK: str(home)},
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=[] if user is not None else None,
        )
    _CHILDREN[child.pid] = child
    identity = Identity.of(child.pid)
    # A child that is not reaped keeps its entry, so its start time can be read even when it
    # ended at once.
    return identity if identity is not None else Identity(child.pid, time.time())


def _reap(pid: int) -> None:
    """Let go of a child of ours that has ended, so that its pid is free."""
    child = _CHILDREN.get(pid)
    if child is not None and child.poll() is not None:
        del _CHILDREN[pid]


def terminate(identity: Identity, *, grace_s: float, first: signal.Signals) -> bool:
    """End a process: `first`, then SIGKILL after `grace_s`. True when it ended by itself."""
    if not identity.signal(first):
        return True
    if identity.wait(grace_s):
        return True
    identity.signal(signal.SIGKILL)
    identity.wait(10)
    return False


def leftovers(home: Path) -> list[psutil.Process]:
    """Every living process of the stack below `home`, known by its mark or its command line.

    The command line counts only for Pulsar's Python instances and servers, which name files
    below the home in it: a pager or an editor on a log file is not a process of the stack.
    """
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        if process.pid in spared:
            continue
        try:
            if process.status() != psutil.STATUS_ZOMBIE and _belongs(process, home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def end_all(processes: Iterable[psutil.Process], *, grace_s: float = 5.0) -> None:
    """End processes: SIGTERM, then SIGKILL for those that remain after `grace_s`."""
    remaining = list(processes)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in remaining:
            _send(process, number)
        remaining = _survivors(remaining, grace_s)


def _survivors(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    wait_until(lambda: not any(map(is_alive, processes)), timeout_s)
    return [process for process in processes if is_alive(process)]


def is_alive(process: psutil.Process) -> bool:
    """Whether the process still runs. A zombie does not, though its pid exists."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(
    condition: Callable[[], bool], timeout_s: float, *, interval_s: float = 0.05
) -> bool:
    """Poll `condition` until it holds; False when `timeout_s` has passed without."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval_s)
    return True


def _belongs(process: psutil.Process, home: Path) -> bool:
    try:
        if process.environ().get(MARK) == str(home):
            return True
    except psutil.AccessDenied:
        pass
    command = process.cmdline()
    below = f"{home}{os.sep}"
    runs_server = any(
        part.endswith(("python_instance_main.py", "PulsarStandaloneStarter")) for part in command
    ) or (bool(command) and Path(command[0]).name == "postgres")
    return runs_server and any(below in part for part in command)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)
