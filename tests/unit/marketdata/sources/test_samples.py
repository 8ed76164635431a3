"""Real bars from packages, compared with the packages' own files read another way."""

import csv
import gzip
import io
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from marketdata.frames import validate_events
from marketdata.sources import SourceError, samples
from marketdata.sources.batches import NumberingBySource
from marketdata.sources.samples import describe_samples, load_sample_bars, read_sample


def rows_of_file(name: str) -> Iterator[list[str]]:
    sample = samples.SAMPLE_SETS[name]
    spec = find_spec(sample.package)
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / sample.path
    data = path.read_bytes()
    with io.StringIO((gzip.decompress(data) if path.suffix == ".gz" else data).decode()) as file:
        rows = csv.reader(file)
        next(rows)
        for row in rows:
            yield row[:7] if sample.instrument is None else [sample.instrument, *row[:6]]


@pytest.mark.parametrize("name", samples.SAMPLE_SETS)
def test_every_price_and_volume_equals_the_decimal_text_of_the_file(name: str) -> None:
    batch = read_sample(name)
    columns = ("instrument", "open", "high", "low", "close", "volume")
    got = Counter(zip(*(batch.column(c).to_pylist() for c in columns), strict=True))
    expected: Counter[Any] = Counter()
    for instrument, _, *prices, volume in rows_of_file(name):
        units = [int(Decimal(price) * 10**9) for price in prices]
        expected[(instrument, *units, int(Decimal(volume) * 10**8))] += 1
    assert got == expected


def test_daily_bars_open_with_the_new_york_session_in_summer_and_winter() -> None:
    opens = {str(time) for time in read_sample("goog").column("ts_event").to_pylist()}
    assert "2004-08-19 13:30:00+00:00" in opens
    assert "2004-12-01 14:30:00+00:00" in opens


def test_hourly_bars_open_at_the_hour() -> None:
    batch = read_sample("eurusd")
    assert str(batch.column("ts_event")[0].as_py()) == "2017-04-19 09:00:00+00:00"
    assert set(batch.column("interval_ns").to_pylist()) == {samples.HOUR_NS}
    assert set(batch.column("venue").to_pylist()) == {"XXXX"}


def test_all_bars_keep_the_contract_and_event_time_order() -> None:
    latest, numbers = 0, Counter[tuple[str, str]]()
    for batch in load_sample_bars(batch_rows=1000):
        for start in range(0, batch.num_rows, 8192):
            validate_events(batch.slice(start, 8192))
        for row in batch.select(
            ["instrument", "source", "source_sequence", "ts_event"]
        ).to_pylist():
            key = row["instrument"], row["source"]
            numbers[key] += 1
            assert row["source_sequence"] == numbers[key]
            assert row["ts_event"].value >= latest
            latest = row["ts_event"].value
    held = {(h.instrument, h.source): h.events for h in describe_samples()}
    assert numbers == held


def test_what_the_stocks_hold() -> None:
    held = {h.instrument: (h.venue, h.events) for h in describe_samples("stocks")}
    assert held == {
        "AAPL": ("XNAS", 3270),
        "FB": ("XNAS", 196),
        "GOOG": ("XNAS", 2148),
        "IBM": ("XNYS", 3270),
        "MSFT": ("XNAS", 3270),
    }


def test_a_second_pass_continues_the_numbers() -> None:
    numbering = NumberingBySource()
    for first in (1, 2149):
        (batch,) = load_sample_bars("goog", numbering=numbering)
        assert batch.column("source_sequence")[0].as_py() == first


def test_an_unknown_set_names_those_there_are() -> None:
    with pytest.raises(SourceError, match="'gold'; there are: stocks, goog, eurusd"):
        read_sample("gold")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "find_spec", lambda _: None)
    with pytest.raises(SourceError, match=r"'backtesting', which is not\s+installed"):
        read_sample("goog")
