"""`enriching`: columns of reference tables joined to quotes and trades, on one core.

The frames are those of `formats`. The table has a row for each instrument, in `as_of` ten of them
with a time from which on each holds. Measured in processor time: the join alone, and in
`usd_price` with a price in another currency computed of it; no format is written.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from benchmarks.figures import Measured, Sample
from benchmarks.formats import measured_on_frames
from marketdata.reference import Enrichment, ReferenceTable, TableSpec, content_of, resolved
from marketdata.reference.table import read_content, schema_of
from marketdata.transformations import Transformation

SUMMARY = "columns of reference tables joined on one core"

_COLUMNS: Final = {"instrument": "text", "figi": "text", "sector": "text", "usd": "decimal(6)"}
_ONCE: Final = TableSpec(_COLUMNS, ("instrument",))
_AS_OF: Final = TableSpec({**_COLUMNS, "since": "time"}, ("instrument",), "since")
_VERSIONS: Final = 10
_TEXTS: Final = {"figi": "figi", "sector": "sector"}

_VIEWS: Final = {
    "decimal": (_ONCE, {"usd": "usd"}, {}),
    "two_texts": (_ONCE, _TEXTS, {}),
    "usd_price": (
        _ONCE,
        {"usd": "usd"},
        {"usd_price": "round(coalesce(price, bid_price) * usd, 4)"},
    ),
    "decimal_as_of": (_AS_OF, {"usd": "usd"}, {}),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--seconds", type=float, default=2.0, help="of each view (default 2)")
    parser.add_argument("--instruments", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=8192, help="events in a frame (default 8192)")


def measure(options: argparse.Namespace) -> Measured:
    """Run it `options.runs` times."""
    return measured_on_frames(
        options,
        [
            partial(_run, name, spec, columns, compute)
            for name, (spec, columns, compute) in _VIEWS.items()
        ],
    )


def _run(
    name: str,
    spec: TableSpec,
    columns: dict[str, str],
    compute: dict[str, str],
    frames: Sequence[pa.RecordBatch],
    seconds: float,
) -> dict[str, Sample]:
    asked = resolved(Enrichment("masters", columns), spec, ())
    transformation = Transformation(enrich=(asked,), compute=compute or msgspec.UNSET)
    trees = transformation.compiled()
    tables = {"masters": _table(spec, frames)}
    events = 0
    started = time.process_time()
    while time.process_time() < started + seconds:
        for frame in frames:
            transformation.apply(transformation.joined(frame, tables).events, trees)
            events += frame.num_rows
    taken = time.process_time() - started
    return {f"{name}_cpu_s_per_million_events": Sample(taken / events * 1e6, "s")}


def _table(spec: TableSpec, frames: Sequence[pa.RecordBatch]) -> ReferenceTable:
    names = sorted({name for f in frames for name in f.column("instrument").dictionary.to_pylist()})
    times = _VERSIONS if spec.valid_from else 1
    number = np.arange(len(names) * times)
    instruments = [name for name in names for _ in range(times)]
    held = {
        "instrument": instruments,
        "figi": [f"BBG{name}" for name in instruments],
        "sector": [f"sector {n % 11}" for n in number.tolist()],
        "usd": 1_000_000 + number,
        "since": (number % times) * 10**9,
    }
    rows = pa.table([held[each] for each in spec.columns], schema=schema_of(spec))
    return ReferenceTable(read_content(content_of(spec, rows).data))
