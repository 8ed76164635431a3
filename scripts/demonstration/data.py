"""The events that a demo publishes: real bars, a file, or synthetic ticks, under the run's name."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from marketdata.sources.batches import NumberingBySource
from marketdata.sources.errors import SourceError
from marketdata.sources.files import open_events
from marketdata.sources.mapping import load_mapping
from marketdata.sources.pacing import repeated
from marketdata.sources.samples import load_sample_bars
from marketdata.sources.synthetic import SyntheticConfig, SyntheticTicks
from scripts.verification.expectations import symbols_of
from scripts.verification.load import renamed
from scripts.verification.recording import kind_of


@dataclass(frozen=True, slots=True)
class DataSet:
    """Events in the order in which they are to be published.

    Attributes:
        title: what they are, for people.
        instruments: by number of events, the most frequent first.
    """

    title: str
    batches: list[pa.RecordBatch]
    instruments: tuple[str, ...]
    kinds: frozenset[str]

    @property
    def events(self) -> int:
        """How many events there are."""
        return sum(batch.num_rows for batch in self.batches)


def real_bars(run: str, *, repeat: int = 1) -> DataSet:
    """The bars that packages ship, all of them, `repeat` times with event time moving on."""
    play = partial(load_sample_bars, numbering=NumberingBySource())
    title = "real daily and hourly bars (bokeh_sampledata, backtesting)"
    return _data_set(title, play, run, repeat)


def from_file(run: str, path: Path, mapping: str | None, *, repeat: int = 1) -> DataSet:
    """The events of a DBN, Parquet or CSV file.

    Args:
        run: appended to the source's name.
        path: of the file.
        mapping: a file with the column mapping; needed for Parquet and CSV.
        repeat: how often to play it.

    Raises:
        SourceError: the file cannot be read as events.
    """
    parts: dict[str, Any] = load_mapping(mapping) if mapping else {}
    reader = open_events(path, mapping=parts, numbering=NumberingBySource())
    return _data_set(str(path), reader.__iter__, run, repeat)


def synthetic_ticks(run: str, events: int) -> DataSet:
    """Synthetic quotes and trades of 500 instruments that do not exist."""
    ticks = SyntheticTicks(SyntheticConfig(events=events, instruments=500, seed=1))
    return _data_set(f"{events:,} SYNTHETIC quotes and trades", ticks.__iter__, run, 1)


def _data_set(
    title: str, play: Callable[[], Iterable[pa.RecordBatch]], run: str, repeat: int
) -> DataSet:
    passes = 0

    def once() -> Iterable[pa.RecordBatch]:
        nonlocal passes
        passes += 1
        return play() if passes <= repeat else ()

    counts: Counter[str] = Counter()
    batches = []
    for batch in repeated(once):
        counts.update(symbols_of(batch, "instrument").tolist())
        batches.append(renamed(batch, source=f"{{}}@{run}"))
    if not batches:
        raise SourceError(f"{title}: there are no events to publish")
    return DataSet(
        title if repeat == 1 else f"{title}, {repeat} times",
        batches,
        tuple(name for name, _ in counts.most_common()),
        frozenset(map(kind_of, batches)),
    )
