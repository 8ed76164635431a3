"""`end-to-end`: publish → sequence → route to views → consume and check, on the real stack.

In each run publishers send as fast as they are let; the rate counts from the first publish to the
last receipt, so a backlog that has to be worked off counts against it. Latency at such a load would
only tell how long the queues are: `latency` measures it at a stated rate, and so does a second
phase here when `--latency-rate` is given. In the same run, for comparison: Pulsar's own load
generator, and a Python function with one event a message.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.consuming import CURVE
from benchmarks.figures import Measured, Sample
from benchmarks.per_message import per_message_function
from benchmarks.plotting import Panel
from benchmarks.profiling import Profile
from benchmarks.pulsar_perf import pulsar_perf
from benchmarks.rig import Load, Rig, add_rig_arguments, bench_stack, rig_on, rig_settings
from marketdata.frames import MAX_ROWS

SUMMARY = "throughput from publisher to consumer, beside pulsar-perf"
WARM_UP_S = 45.0
"""The broker's JVM compiles what is hot in the first seconds of load, on the cores that we need."""

PROFILE_S = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_rig_arguments(parser)
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="of publishing in each phase (default 15)"
    )
    parser.add_argument(
        "--max-events", type=int, default=200_000_000, help="in a phase at most (default 200 M)"
    )
    parser.add_argument(
        "--batch-rows",
        type=int,
        default=114_688,
        help="events in a call of publish, at full speed (default 114688)",
    )
    parser.add_argument(
        "--frame-rows",
        type=int,
        default=MAX_ROWS,
        help=f"events in a frame at most (default {MAX_ROWS}, the most that are allowed)",
    )
    add_pace_arguments(parser)
    parser.add_argument(
        "--latency-rate",
        type=float,
        default=0.0,
        help="events/s of a second phase that measures latency (default 0: no such phase)",
    )
    parser.add_argument(
        "--perf-seconds", type=float, default=40.0, help="of pulsar-perf (default 40)"
    )
    parser.add_argument(
        "--per-message-events",
        type=int,
        default=60_000,
        help="through the one-event-per-message function (default 60,000)",
    )
    parser.add_argument("--no-comparison", action="store_true", help="only the service itself")
    add_profile_argument(parser)


def add_pace_arguments(parser: argparse.ArgumentParser) -> None:
    """How events are paced where latency is measured."""
    parser.add_argument(
        "--tick-ms",
        type=float,
        default=10.0,
        help="pace of publish calls when measuring latency (default 10)",
    )
    parser.add_argument(
        "--max-delay-ms",
        type=float,
        default=25.0,
        help="how long the publisher may wait for a frame to fill (default 25, the client's own)",
    )


def add_profile_argument(parser: argparse.ArgumentParser) -> None:
    """Whether to sample the processes."""
    parser.add_argument(
        "--profile",
        action="store_true",
        help="sample every Python process with py-spy in a further run that does not count",
    )


def measure(options: argparse.Namespace) -> Measured:
    """Run it `options.runs` times on one stack."""
    runs, loads = [], []
    profiles: dict[str, Profile] = {}
    with bench_stack(options) as stack:
        with rig_on(stack, options) as rig:
            _full_speed(rig, options, WARM_UP_S)
        for number in range(1, options.runs + 1):
            with rig_on(stack, options) as rig:
                load = _full_speed(rig, options, options.seconds)
                found = _service(rig, load, options)
            if not options.no_comparison:
                found |= pulsar_perf(stack, options.perf_seconds)
                found |= per_message_function(stack, options.per_message_events)
                found |= _ratios(found)
            runs.append(found)
            loads.append(load)
            rate = found["events_per_second"].value
            print(f"run {number} of {options.runs}: {rate:,.0f} events/s", file=sys.stderr)
        if options.profile:
            with rig_on(stack, options) as rig:
                profiles = _full_speed(rig, options, PROFILE_S, profile=True).profiles
    names = ("seconds", "batch_rows", "frame_rows", "max_delay_ms", "latency_rate", "tick_ms")
    settings = {**rig_settings(options), **{name: getattr(options, name) for name in names}}
    panels = [throughput_panel(loads), latency_panel(loads), cpu_panel(loads)]
    return Measured(runs, settings, panels, profiles)


def _service(rig: Rig, full: Load, options: argparse.Namespace) -> dict[str, Sample]:
    found = {"events_per_second": Sample(full.events_per_second, "events/s")}
    if options.latency_rate:
        steady = rig.load(
            seconds=options.seconds,
            max_events=options.max_events,
            batch_rows=rows_of_tick(options.latency_rate, options),
            rate=options.latency_rate,
            frame_rows=options.frame_rows,
            max_delay_ms=options.max_delay_ms,
        )
        warn_below_rate(steady, options.latency_rate)
        found |= latency_samples(steady)
    return found | cost_samples(full)


def _full_speed(
    rig: Rig, options: argparse.Namespace, seconds: float, *, profile: bool = False
) -> Load:
    return rig.load(
        seconds=seconds,
        max_events=options.max_events,
        batch_rows=options.batch_rows,
        frame_rows=options.frame_rows,
        max_delay_ms=options.max_delay_ms,
        profile=profile,
    )


def rows_of_tick(rate: float, options: argparse.Namespace) -> int:
    """Events of one call of `publish`, so that calls come every `tick_ms`."""
    return max(1, round(rate / options.publishers * options.tick_ms / 1e3))


def warn_below_rate(load: Load, rate: float) -> None:
    """Say on standard error that latencies belong to a machine that did not keep up."""
    if load.published_per_second < 0.99 * rate:
        print(
            f"warning: the publishers reached {load.published_per_second:,.0f} of {rate:,.0f}"
            f" events/s, and were late by up to {load.latest_ms:,.0f} ms: the latencies are those"
            " of an overloaded machine",
            file=sys.stderr,
        )


def latency_samples(load: Load) -> dict[str, Sample]:
    """Latencies of a load, with the rate that was in fact published."""
    p50, p99, p999, greatest = load.latency_ms
    return {
        "latency_rate_events_per_second": Sample(load.published_per_second, "events/s"),
        "latency_p50_ms": Sample(p50, "ms"),
        "latency_p99_ms": Sample(p99, "ms"),
        "latency_p999_ms": Sample(p999, "ms"),
        "latency_max_ms": Sample(greatest, "ms"),
        "publish_late_max_ms": Sample(load.latest_ms, "ms"),
        "publish_confirm_p50_ms": Sample(load.confirm_p50_ms, "ms"),
    }


def cost_samples(load: Load) -> dict[str, Sample]:
    """What a load cost: CPU by component, bytes and frames by stage."""
    millions = load.events / 1e6
    published, delivered = load.frames
    bytes_per_event = {
        "ingest_payload": load.payload_bytes[0],
        "delivery_payload": load.payload_bytes[1],
        **{f"{stage}_stored": passed.bytes_in for stage, passed in load.traffic.items()},
        **{f"{stage}_read": passed.bytes_out for stage, passed in load.traffic.items()},
    }
    if load.disk_bytes is not None:
        bytes_per_event["broker_disk"] = load.disk_bytes
    return {
        "events": Sample(load.events, "events"),
        **{
            f"cpu_s_per_million_events_{name}": Sample(seconds / millions, "CPU s")
            for name, seconds in load.cpu_s.items()
        },
        "cpu_s_per_million_events": Sample(sum(load.cpu_s.values()) / millions, "CPU s"),
        **{
            f"{what}_bytes_per_event": Sample(count / load.events, "bytes")
            for what, count in bytes_per_event.items()
        },
        "ingest_events_per_frame": Sample(load.events / published, "events"),
        **{
            f"{stage}_events_per_frame": Sample(load.events / passed.messages_in, "events")
            for stage, passed in load.traffic.items()
            if stage == "log" and passed.messages_in
        },
        "delivery_events_per_frame": Sample(load.events / delivered, "events"),
    }


def throughput_panel(loads: Sequence[Load]) -> Panel:
    """Events received over time, a line a run."""
    return Panel(
        "received and checked",
        "seconds since the first publish",
        "events/s",
        {f"run {number}": load.arrivals for number, load in enumerate(loads, 1)},
    )


def latency_panel(loads: Sequence[Load]) -> Panel:
    """Latency by share of the events, a line a run."""
    shares = [100 * share for share in CURVE]
    return Panel(
        "latency, publish to receipt",
        "percentile of the events",
        "ms",
        {f"run {n}": (shares, load.latency_curve_ms) for n, load in enumerate(loads, 1)},
        log_y=True,
    )


def cpu_panel(loads: Sequence[Load]) -> Panel:
    """CPU by component, a bar a run."""
    components = loads[0].cpu_s if loads else {}
    return Panel(
        "CPU by component",
        "",
        "CPU seconds per million events",
        bars=[f"run {number}" for number in range(1, len(loads) + 1)],
        stacks={
            name: [load.cpu_s[name] / (load.events / 1e6) for load in loads] for name in components
        },
    )


def _ratios(found: dict[str, Sample]) -> dict[str, Sample]:
    rate = found["events_per_second"].value
    return {
        "times_pulsar_perf": Sample(rate / found["pulsar_perf_msgs_per_second"].value, "x"),
        "times_per_message_function": Sample(
            rate / found["per_message_function_events_per_second"].value, "x"
        ),
    }
