"""`end-to-end`: publish → sequence → route to views → consume and check, on the real stack.

Every run has two phases. In the first one publishers send as fast as they are let; the rate counts
from the first publish to the last receipt, so a backlog that has to be worked off counts against
it. In the second one they send at a stated, moderate rate, and latency from `publish` to receipt is
measured: in the first it would only tell how long the queues are. In the same run, for comparison:
Pulsar's own load generator, and a Python function with one event a message.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks.figures import Sample
from benchmarks.per_message import per_message_function
from benchmarks.pulsar_perf import pulsar_perf
from benchmarks.rig import Load, Rig, add_rig_arguments, bench_stack, rig_on, rig_settings

SUMMARY = "throughput and latency from publisher to consumer, beside pulsar-perf"
WARM_UP_S = 30.0
"""The broker's JVM compiles what is hot in the first seconds of load, on the cores that we need."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_rig_arguments(parser)
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="of publishing in each phase (default 15)"
    )
    parser.add_argument(
        "--max-events", type=int, default=20_000_000, help="in a phase at most (default 100 M)"
    )
    parser.add_argument(
        "--batch-rows",
        type=int,
        default=32_768,
        help="events in a call of publish, at full speed (default 32768)",
    )
    parser.add_argument(
        "--frame-rows", type=int, default=8_192, help="events in a frame at most (default 8192)"
    )
    parser.add_argument(
        "--latency-rate", type=float, default=20_000.0, help="events/s (default 20,000)"
    )
    parser.add_argument(
        "--tick-ms",
        type=float,
        default=25.0,
        help="pace of publish calls when measuring latency (default 25)",
    )
    parser.add_argument(
        "--max-delay-ms",
        type=float,
        default=5.0,
        help="how long the publisher may wait for a frame to fill (default 5, the client's own)",
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


def measure(options: argparse.Namespace) -> tuple[list[dict[str, Sample]], dict[str, Any]]:
    """Run it `options.runs` times on one stack."""
    runs = []
    with bench_stack(options) as stack:
        with rig_on(stack, options) as rig:
            _full_speed(rig, options, WARM_UP_S)
        for number in range(1, options.runs + 1):
            with rig_on(stack, options) as rig:
                found = _service(rig, options)
            if not options.no_comparison:
                found |= pulsar_perf(stack, options.perf_seconds)
                found |= per_message_function(stack, options.per_message_events)
                found |= _ratios(found)
            runs.append(found)
            rate = found["events_per_second"].value
            print(f"run {number} of {options.runs}: {rate:,.0f} events/s", file=sys.stderr)
    names = ("seconds", "batch_rows", "frame_rows", "tick_ms", "max_delay_ms")
    return runs, {**rig_settings(options), **{name: getattr(options, name) for name in names}}


def _service(rig: Rig, options: argparse.Namespace) -> dict[str, Sample]:
    full = _full_speed(rig, options, options.seconds)
    rate = options.latency_rate
    steady = rig.load(
        seconds=options.seconds,
        max_events=options.max_events,
        batch_rows=max(1, round(rate / options.publishers * options.tick_ms / 1e3)),
        rate=rate,
        frame_rows=options.frame_rows,
        max_delay_ms=options.max_delay_ms,
    )
    warn_below_rate(steady, rate)
    return {
        "events_per_second": Sample(full.events_per_second, "events/s"),
        **latency_samples(steady),
        **cost_samples(full),
    }


def _full_speed(rig: Rig, options: argparse.Namespace, seconds: float) -> Load:
    return rig.load(
        seconds=seconds,
        max_events=options.max_events,
        batch_rows=options.batch_rows,
        frame_rows=options.frame_rows,
        max_delay_ms=options.max_delay_ms,
    )


def warn_below_rate(load: Load, rate: float) -> None:
    """Say on standard error that latencies belong to a machine that did not keep up."""
    if load.published_per_second < 0.9 * rate:
        print(
            f"warning: the publishers reached {load.published_per_second:,.0f} of {rate:,.0f}"
            f" events/s, with {load.confirm_p50_ms:,.1f} ms until a frame is confirmed: the"
            " latencies are those of an overloaded machine",
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
        "publish_confirm_p50_ms": Sample(load.confirm_p50_ms, "ms"),
    }


def cost_samples(load: Load) -> dict[str, Sample]:
    """What a load cost: CPU by component, bytes and frames."""
    millions = load.events / 1e6
    ingested, delivered = load.frames
    return {
        "events": Sample(load.events, "events"),
        **{
            f"cpu_s_per_million_events_{name}": Sample(seconds / millions, "CPU s")
            for name, seconds in load.cpu_s.items()
        },
        "cpu_s_per_million_events": Sample(sum(load.cpu_s.values()) / millions, "CPU s"),
        "ingest_bytes_per_event": Sample(load.bytes_per_event[0], "bytes"),
        "delivery_bytes_per_event": Sample(load.bytes_per_event[1], "bytes"),
        "ingest_events_per_frame": Sample(load.events / ingested, "events"),
        "delivery_events_per_frame": Sample(load.events / delivered, "events"),
    }


def _ratios(found: dict[str, Sample]) -> dict[str, Sample]:
    rate = found["events_per_second"].value
    return {
        "times_pulsar_perf": Sample(rate / found["pulsar_perf_msgs_per_second"].value, "x"),
        "times_per_message_function": Sample(
            rate / found["per_message_function_events_per_second"].value, "x"
        ),
    }
