"""`computing`: computed columns of quotes and trades, on one core.

The frames are those of `formats`. `mid` and `notional` are what a view usually computes; the values
of `all_digits` use every digit, so that they leave 64 bits and are computed in Python's integers.
Measured in processor time, transformation alone: no format is written.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

import pyarrow as pa

from benchmarks.figures import Measured, Sample
from benchmarks.formats import measured_on_frames
from marketdata.transformations import Transformation

SUMMARY = "computed columns of a view on one core"

_MID: Final = "(bid_price + ask_price) / 2"
_NOTIONAL: Final = "round(price * size, 2)"
_VIEWS: Final = {
    "mid": {"mid": _MID},
    "notional": {"notional": _NOTIONAL},
    "mid_and_notional": {"mid": _MID, "notional": _NOTIONAL},
    "text": {"text": "CASE WHEN side = 'buy' THEN upper(venue) ELSE 'other' END"},
    "all_digits": {"value": "round((price + 0.000000001) * (size + 0.00000001), 2)"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--seconds", type=float, default=2.0, help="of each view (default 2)")
    parser.add_argument("--instruments", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=8192, help="events in a frame (default 8192)")


def measure(options: argparse.Namespace) -> Measured:
    """Run it `options.runs` times."""
    return measured_on_frames(
        options,
        [partial(_run, name, Transformation(compute=compute)) for name, compute in _VIEWS.items()],
    )


def _run(
    name: str, transformation: Transformation, frames: Sequence[pa.RecordBatch], seconds: float
) -> dict[str, Sample]:
    trees = transformation.compiled()
    for frame in frames:
        transformation.apply(frame, trees)
    events = 0
    started = time.process_time()
    while time.process_time() < started + seconds:
        for frame in frames:
            transformation.apply(frame, trees)
            events += frame.num_rows
    taken = time.process_time() - started
    return {f"{name}_cpu_s_per_million_events": Sample(taken / events * 1e6, "s")}
