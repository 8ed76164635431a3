"""A process is only touched when it is the very process that was started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from scripts.devstack.processes import (
    MARK,
    Identity,
    end_all,
    leftovers,
    spawn,
    terminate,
    wait_until,
)

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
DEAF_CODE = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""
DEAF = [sys.executable, "-c", DEAF_CODE]


def start(home: Path, command: list[str]) -> Identity:
    return spawn(
        command, home=home, log=home / "logs" / "x.log", environment=dict(os.environ), cwd=home
    )


def test_a_spawned_process_leads_a_session_of_its_own(tmp_path: Path) -> None:
    identity = start(tmp_path, SLEEP)
    try:
        assert identity.alive
        assert os.getsid(identity.pid) == identity.pid
    finally:
        terminate(identity, grace_s=5, first=signal.SIGKILL)


def test_a_recycled_pid_is_neither_alive_nor_signalled(tmp_path: Path) -> None:
    identity = start(tmp_path, SLEEP)
    stranger = Identity(identity.pid, identity.created_at_s - 1000)
    try:
        assert not stranger.alive
        assert not stranger.signal(signal.SIGKILL)
        assert identity.alive
    finally:
        terminate(identity, grace_s=5, first=signal.SIGKILL)


def test_a_killed_child_is_not_alive_although_nobody_waited_for_it(tmp_path: Path) -> None:
    identity = start(tmp_path, SLEEP)
    identity.signal(signal.SIGKILL)
    assert identity.wait(5)
    assert Identity.of(identity.pid) is None


def test_a_process_that_ignores_the_first_signal_is_killed(tmp_path: Path) -> None:
    identity = start(tmp_path, DEAF)
    log = tmp_path / "logs" / "x.log"
    assert wait_until(lambda: "deaf" in log.read_text(), 10)
    assert not terminate(identity, grace_s=0.5, first=signal.SIGTERM)
    assert not identity.alive


def test_leftovers_finds_marked_processes_of_this_home_only(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.mkdir()
    other.mkdir()
    first, second = start(ours, SLEEP), start(other, SLEEP)
    try:
        assert wait_until(lambda: [p.pid for p in leftovers(ours)] == [first.pid], 5)
        end_all(leftovers(ours))
        assert leftovers(ours) == []
        assert second.alive
    finally:
        for identity in (first, second):
            terminate(identity, grace_s=5, first=signal.SIGKILL)


def test_leftovers_ignores_programs_that_only_name_the_home(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    with subprocess.Popen([*SLEEP, f"{tmp_path}/logs/pulsar.log"], env=environment) as reader:
        try:
            assert leftovers(tmp_path) == []
        finally:
            reader.kill()
