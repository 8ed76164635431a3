"""CPU and disk counters look at real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cpu import CpuMeter, thread_seconds, written_bytes


def test_work_is_counted_for_the_component_that_did_it() -> None:
    idle = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        meter = CpuMeter({"worker": [os.getpid()], "idle": [idle.pid], "absent": []})
        meter.start()
        before = os.times()
        while os.times().user - before.user < 0.2:
            sum(range(10_000))
        found = meter.stop()
    finally:
        idle.communicate()
    assert set(found) == {"worker", "idle"}
    assert found["worker"] >= 0.15


@pytest.mark.skipif(sys.platform != "linux", reason="thread names come from /proc")
def test_threads_are_counted_by_name_without_their_numbers() -> None:
    assert sum(thread_seconds(os.getpid()).values()) > 0
    assert not any(name[-1].isdigit() for name in thread_seconds(os.getpid()))


@pytest.mark.skipif(sys.platform != "linux", reason="only some systems count a process's writes")
def test_what_is_written_to_disk_is_counted(tmp_path: Path) -> None:
    before = written_bytes(os.getpid())
    with (tmp_path / "file").open("wb") as file:
        file.write(b"x" * 1_000_000)
        file.flush()
        os.fsync(file.fileno())
    assert written_bytes(os.getpid()) >= before
