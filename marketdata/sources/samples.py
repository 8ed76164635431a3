"""Real prices that registry packages ship, as `bar` events.

| name | package | holds |
| --- | --- | --- |
| stocks | bokeh_sampledata | daily bars of AAPL, FB, GOOG, IBM, MSFT, 2000 to 2013 |
| goog | backtesting | daily bars of GOOG, 2004 to 2013 |
| eurusd | backtesting | hourly bars of EURUSD, 2017 to 2018 |

Only the packages' data files are read; neither package is imported. Prices and volumes are
exactly the decimal text of the files. `ts_event` is the opening of the bar: 09:30 in New York
for daily bars of US stocks (with an interval of 24 hours), the hour for hourly ones (the file
names no time zone; it is taken as UTC). Rates without an exchange have the venue `XXXX`, which
is ISO 10383 for "no market".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from marketdata.schemas import PRICE_SCALE, SIZE_SCALE
from marketdata.sources.batches import NumberingBySource, assemble, symbols
from marketdata.sources.columns import fixed_point, timestamps_ns
from marketdata.sources.errors import SourceError

HOUR_NS: Final = 3_600_000_000_000
DAY_NS: Final = 24 * HOUR_NS
NO_MARKET: Final = "XXXX"


@dataclass(frozen=True, slots=True)
class SampleSet:
    """A data set inside an installed package.

    Attributes:
        name: what `load_sample_bars` and `publish.py --sample` call it.
        package: the package whose folder holds `path`.
        source: the events' source name.
        instrument: of every row, or None where the file has a ticker column.
        venues: instrument -> ISO 10383 MIC.
        interval_ns: of every bar; daily bars open with the New York session.
    """

    name: str
    package: str
    path: str
    source: str
    instrument: str | None
    venues: Mapping[str, str]
    region: str
    interval_ns: int


SAMPLE_SETS: Final[Mapping[str, SampleSet]] = MappingProxyType(
    {
        sample.name: sample
        for sample in (
            SampleSet(
                name="stocks",
                package="bokeh_sampledata",
                path="_data/stocks.csv.gz",
                source="bokeh_sampledata",
                instrument=None,
                venues={
                    "AAPL": "XNAS",
                    "FB": "XNAS",
                    "GOOG": "XNAS",
                    "IBM": "XNYS",
                    "MSFT": "XNAS",
                },
                region="us",
                interval_ns=DAY_NS,
            ),
            SampleSet(
                name="goog",
                package="backtesting",
                path="test/GOOG.csv",
                source="backtesting",
                instrument="GOOG",
                venues={"GOOG": "XNAS"},
                region="us",
                interval_ns=DAY_NS,
            ),
            SampleSet(
                name="eurusd",
                package="backtesting",
                path="test/EURUSD.csv",
                source="backtesting",
                instrument="EURUSD",
                venues={"EURUSD": NO_MARKET},
                region="global",
                interval_ns=HOUR_NS,
            ),
        )
    }
)
"""Every data set by name."""


@dataclass(frozen=True, slots=True)
class SampleHolding:
    """What one data set holds of one instrument; times are `ts_event` in nanoseconds."""

    sample: str
    source: str
    instrument: str
    venue: str
    events: int
    first_ns: int
    last_ns: int


def load_sample_bars(
    *names: str, batch_rows: int = 8192, numbering: NumberingBySource | None = None
) -> Iterator[pa.RecordBatch]:
    """The bars of the named data sets (all without names), merged by event time.

    Args:
        batch_rows: most rows in a batch.
        numbering: continues the source sequences of bars loaded before.

    Raises:
        SourceError: no such data set, or its package is not installed.

    >>> sum(batch.num_rows for batch in load_sample_bars("stocks"))
    12154
    """
    tables = [
        pa.Table.from_batches([read_sample(name, numbering)]) for name in names or SAMPLE_SETS
    ]
    unified = pa.concat_tables(tables).unify_dictionaries()
    order = pc.sort_indices(
        unified.append_column("row", pa.array(range(len(unified)))),
        sort_keys=[("ts_event", "ascending"), ("row", "ascending")],
    )
    yield from unified.take(order).combine_chunks().to_batches(max_chunksize=batch_rows)


def describe_samples(*names: str) -> list[SampleHolding]:
    """What the named data sets (all without names) hold, one entry an instrument."""
    holdings = []
    for name in names or SAMPLE_SETS:
        batch = read_sample(name)
        held = (
            pa.table(
                {
                    "instrument": batch.column("instrument").cast(pa.string()),
                    "ts": batch.column("ts_event").view(pa.int64()),
                }
            )
            .group_by("instrument")
            .aggregate([("ts", "count"), ("ts", "min"), ("ts", "max")])
            .sort_by("instrument")
        )
        sample = SAMPLE_SETS[name]
        holdings += [
            SampleHolding(
                sample=name,
                source=sample.source,
                instrument=row["instrument"],
                venue=sample.venues[row["instrument"]],
                events=row["ts_count"],
                first_ns=row["ts_min"],
                last_ns=row["ts_max"],
            )
            for row in held.to_pylist()
        ]
    return holdings


def read_sample(name: str, numbering: NumberingBySource | None = None) -> pa.RecordBatch:
    """One data set as one batch in event-time order, instruments by name within a time.

    Raises:
        SourceError: no such data set, or its package is not installed.
    """
    sample = SAMPLE_SETS.get(name)
    if sample is None:
        raise SourceError(f"no sample data set {name!r}; there are: {', '.join(SAMPLE_SETS)}")
    table = _read_text(sample)
    if sample.instrument is None:
        table = table.sort_by([("Date", "ascending"), ("Ticker", "ascending")])
        instrument = symbols(table["Ticker"].combine_chunks())
    else:
        table = table.sort_by("Date")
        instrument = symbols(pa.repeat(sample.instrument, len(table)))
    text = {column: table[column].combine_chunks() for column in table.column_names}
    venues = [sample.venues[name] for name in instrument.dictionary.to_pylist()]
    venue = symbols(pa.array(venues).take(instrument.indices))
    columns = {
        "instrument": instrument,
        "venue": venue,
        "source": sample.source,
        "source_sequence": (numbering or NumberingBySource())[sample.source].number(instrument),
        "ts_event": _opening_times(text["Date"], sample.interval_ns),
        "region": sample.region,
        "interval_ns": pa.repeat(pa.scalar(sample.interval_ns), len(table)),
        "open": fixed_point(text["Open"], PRICE_SCALE),
        "high": fixed_point(text["High"], PRICE_SCALE),
        "low": fixed_point(text["Low"], PRICE_SCALE),
        "close": fixed_point(text["Close"], PRICE_SCALE),
        "volume": fixed_point(text["Volume"], SIZE_SCALE),
    }
    return assemble("bar", columns, len(table))


def _read_text(sample: SampleSet) -> pa.Table:
    spec = find_spec(sample.package)
    if spec is None or spec.origin is None:
        raise SourceError(
            f"sample data set {sample.name!r} comes from package {sample.package!r}, which is not"
            " installed; install the extra `sources`"
        )
    path = Path(spec.origin).parent / sample.path
    names = ["Ticker"] if sample.instrument is None else []
    names += ["Date", "Open", "High", "Low", "Close", "Volume"]
    extra = ["Adj Close"] if sample.instrument is None else []
    try:
        return pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(skip_rows=1, column_names=names + extra),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=names, column_types=dict.fromkeys(names, pa.string())
            ),
        )
    except (OSError, pa.ArrowException) as error:
        raise SourceError(
            f"{path}: not the data file that package {sample.package!r} is known to ship: {error}"
        ) from error


def _opening_times(labels: pa.Array, interval_ns: int) -> pa.Array:
    """Opening times of bars, in nanoseconds, from the text that labels them."""
    if interval_ns != DAY_NS:
        return timestamps_ns(labels)
    half_past_nine = pa.scalar(9 * 3600 + 30 * 60, pa.duration("s"))
    return timestamps_ns(
        pc.add(labels.cast(pa.timestamp("s")), half_past_nine), timezone="America/New_York"
    )
