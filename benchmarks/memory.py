"""`memory`: what the function instances hold over time, on the real stack.

By default 10,000 instruments and 1,000 views at a moderate rate for 30 minutes. Every few seconds
the resident set (RSS) of each instance and its unique part (USS, without pages shared with other
processes) are read. Whether they are flat is judged on what follows the warm-up: by the slope of a
least-squares line, and by the medians of the first and the last third.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import numpy as np
import psutil

from benchmarks.end_to_end import latency_samples, rows_of_tick
from benchmarks.figures import BenchmarkFailed, Measured, Sample
from benchmarks.plotting import Panel
from benchmarks.rig import FUNCTIONS, Load, add_rig_arguments, bench_stack, rig_on, rig_settings
from scripts.devstack.stack import Stack

SUMMARY = "memory of the function instances over time, 10,000 instruments and 1,000 views"
MB: Final = 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_rig_arguments(parser, views=1_000, instruments=10_000)
    parser.set_defaults(runs=1)
    parser.add_argument("--minutes", type=float, default=30.0, help="of load (default 30)")
    parser.add_argument(
        "--warm-up-minutes",
        type=float,
        default=5.0,
        help="left out when flatness is judged; a sixth of the time at most (default 5)",
    )
    parser.add_argument("--every-s", type=float, default=5.0, help="a sample (default 5)")
    parser.add_argument("--rate", type=float, default=2_000.0, help="events/s (default 2,000)")
    parser.add_argument(
        "--tick-ms", type=float, default=100.0, help="pace of publish calls (default 100)"
    )


@dataclass(slots=True)
class Course:
    """Memory of one instance over time.

    Attributes:
        at_s: seconds since the begin of the load.
        rss_mb, uss_mb: at that time, in millions of bytes.
    """

    at_s: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    uss_mb: list[float] = field(default_factory=list)


def measure(options: argparse.Namespace) -> Measured:
    """Run it `options.runs` times on one stack."""
    runs = []
    panels = []
    with bench_stack(options) as stack:
        started = time.monotonic()
        with rig_on(stack, options) as rig:
            ready_s = time.monotonic() - started
            print(f"{options.views:,} views are in force after {ready_s:.0f} s", file=sys.stderr)
            for number in range(1, options.runs + 1):
                courses: dict[str, Course] = defaultdict(Course)
                load = rig.load(
                    seconds=60 * options.minutes,
                    max_events=sys.maxsize,
                    batch_rows=rows_of_tick(options.rate, options),
                    rate=options.rate,
                    during=lambda: watch(stack, 60 * options.minutes, options.every_s, courses),  # noqa: B023 - called at once
                    count_bytes=False,
                )
                runs.append({"setup_s": Sample(ready_s, "s"), **_samples(courses, load, options)})
                panels.append(_panel(number, courses))
    settings = {
        **rig_settings(options),
        "rate": options.rate,
        "minutes": options.minutes,
        "every_s": options.every_s,
    }
    return Measured(runs, settings, panels)


def watch(stack: Stack, seconds: float, every_s: float, courses: dict[str, Course]) -> None:
    """Sample until `seconds` are over; an instance is named by its function and its number."""
    instances = {
        f"{function}_{number}": psutil.Process(pid)
        for function in FUNCTIONS
        for number, pid in enumerate(stack.function_pids(function))
    }
    started = time.monotonic()
    while (now_s := time.monotonic() - started) < seconds:
        for name, process in instances.items():
            try:
                found = process.memory_full_info()
            except psutil.NoSuchProcess as error:
                raise BenchmarkFailed(f"instance {name} ended; see its log") from error
            course = courses[name]
            course.at_s.append(now_s)
            course.rss_mb.append(found.rss / MB)
            course.uss_mb.append(found.uss / MB)
        time.sleep(every_s)


@dataclass(frozen=True, slots=True)
class Trend:
    """How a value behaves over time.

    Attributes:
        per_hour: slope of the least-squares line.
        first, last: medians of the first and the last third of the samples.
    """

    per_hour: float
    first: float
    last: float


def trend(at_s: list[float], values: list[float], *, after_s: float) -> Trend:
    """The trend of the samples from `after_s` on.

    >>> trend([0.0, 3600.0, 7200.0, 10800.0], [99.0, 1.0, 3.0, 5.0], after_s=1.0)
    Trend(per_hour=2.0, first=1.0, last=5.0)
    """
    kept = [(at, value) for at, value in zip(at_s, values, strict=True) if at >= after_s]
    if len(kept) < 3:
        raise BenchmarkFailed("too few samples to judge a trend: give more --minutes")
    times, after = np.array([at for at, _ in kept]), [value for _, value in kept]
    slope = float(np.polyfit(times - times[0], np.array(after), 1)[0])
    third = max(1, len(after) // 3)
    return Trend(round(slope * 3600, 6), median(after[:third]), median(after[-third:]))


def _samples(
    courses: dict[str, Course], load: Load, options: argparse.Namespace
) -> dict[str, Sample]:
    warm_up_s = 60 * min(options.warm_up_minutes, options.minutes / 6)
    found: dict[str, Sample] = {}
    for name, course in courses.items():
        resident = trend(course.at_s, course.rss_mb, after_s=warm_up_s)
        found |= {
            f"{name}_rss_max_mb": Sample(max(course.rss_mb), "MB"),
            f"{name}_uss_max_mb": Sample(max(course.uss_mb), "MB"),
            f"{name}_rss_mb_per_hour": Sample(resident.per_hour, "MB/h"),
            f"{name}_rss_first_third_mb": Sample(resident.first, "MB"),
            f"{name}_rss_last_third_mb": Sample(resident.last, "MB"),
        }
    return {
        "instance_rss_max_mb": Sample(max(max(c.rss_mb) for c in courses.values()), "MB"),
        **found,
        **latency_samples(load),
    }


def _panel(number: int, courses: dict[str, Course]) -> Panel:
    lines = {}
    for name, course in courses.items():
        minutes = [at / 60 for at in course.at_s]
        lines[f"{name} RSS"] = (minutes, course.rss_mb)
        lines[f"{name} USS"] = (minutes, course.uss_mb)
    return Panel(f"memory, run {number}", "minutes", "MB", lines)
