"""`sequencing`: the pure operator that numbers events, alone on one core.

Measured: `InstrumentSequences.assign` and the making of the sequenced batch, over frames as they
come from the wire (dictionaries hold only what occurs in the frame). Not measured: decoding,
encoding, Pulsar.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from benchmarks.figures import Sample
from benchmarks.pool import Pool
from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.frames import frame_kind

SUMMARY = "the sequencing operator on one core, 10,000 instruments"
WARM_UP_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run (default 3)")
    parser.add_argument("--instruments", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=8192, help="events in a frame (default 8192)")


def measure(options: argparse.Namespace) -> tuple[list[dict[str, Sample]], dict[str, Any]]:
    """Run it `options.runs` times."""
    core = _pin_to_one_core()
    pool = iter(
        Pool(
            "bench",
            events=100 * options.rows,
            batch_rows=options.rows,
            instruments=options.instruments,
            views=1,
        )
    )
    frames = [(batch, frame_kind(batch)) for batch, _ in (next(pool) for _ in range(100))]
    _run(frames, WARM_UP_S)
    runs = [_run(frames, options.seconds) for _ in range(options.runs)]
    return runs, {
        "seconds": options.seconds,
        "instruments": options.instruments,
        "rows_per_frame": options.rows,
        "core": core,
    }


def _run(frames: list[tuple[Any, str]], seconds: float) -> dict[str, Sample]:
    sequences = InstrumentSequences()
    events = 0
    assigned_ns = 0
    started_cpu = time.process_time()
    started = time.perf_counter()
    while time.perf_counter() < started + seconds:
        for batch, kind in frames:
            before = time.perf_counter_ns()
            numbers = sequences.assign(batch)
            assigned_ns += time.perf_counter_ns() - before
            with_sequences(batch, kind, numbers, epoch=1, ts_sequenced_ns=0)
            events += batch.num_rows
    elapsed = time.perf_counter() - started
    cpu = time.process_time() - started_cpu
    return {
        "events_per_second": Sample(events / elapsed, "events/s"),
        "events_per_cpu_second": Sample(events / cpu, "events/CPU s"),
        "assign_only_events_per_second": Sample(events / (assigned_ns / 1e9), "events/s"),
    }


def _pin_to_one_core() -> str:
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned"
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return str(core)
