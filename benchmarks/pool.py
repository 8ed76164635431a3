"""Synthetic batches, made before a measurement and repeated in it, so that they cost nothing.

Each round through the pool continues the source sequences and the event times of the round before,
and every pool has a source name of its own: nothing that is published looks like a repeat.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.arrays import codes_of
from marketdata.frames import compact_dictionaries
from marketdata.schemas import TIMESTAMP
from marketdata.sources.synthetic import SyntheticConfig, SyntheticTicks

Counts = npt.NDArray[np.int64]


def instrument_name(number: int) -> str:
    """The name that the synthetic source gives an instrument."""
    return f"SYN{number:05d}"


class Pool:
    """Batches to publish round and round.

    Args:
        source: name of the source, one for each pool that is published.
        events: in one round.
        batch_rows: events in a batch.
        instruments: as many, their activity by Zipf's law.
        views: instrument i belongs to view i modulo this.
        rate: events a second of event time.
    """

    def __init__(
        self,
        source: str,
        *,
        events: int,
        batch_rows: int,
        instruments: int,
        views: int,
        rate: float = 1_000_000.0,
        seed: int = 1,
    ) -> None:
        config = SyntheticConfig(
            events=events, seed=seed, instruments=instruments, batch_rows=batch_rows, rate=rate
        )
        batches = list(SyntheticTicks(config))
        codes = [codes_of(batch.column("instrument")) for batch in batches]
        in_round = np.bincount(np.concatenate(codes), minlength=instruments)
        self._batches = [_named(compact_dictionaries(batch), source) for batch in batches]
        self._steps = [in_round[each].astype(np.uint64) for each in codes]
        self._of_view = [np.bincount(each % views, minlength=views) for each in codes]
        first = _times(batches[0])[0]
        last = max(int(_times(batch)[-1]) for batch in batches)
        self._round_ns = last - int(first) + 1

    def __iter__(self) -> Iterator[tuple[pa.RecordBatch, Counts]]:
        """Batches without end, each with how many of its events belong to which view."""
        rounds = 0
        while True:
            for batch, step, of_view in zip(self._batches, self._steps, self._of_view, strict=True):
                yield _shifted(batch, step, rounds, self._round_ns), of_view
            rounds += 1


def _times(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    times: npt.NDArray[np.int64] = batch.column("ts_event").view(pa.int64()).to_numpy()
    return times


def _named(batch: pa.RecordBatch, source: str) -> pa.RecordBatch:
    index = batch.schema.names.index("source")
    column = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(batch.num_rows, dtype=np.int16)), pa.array([source])
    )
    return batch.set_column(index, batch.schema.field(index), column)


def _shifted(
    batch: pa.RecordBatch, step: npt.NDArray[np.uint64], rounds: int, round_ns: int
) -> pa.RecordBatch:
    if not rounds:
        return batch
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    numbers = columns["source_sequence"].to_numpy() + step * np.uint64(rounds)
    times = _times(batch) + rounds * round_ns
    columns["source_sequence"] = pa.array(numbers)
    columns["ts_event"] = pa.array(times).view(TIMESTAMP)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=batch.schema)
