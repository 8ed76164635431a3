"""Synthetic batches, made before a measurement and repeated in it, so that they cost nothing.

Each round through the pool continues the source sequences and the event times of the round before,
and every pool has a source name of its own: nothing that is published looks like a repeat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.arrays import array_of, codes_of, values_of
from marketdata.frames import compact_dictionaries
from marketdata.partitioning import partition_of
from marketdata.schemas import TIMESTAMP
from marketdata.sources.synthetic import SyntheticConfig, SyntheticTicks

Counts = npt.NDArray[np.int64]


def instrument_name(number: int) -> str:
    """The name that the synthetic source gives an instrument."""
    return f"SYN{number:05d}"


def instrument_names(instruments: int, *, partition: int | None = None, of: int = 1) -> list[str]:
    """As many names; with `partition` only such as belong to that partition of `of`.

    >>> instrument_names(2, partition=0, of=4)
    ['SYN00004', 'SYN00005']
    """
    names = map(instrument_name, count())
    wanted = (name for name in names if partition is None or partition_of(name, of) == partition)
    return list(islice(wanted, instruments))


class Pool:
    """Batches to publish round and round.

    Args:
        source: name of the source, one for each pool that is published.
        events: in one round.
        batch_rows: events in a batch.
        names: of the instruments; their activity falls by Zipf's law.
        views: instrument i belongs to view i modulo this.
        rate: events a second of event time.
    """

    def __init__(
        self,
        source: str,
        *,
        events: int,
        batch_rows: int,
        names: Sequence[str],
        views: int,
        rate: float = 1_000_000.0,
        seed: int = 1,
    ) -> None:
        instruments = len(names)
        config = SyntheticConfig(
            events=events, seed=seed, instruments=instruments, batch_rows=batch_rows, rate=rate
        )
        batches = list(SyntheticTicks(config))
        codes = [codes_of(batch.column("instrument")) for batch in batches]
        in_round = np.bincount(np.concatenate(codes), minlength=instruments)
        instrument_column = pa.array(names, pa.utf8())
        self._batches = [_named(batch, instrument_column, source) for batch in batches]
        self._numbers = [values_of(batch.column("source_sequence"), np.uint64) for batch in batches]
        self._times = [_times(batch) for batch in batches]
        self._steps = [in_round[each].astype(np.uint64) for each in codes]
        self._of_view = [np.bincount(each % views, minlength=views) for each in codes]
        first = _times(batches[0])[0]
        last = max(int(_times(batch)[-1]) for batch in batches)
        self._round_ns = last - int(first) + 1

    def __iter__(self) -> Iterator[tuple[pa.RecordBatch, Counts]]:
        """Batches without end, each with how many of its events belong to which view."""
        numbers, times = list(self._numbers), list(self._times)
        for rounds in count():
            for index, (batch, of_view) in enumerate(
                zip(self._batches, self._of_view, strict=True)
            ):
                if rounds:
                    # New arrays each time: the publisher may still hold those of the last round.
                    numbers[index] = numbers[index] + self._steps[index]
                    times[index] = times[index] + self._round_ns
                    batch = _with(batch, numbers[index], times[index])  # noqa: PLW2901
                yield batch, of_view


def _times(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    times: npt.NDArray[np.int64] = batch.column("ts_event").view(pa.int64()).to_numpy()
    return times


def _named(batch: pa.RecordBatch, names: pa.Array, source: str) -> pa.RecordBatch:
    """The batch with these instrument names and this source, and dictionaries of what occurs."""
    columns = batch.columns
    fields = batch.schema.names
    instruments = fields.index("instrument")
    columns[instruments] = pa.DictionaryArray.from_arrays(columns[instruments].indices, names)
    columns[fields.index("source")] = pa.DictionaryArray.from_arrays(
        array_of(np.zeros(batch.num_rows, dtype=np.int16), pa.int16()), pa.array([source])
    )
    return compact_dictionaries(pa.RecordBatch.from_arrays(columns, schema=batch.schema))


def _with(
    batch: pa.RecordBatch, numbers: npt.NDArray[np.uint64], times: npt.NDArray[np.int64]
) -> pa.RecordBatch:
    columns, fields = batch.columns, batch.schema.names
    columns[fields.index("source_sequence")] = array_of(numbers, pa.uint64())
    columns[fields.index("ts_event")] = array_of(times, TIMESTAMP)
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)
