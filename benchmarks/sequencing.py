"""`sequencing`: the pure operator that numbers events, alone on one core.

Measured: `InstrumentSequences.assign` and the making of the sequenced batch, over frames as they
come from the wire (of one partition each, dictionaries hold only what occurs in the frame), with a
state for each partition as an instance has it. Not measured: decoding, encoding, Pulsar.
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import islice
from typing import NamedTuple

import pyarrow as pa

from benchmarks.figures import Measured, Sample
from benchmarks.pool import Pool, instrument_names
from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.frames import frame_kind

SUMMARY = "the sequencing operator on one core, 10,000 instruments"
WARM_UP_S = 0.5
FRAMES = 100


class Frame(NamedTuple):
    """A decoded frame of one partition."""

    partition: int
    batch: pa.RecordBatch
    kind: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run (default 3)")
    parser.add_argument("--instruments", type=int, default=10_000)
    parser.add_argument("--partitions", type=int, default=4, help="(default 4)")
    parser.add_argument("--rows", type=int, default=8192, help="events in a frame (default 8192)")


def measure(options: argparse.Namespace) -> Measured:
    """Run it `options.runs` times."""
    core = _pin_to_one_core()
    frames = _frames(options.instruments, options.rows, options.partitions)
    _run(frames, WARM_UP_S)
    runs = [_run(frames, options.seconds) for _ in range(options.runs)]
    settings = {
        "seconds": options.seconds,
        "instruments": options.instruments,
        "partitions": options.partitions,
        "rows_per_frame": options.rows,
        "core": core,
    }
    return Measured(runs, settings)


def _frames(instruments: int, rows: int, partitions: int) -> list[Frame]:
    """Frames of `rows` events, partition by partition in turn."""
    turns = -(-FRAMES // partitions)
    of_partition = []
    for partition in range(partitions):
        pool = Pool(
            "bench",
            events=turns * rows,
            batch_rows=rows,
            names=instrument_names(
                -(-instruments // partitions), partition=partition, of=partitions
            ),
            views=1,
        )
        of_partition.append([batch for batch, _ in islice(pool, turns)])
    return [
        Frame(partition, of_partition[partition][turn], frame_kind(of_partition[partition][turn]))
        for turn in range(turns)
        for partition in range(partitions)
    ]


def _run(frames: list[Frame], seconds: float) -> dict[str, Sample]:
    sequences = {frame.partition: InstrumentSequences() for frame in frames}
    events = 0
    assigned_ns = 0
    started_cpu = time.process_time()
    started = time.perf_counter()
    while time.perf_counter() < started + seconds:
        for partition, batch, kind in frames:
            before = time.perf_counter_ns()
            numbers = sequences[partition].assign(batch)
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
