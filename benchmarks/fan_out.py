"""`fan-out`: many views of which few are read, at a stated rate, on the real stack.

View v of N wants every Nth instrument: together they cover every event once, so that what is
delivered is as much as with one view, in many more and smaller messages. All of them are routed,
rendered and stored; a consumer reads and checks the first `--read` of them. What is measured, and
how, is as in `latency`.
"""

from __future__ import annotations

import argparse

from benchmarks import latency
from benchmarks.end_to_end import add_pace_arguments, add_profile_argument
from benchmarks.figures import BenchmarkFailed, Measured
from benchmarks.rig import add_rig_arguments

SUMMARY = "many views of which few are read: whether a rate is kept, and latency"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_rig_arguments(parser, views=1_000, instruments=10_000)
    parser.add_argument("--read", type=int, default=32, help="views that are read (default 32)")
    parser.add_argument("--rate", type=float, default=250_000.0, help="events/s (default 250,000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run (default 30)")
    add_pace_arguments(parser)
    add_profile_argument(parser)


def measure(options: argparse.Namespace) -> Measured:
    """Run it `options.runs` times on one stack."""
    if not 1 <= options.read <= options.views:
        raise BenchmarkFailed(f"--read is from 1 to the number of views, {options.views}")
    options.one_at_a_time = False
    return latency.measure(options)
