"""Profiles: stacks become shares; a process that cannot be sampled is said to be so."""

import subprocess
import sys

import pytest

from benchmarks.profiling import FrameShare, Profiler, frame_shares

BUSY = """
import time
def spin():
    end = time.monotonic() + 30
    while time.monotonic() < end:
        pass
spin()
"""


def test_shares_count_the_innermost_frame_and_every_frame_once() -> None:
    lines = ["a (x.py:1);b (x.py:2);b (x.py:3) 6", "a (x.py:1);c (y.py:9) 3", "a (x.py:7) 1"]
    shares, samples = frame_shares(lines)
    assert samples == 10
    assert shares == [
        FrameShare("b (x.py)", 0.6, 0.6),
        FrameShare("c (y.py)", 0.3, 0.3),
        FrameShare("a (x.py)", 0.1, 1.0),
    ]


def test_nothing_sampled_is_no_share() -> None:
    assert frame_shares([]) == ([], 0)


def test_a_busy_process_shows_what_it_does_or_why_that_cannot_be_seen() -> None:
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        profiler = Profiler({"busy": [process.pid]}, None, 1.0)
        profiler.start()
        profile = profiler.results()["busy"]
    finally:
        process.kill()
        process.wait()
    if not profile.shares:
        pytest.skip(f"py-spy may not trace here: {profile.note}")
    assert any(share.frame.startswith("spin ") for share in profile.shares)


def test_a_process_that_is_gone_is_named_as_not_sampled() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    profiler = Profiler({"gone": [process.pid]}, None, 1.0)
    profiler.start()
    profile = profiler.results()["gone"]
    assert (profile.shares, "could not sample" in profile.note) == ([], True)
