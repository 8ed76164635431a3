"""`sequencing`: the pure operators that number events and check their order, alone on one core.

Measured: the numbers of the instruments, the order of the sources (every event has a source
sequence, all are sound) and the making of the sequenced batch, over frames as they come from the
wire (of one partition each, dictionaries hold only what occurs in the frame), with a state for each
partition as an instance has it. Not measured: decoding, encoding, Pulsar.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.figures import Measured, Sample
from benchmarks.pool import Pool, instrument_names
from functions.operators.sequence import with_sequences
from functions.operators.state import PartitionState
from marketdata.arrays import array_of, codes_of, values_of
from marketdata.frames import frame_kind

SUMMARY = "sequencing with its check of source order on one core, 10,000 instruments"
WARM_UP_S = 0.5
FRAMES = 100


class Frame(NamedTuple):
    """A decoded frame of one partition."""

    partition: int
    batch: pa.RecordBatch
    kind: str
    step: npt.NDArray[np.uint64]

    def turned(self, turn: int) -> pa.RecordBatch:
        """The frame as it comes the next time round, its source sequences going on."""
        index = self.batch.schema.get_field_index("source_sequence")
        numbers = values_of(self.batch.column(index), np.uint64) + self.step * np.uint64(turn)
        field = self.batch.schema.field(index)
        return self.batch.set_column(index, field, array_of(numbers, pa.uint64()))


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
    steps = [_events_a_round(batches) for batches in of_partition]
    return [
        Frame(partition, batch, frame_kind(batch), step)
        for turn in range(turns)
        for partition in range(partitions)
        for batch, step in [(of_partition[partition][turn], steps[partition][turn])]
    ]


def _events_a_round(batches: list[pa.RecordBatch]) -> list[npt.NDArray[np.uint64]]:
    """For each row of each batch, how many events of its instrument all batches hold together."""
    total: Counter[str] = Counter()
    for batch in batches:
        total.update(batch.column("instrument").to_pylist())
    steps = []
    for batch in batches:
        column = batch.column("instrument")
        by_code = np.array([total[name] for name in column.dictionary.to_pylist()], np.uint64)
        steps.append(by_code[codes_of(column)])
    return steps


def _run(frames: list[Frame], seconds: float) -> dict[str, Sample]:
    states = {frame.partition: PartitionState() for frame in frames}
    events = turn = findings = 0
    elapsed_ns = cpu_ns = order_ns = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for frame in frames:
            batch = frame.turned(turn)
            state = states[frame.partition]
            started_cpu, started = time.process_time_ns(), time.perf_counter_ns()
            grouped = state.sequences.group(batch)
            numbers = state.sequences.assign(batch, grouped)
            before_order = time.perf_counter_ns()
            found = state.order.observe(state.order.compare(batch, grouped), turn)
            order_ns += time.perf_counter_ns() - before_order
            with_sequences(batch, frame.kind, numbers, epoch=1, ts_sequenced_ns=0)
            elapsed_ns += time.perf_counter_ns() - started
            cpu_ns += time.process_time_ns() - started_cpu
            events += batch.num_rows
            findings += len(found.findings)
        turn += 1
    if findings:
        raise AssertionError(f"{findings} findings in frames that are in order")
    return {
        "events_per_second": Sample(events / elapsed_ns * 1e9, "events/s"),
        "events_per_cpu_second": Sample(events / cpu_ns * 1e9, "events/CPU s"),
        "source_order_us_per_frame": Sample(
            order_ns / 1e3 * frames[0].batch.num_rows / events, "µs"
        ),
    }


def _pin_to_one_core() -> str:
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned"
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return str(core)
