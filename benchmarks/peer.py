"""`peer`: filtering, mapping and conversion beside Redpanda's Benthos, on one core each.

Both read the same NDJSON file of quotes, give each view what its filter passes, as NDJSON or CSV,
with few columns of which one is renamed, and append it to a file a view. What they wrote is
compared, event by event. Benthos is built from its Go module: that needs `go` and, the first time,
the module. Its messages go in batches of 1,024 that are written as one, so that neither side pays
for single writes. A run includes the start of the process; both are told to use one core.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.figures import BenchmarkFailed, Measured, Sample
from benchmarks.formats import sequenced_frames
from benchmarks.pool import instrument_names
from benchmarks.routing import VENUES
from marketdata.filters import compile_filter
from marketdata.formats import get_format
from marketdata.frames import frame_kind
from marketdata.plans import View, ViewSpec, compile_plan, encode_plan, view_of
from marketdata.transformations import Transformation
from scripts.devstack.archive import cache_dir
from scripts.devstack.component import CHECKOUT

SUMMARY = "filter, mapping and conversion beside Benthos, on one core"
INSTRUMENTS: Final = 320
ROWS: Final = 8192
BATCH: Final = 1_024
BOUND: Final = 100
COLUMNS: Final = {"instrument": "symbol", "venue": "venue", "bid_price": "bid_price"}
BUILD_TIMEOUT_S: Final = 900.0
RUN_TIMEOUT_S: Final = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument(
        "--events", type=int, default=500_000, help="at least, of a run (default 500,000)"
    )
    parser.add_argument("--views", type=int, default=16, help="(default 16)")


def measure(options: argparse.Namespace) -> Measured:
    """Run both `options.runs` times, in turns."""
    peer = _built()
    wanted = _views(options.views)
    runs: list[dict[str, Sample]] = []
    with tempfile.TemporaryDirectory(prefix="dds-peer-") as name:
        folder = Path(name)
        events = _write_input(folder / "in.ndjson", options.events)
        (folder / "plan").write_bytes(
            encode_plan(compile_plan(1, [one.spec for one in wanted], created_at_ns=0))
        )
        for _ in range(options.runs):
            ours = _run(_work(folder), folder / "ours", wanted, events)
            theirs = _run(_pipeline(peer, folder, wanted), folder / "benthos", wanted, events)
            delivered = _compare(folder, wanted)
            runs.append(
                {
                    **{f"ours_{key}": value for key, value in ours.items()},
                    **{f"benthos_{key}": value for key, value in theirs.items()},
                    "times_as_fast": Sample(
                        ours["events_per_second"].value / theirs["events_per_second"].value, "x"
                    ),
                    "delivered_events": Sample(delivered, "events"),
                }
            )
    settings = {
        "events": events,
        "views": options.views,
        "instruments": INSTRUMENTS,
        "input": "NDJSON",
        "output": "NDJSON and CSV",
    }
    return Measured(runs, settings)


class _Wanted(NamedTuple):
    """A view in both languages.

    Attributes:
        check: the filter as a Bloblang query.
    """

    spec: ViewSpec
    view: View
    check: str


def _views(views: int) -> list[_Wanted]:
    """Views of equal shares of the instruments, with a term on the price or on the venue."""
    names = instrument_names(INSTRUMENTS)
    transformation = Transformation(
        select=tuple(COLUMNS), rename={k: v for k, v in COLUMNS.items() if k != v}
    ).canonical()
    made = []
    for number in range(views):
        mine = names[number::views]
        sql = f"instrument IN ({', '.join(map(repr, mine))}) AND "
        check = f"{json.dumps(mine)}.contains(this.instrument) && "
        if number % 2:
            two = [VENUES[number % len(VENUES)], VENUES[(number + 3) % len(VENUES)]]
            sql += f"venue IN ({', '.join(map(repr, two))})"
            check += f"{json.dumps(two)}.contains(this.venue)"
        else:
            sql += f"bid_price > {BOUND}"
            check += f"this.bid_price.number(0) > {BOUND}"
        filter_ = compile_filter(sql)
        spec = ViewSpec(
            filter=filter_.canonical,
            predicate=filter_.to_json(),
            transformation=transformation,
            format="csv" if number // 2 % 2 else "json",
        )
        made.append(_Wanted(spec, view_of(spec), check))
    return made


def _write_input(path: Path, least: int) -> int:
    """Write quotes as they are delivered; gives how many."""
    encode = get_format("json").encode
    texts = [
        (encode(frame), frame.num_rows)
        for frame in sequenced_frames(INSTRUMENTS, ROWS)
        if frame_kind(frame) == "quote"
    ]
    events = 0
    with path.open("wb") as file:
        while events < least:
            for text, rows in texts:
                file.write(text)
                events += rows
    return events


def _work(folder: Path) -> Sequence[str]:
    paths = map(str, (folder / "in.ndjson", folder / "plan", folder / "ours"))
    return [sys.executable, "-m", "benchmarks.peer_work", *paths]


def _pipeline(peer: Path, folder: Path, wanted: Sequence[_Wanted]) -> Sequence[str]:
    config = {
        "http": {"enabled": False},
        "logger": {"level": "ERROR"},
        "input": {
            "broker": {
                "inputs": [{"file": {"paths": [str(folder / "in.ndjson")]}}],
                "batching": {"count": BATCH, "period": "1s"},
            }
        },
        "pipeline": {"threads": 1, "processors": []},
        "output": {
            "switch": {
                "cases": [
                    {
                        "check": one.check,
                        "continue": True,
                        "output": {
                            "file": {"path": str(folder / "benthos" / one.view.id)},
                            "processors": [
                                {"mapping": _mapping(one.spec.format)},
                                {"archive": {"format": "lines"}},
                            ],
                        },
                    }
                    for one in wanted
                ]
            }
        },
    }
    path = folder / "pipeline.json"
    path.write_text(json.dumps(config), "utf-8")
    return [str(peer), "-c", str(path)]


def _mapping(format_: str) -> str:
    if format_ == "csv":
        return f'root = [this.kind, {", ".join(f"this.{name}" for name in COLUMNS)}].join(",")'
    parts = [f'"{new}": this.{name}' for name, new in {"kind": "kind", **COLUMNS}.items()]
    return f"root = {{{', '.join(parts)}}}"


def _run(
    command: Sequence[str], output: Path, wanted: Sequence[_Wanted], events: int
) -> dict[str, Sample]:
    """Run one side on one core from nothing."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    for one in wanted:
        (output / one.view.id).touch()
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        env={**os.environ, "GOMAXPROCS": "1", "OMP_NUM_THREADS": "1"},
        preexec_fn=_on_one_core if hasattr(os, "sched_setaffinity") else None,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    taken_s, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise BenchmarkFailed(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    cpu_s = sum(after[2:4]) - sum(before[2:4])
    return {
        "events_per_second": Sample(events / taken_s, "events/s"),
        "cpu_s_per_million_events": Sample(cpu_s / events * 1e6, "s"),
    }


def _on_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _compare(folder: Path, wanted: Sequence[_Wanted]) -> int:
    """Raise unless both wrote the same events in the same order; gives how many."""
    delivered = 0
    for one in wanted:
        ours, theirs = (
            _events(folder / side / one.view.id, one.spec.format) for side in ("ours", "benthos")
        )
        if ours != theirs:
            raise BenchmarkFailed(
                f"the sides differ for {one.spec.filter!r}: {len(ours)} and {len(theirs)} events"
            )
        delivered += len(ours)
    return delivered


def _events(path: Path, format_: str) -> list[Mapping[str, Any]]:
    names = ["kind", *COLUMNS.values()]
    with path.open(newline="", encoding="utf-8") as file:
        if format_ == "json":
            return [json.loads(line) for line in file]
        rows = csv.reader(file)
        return [dict(zip(names, row, strict=True)) for row in rows if row != names]


def _built() -> Path:
    """The peer's binary; built when it is missing.

    Raises:
        BenchmarkFailed: it cannot be built.
    """
    source = CHECKOUT / "benchmarks" / "benthos"
    lines = (source / "go.mod").read_text("utf-8").splitlines()
    version = next(line.split()[1] for line in lines if "redpanda-data/benthos/v4" in line)
    target = cache_dir() / f"benthos-{version}"
    if target.exists():
        return target
    go = shutil.which("go")
    if go is None:
        raise BenchmarkFailed(
            "`go` is not installed: the peer is built from source. Install Go 1.25 or newer."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(
            [go, "build", "-o", str(target), "."],
            cwd=source,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise BenchmarkFailed(f"the peer cannot be built: {str(error.stderr)[-2000:]}") from error
    return target
