"""Pools repeat their batches without repeating themselves, and know whose events they hold."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.pool import Pool, instrument_names
from benchmarks.subscriptions import filter_of_view
from marketdata.filters import compile_filter
from marketdata.frames import frame_kind, validate_events
from marketdata.partitioning import partition_of
from marketdata.schemas import INGEST_SCHEMAS

VIEWS = 3
NAMES = instrument_names(20)

Rounds = list[tuple[pa.RecordBatch, np.ndarray]]


@pytest.fixture
def rounds() -> Rounds:
    """Three rounds of four batches."""
    pool = Pool("here", events=400, batch_rows=100, names=NAMES, views=VIEWS, rate=1000.0)
    return list(islice(pool, 12))


def _instruments(batch: pa.RecordBatch) -> list[str]:
    return batch.column("instrument").to_pylist()


def _numbers_by_instrument(batches: Iterator[pa.RecordBatch]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for batch in batches:
        for name, number in zip(
            _instruments(batch), batch.column("source_sequence").to_pylist(), strict=True
        ):
            found.setdefault(name, []).append(number)
    return found


def test_source_sequences_have_neither_holes_nor_repeats_over_rounds(rounds: Rounds) -> None:
    found = _numbers_by_instrument(batch for batch, _ in rounds)
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in found.values())


def test_event_times_never_fall_over_rounds(rounds: Rounds) -> None:
    times = [batch.column("ts_event").view(pa.int64()).to_numpy() for batch, _ in rounds]
    assert (np.diff(np.concatenate(times)) >= 0).all()


def test_batches_are_valid_ingest_events_of_the_given_source(rounds: Rounds) -> None:
    for batch, _ in rounds:
        assert batch.schema.equals(INGEST_SCHEMAS[frame_kind(batch)], check_metadata=True)
        validate_events(batch)
        assert set(batch.column("source").to_pylist()) == {"here"}


def test_every_event_is_counted_for_the_one_view_whose_filter_lets_it_pass(rounds: Rounds) -> None:
    filters = [compile_filter(filter_of_view(v, VIEWS, NAMES)) for v in range(VIEWS)]
    for batch, of_view in rounds:
        passed = [int(np.count_nonzero(each.mask(batch))) for each in filters]
        assert passed == of_view.tolist()
        assert sum(passed) == batch.num_rows


def test_names_of_one_partition_belong_to_it() -> None:
    names = instrument_names(50, partition=2, of=4)
    assert len(set(names)) == 50
    assert {partition_of(name, 4) for name in names} == {2}
    batch, _ = next(iter(Pool("x", events=500, batch_rows=500, names=names, views=1)))
    assert set(_instruments(batch)) <= set(names)


def test_what_was_handed_out_is_not_changed_by_later_rounds(rounds: Rounds) -> None:
    pool = Pool("here", events=400, batch_rows=100, names=NAMES, views=VIEWS, rate=1000.0)
    again = islice(pool, 12)
    assert all(next(again)[0].equals(batch) for batch, _ in rounds)
