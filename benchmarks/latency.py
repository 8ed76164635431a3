"""`latency`: from `publish` to receipt by the consumer, at a stated rate, on the real stack.

Paced in an open loop: publish calls are due at fixed times whatever the system does, and latency
counts from the time at which a call was due, so a stall counts for every event that it held up
(no coordinated omission). It ends when the consumer's client hands the message over. All events
count, to within 10 µs. `--one-at-a-time` sends one event every 10 ms through an idle system.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.end_to_end import (
    PROFILE_S,
    add_pace_arguments,
    add_profile_argument,
    cost_samples,
    cpu_panel,
    latency_panel,
    latency_samples,
    rows_of_tick,
    throughput_panel,
    warn_below_rate,
)
from benchmarks.figures import Measured
from benchmarks.profiling import Profile
from benchmarks.rig import Load, Rig, add_rig_arguments, bench_stack, rig_on, rig_settings

SUMMARY = "latency from publisher to consumer at a stated rate"
FULL_SPEED_WARM_UP_S = 15.0
WARM_UP_S = 30.0
"""At the rate itself, after the broker's JVM has compiled what is hot at full speed."""

ONE_AT_A_TIME_RATE = 100.0
FULL_SPEED_ROWS = 32_768


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_rig_arguments(parser, views=16)
    parser.add_argument("--rate", type=float, default=100_000.0, help="events/s (default 100,000)")
    parser.add_argument(
        "--one-at-a-time",
        action="store_true",
        help="one event every 10 ms, whatever --rate and --tick-ms say",
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run (default 30)")
    add_pace_arguments(parser)
    add_profile_argument(parser)


def measure(options: argparse.Namespace) -> Measured:
    """Run it `options.runs` times on one stack."""
    if options.one_at_a_time:
        options.rate, options.tick_ms = ONE_AT_A_TIME_RATE, 10.0
    loads = []
    profiles: dict[str, Profile] = {}
    with bench_stack(options) as stack, rig_on(stack, options) as rig:
        rig.load(seconds=FULL_SPEED_WARM_UP_S, max_events=sys.maxsize, batch_rows=FULL_SPEED_ROWS)
        _at_rate(rig, options, WARM_UP_S)
        for number in range(1, options.runs + 1):
            load = _at_rate(rig, options, options.seconds)
            warn_below_rate(load, options.rate)
            p50, p99, *_ = load.latency_ms
            print(
                f"run {number} of {options.runs}: p50 {p50:.1f} p99 {p99:.1f} ms", file=sys.stderr
            )
            loads.append(load)
        if options.profile:
            profiles = _at_rate(rig, options, PROFILE_S, profile=True).profiles
    settings = {
        **rig_settings(options),
        "rate": options.rate,
        "seconds": options.seconds,
        "tick_ms": options.tick_ms,
        "max_delay_ms": options.max_delay_ms,
    }
    runs = [{**latency_samples(load), **cost_samples(load)} for load in loads]
    panels = [latency_panel(loads), throughput_panel(loads), cpu_panel(loads)]
    return Measured(runs, settings, panels, profiles)


def _at_rate(
    rig: Rig, options: argparse.Namespace, seconds: float, *, profile: bool = False
) -> Load:
    return rig.load(
        seconds=seconds,
        max_events=sys.maxsize,
        batch_rows=rows_of_tick(options.rate, options),
        rate=options.rate,
        max_delay_ms=options.max_delay_ms,
        profile=profile,
    )
