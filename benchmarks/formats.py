"""`formats`: encoding frames of every kind that the benchmarks publish, on one core.

The frames are those of the other benchmarks after the sequencer. A format is measured in processor
time, so that what else the machine does is no part of the figure.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

import pyarrow as pa

from benchmarks.figures import Measured, Sample
from benchmarks.pool import Pool, instrument_names
from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.formats import Format, formats, get_format
from marketdata.frames import frame_kind

SUMMARY = "encoding frames in every format on one core"
SEQUENCED_AT_NS = 1_767_225_600_123_456_789


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--seconds", type=float, default=2.0, help="of each format (default 2)")
    parser.add_argument("--instruments", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=8192, help="events in a frame (default 8192)")
    parser.add_argument(
        "--formats", nargs="+", choices=sorted(formats()), default=sorted(formats())
    )


def measure(options: argparse.Namespace) -> Measured:
    """Run it `options.runs` times."""
    return measured_on_frames(
        options, [partial(_run, get_format(name)) for name in options.formats]
    )


def measured_on_frames(
    options: argparse.Namespace,
    tried: Sequence[Callable[[Sequence[pa.RecordBatch], float], dict[str, Sample]]],
) -> Measured:
    """Run all that is tried on the same frames, each `options.seconds`, `options.runs` times."""
    frames = sequenced_frames(options.instruments, options.rows)
    runs: list[dict[str, Sample]] = []
    for _ in range(options.runs):
        run: dict[str, Sample] = {}
        for one in tried:
            run.update(one(frames, options.seconds))
        runs.append(run)
    settings = {
        "seconds": options.seconds,
        "instruments": options.instruments,
        "rows_per_frame": options.rows,
        "kinds": ", ".join(sorted({frame_kind(frame) for frame in frames})),
    }
    return Measured(runs, settings)


def sequenced_frames(instruments: int, rows: int) -> list[pa.RecordBatch]:
    """Twenty frames of quotes and trades as the sequencer writes them."""
    names = instrument_names(instruments)
    pool = iter(Pool("bench", events=20 * rows, batch_rows=rows, names=names, views=1))
    sequences = InstrumentSequences()
    frames = []
    for batch, _ in (next(pool) for _ in range(20)):
        numbers = sequences.assign(batch)
        kind = frame_kind(batch)
        frames.append(
            with_sequences(batch, kind, numbers, epoch=1, ts_sequenced_ns=SEQUENCED_AT_NS)
        )
    return frames


def _run(format_: Format, frames: Sequence[pa.RecordBatch], seconds: float) -> dict[str, Sample]:
    for frame in frames:
        format_.encode(frame)
    events = size = 0
    started = time.process_time()
    while time.process_time() < started + seconds:
        for frame in frames:
            size += len(format_.encode(frame))
            events += frame.num_rows
    taken = time.process_time() - started
    return {
        f"{format_.name}_events_per_second": Sample(events / taken, "events/s"),
        f"{format_.name}_bytes_per_event": Sample(size / events, "B"),
    }
