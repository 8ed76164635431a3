"""`lanes`: the latency of a view of high priority while the views of others have too much to do.

The same events at the same rate, three times: the watched view alone; with a flood of others in the
usual lane, and a function of its own; and with the flood, in the usual lane itself. The flood is
views that each get every event as JSON, and that nobody reads. Open loop, as in `latency`. What is
to be read is the ratio of the p99 with and without the flood, on one machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import yaml

from benchmarks.end_to_end import add_pace_arguments, rows_of_tick
from benchmarks.figures import Measured, Sample
from benchmarks.rig import add_rig_arguments, bench_stack, rig_on, rig_settings
from benchmarks.subscriptions import requested
from marketdata.plans import USUAL_PRIORITY
from scripts.devstack.component import CHECKOUT
from scripts.devstack.stack import Stack

SUMMARY = "latency of a high priority's view beside a flood of others, with and without a lane"
HIGH: Final = 3
WARM_UP_S: Final = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_rig_arguments(parser, views=1, instruments=100)
    parser.add_argument("--rate", type=float, default=10_000.0, help="events/s (default 10,000)")
    parser.add_argument("--flood", type=int, default=16, help="other views (default 16)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load (default 20)")
    add_pace_arguments(parser)


def measure(options: argparse.Namespace) -> Measured:
    """The three loads, `options.runs` times on one stack."""
    runs = []
    with _topology(), bench_stack(options) as stack:
        for number in range(1, options.runs + 1):
            alone = _p99_ms(stack, options, HIGH, flood=0)
            beside = _p99_ms(stack, options, HIGH, flood=options.flood)
            among = _p99_ms(stack, options, USUAL_PRIORITY, flood=options.flood)
            told = f"p99 alone {alone:.1f}, own lane {beside:.1f}, usual lane {among:.1f} ms"
            print(f"run {number} of {options.runs}: {told}", file=sys.stderr)
            runs.append(
                {
                    "p99_alone_ms": Sample(alone, "ms"),
                    "p99_own_lane_ms": Sample(beside, "ms"),
                    "p99_usual_lane_ms": Sample(among, "ms"),
                    "own_lane_ratio": Sample(beside / alone, "x"),
                    "usual_lane_ratio": Sample(among / alone, "x"),
                }
            )
    settings = {
        **rig_settings(options),
        "rate": options.rate,
        "seconds": options.seconds,
        "flood": options.flood,
    }
    return Measured(runs, settings)


@contextmanager
def _topology() -> Iterator[None]:
    """The project's topology with one more function, of one instance, for the highest priority."""
    example = yaml.safe_load((CHECKOUT / "docs/examples/lanes/lanes.yaml").read_text())
    functions = {
        name: {**one, "parallelism": 1}
        for name, one in example["functions"].items()
        if one["lane"] == f"priority-{HIGH}"
    }
    before = os.environ.get("DDS_TOPOLOGY_DIR")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(CHECKOUT / "topology", folder, dirs_exist_ok=True)
        (Path(folder) / "lanes.yaml").write_text(yaml.safe_dump({"functions": functions}))
        os.environ["DDS_TOPOLOGY_DIR"] = folder
        try:
            yield
        finally:
            os.environ.pop("DDS_TOPOLOGY_DIR")
            if before is not None:
                os.environ["DDS_TOPOLOGY_DIR"] = before


def _p99_ms(stack: Stack, options: argparse.Namespace, priority: int, *, flood: int) -> float:
    """Of the watched views' events; those of the flood are not read."""
    others = [
        {"name": f"flood-{number}", "filter": f"sequence > {number}", "format": "json"}
        for number in range(flood)
    ]
    with ExitStack() as parts:
        if others:
            parts.enter_context(requested(stack.control_plane_url, others))
        rig = parts.enter_context(rig_on(stack, options, priority=priority))
        load = None
        for seconds in (WARM_UP_S, options.seconds):
            load = rig.load(
                seconds=seconds,
                max_events=sys.maxsize,
                batch_rows=rows_of_tick(options.rate, options),
                rate=options.rate,
                max_delay_ms=options.max_delay_ms,
                count_bytes=False,
            )
        assert load is not None
        return load.latency_ms[1]
