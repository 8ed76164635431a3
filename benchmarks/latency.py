"""`latency`: from `publish` to receipt by the consumer, at a stated rate, on the real stack.

A low rate (for example `--rate 100 --tick-ms 10`) sends one event at a time through an idle system.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks.end_to_end import cost_samples, latency_samples, warn_below_rate
from benchmarks.figures import Sample
from benchmarks.rig import add_rig_arguments, bench_stack, rig_on, rig_settings

SUMMARY = "latency from publisher to consumer at a stated rate"
WARM_UP_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_rig_arguments(parser)
    parser.add_argument("--rate", type=float, default=100_000.0, help="events/s (default 100,000)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each run (default 15)")
    parser.add_argument(
        "--tick-ms", type=float, default=10.0, help="pace of publish calls (default 10)"
    )
    parser.add_argument(
        "--max-delay-ms",
        type=float,
        default=5.0,
        help="how long the publisher may wait for a frame to fill (default 5, the client's own)",
    )


def measure(options: argparse.Namespace) -> tuple[list[dict[str, Sample]], dict[str, Any]]:
    """Run it `options.runs` times on one stack."""
    rows = max(1, round(options.rate / options.publishers * options.tick_ms / 1e3))
    runs = []
    with bench_stack(options) as stack, rig_on(stack, options) as rig:
        for number in range(options.runs + 1):
            load = rig.load(
                seconds=options.seconds if number else WARM_UP_S,
                max_events=sys.maxsize,
                batch_rows=rows,
                rate=options.rate,
                max_delay_ms=options.max_delay_ms,
            )
            if number:
                warn_below_rate(load, options.rate)
                runs.append({**latency_samples(load), **cost_samples(load)})
    return runs, {
        **rig_settings(options),
        "rate": options.rate,
        "seconds": options.seconds,
        "tick_ms": options.tick_ms,
        "max_delay_ms": options.max_delay_ms,
    }
