"""Synthetic ticks: the promises of their configuration."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.batching import conform_events
from marketdata.sources import SourceError
from marketdata.sources.synthetic import SyntheticConfig, SyntheticTicks

SMALL = settings(max_examples=25, deadline=None)


def flat(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    names = ["instrument", "source_sequence", "ts_event", "venue", "region", "source"]
    tables = [pa.Table.from_batches([batch.select(names)]) for batch in batches]
    table = pa.concat_tables(tables)
    return table.set_column(0, "instrument", table["instrument"].cast(pa.string()))


def numbers_of(table: pa.Table) -> dict[str, list[int]]:
    grouped = table.group_by("instrument", use_threads=False).aggregate(
        [("source_sequence", "list")]
    )
    rows = grouped.to_pylist()
    return {row["instrument"]: row["source_sequence_list"] for row in rows}


def times(table: pa.Table) -> np.ndarray:
    return table["ts_event"].cast(pa.int64()).to_numpy()


@SMALL
@given(st.integers(1, 5000), st.integers(0, 2**32), st.integers(1, 300), st.sampled_from([7, 256]))
def test_numbers_are_contiguous_and_time_never_falls(
    events: int, seed: int, instruments: int, batch_rows: int
) -> None:
    ticks = SyntheticTicks(
        SyntheticConfig(events=events, seed=seed, instruments=instruments, batch_rows=batch_rows)
    )
    table = flat(ticks)
    assert len(table) == events == ticks.counts.events
    assert (np.diff(times(table)) >= 0).all()
    for numbers in numbers_of(table).values():
        assert numbers == list(range(1, len(numbers) + 1))


@SMALL
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.05]), st.sampled_from([0.0, 0.05]))
def test_the_same_seed_gives_the_same_events(seed: int, holes: float, disorder: float) -> None:
    config = SyntheticConfig(
        events=1000, seed=seed, holes=holes, disorder=disorder, repeats=0.01, batch_rows=300
    )
    ticks = SyntheticTicks(config)
    first, second, third = list(ticks), list(ticks), list(SyntheticTicks(config))
    assert first == second == third


def test_another_seed_gives_other_events() -> None:
    one, other = (list(SyntheticTicks(SyntheticConfig(events=100, seed=s))) for s in (1, 2))
    assert one != other


@SMALL
@given(st.integers(0, 2**32), st.floats(0.01, 1.0))
def test_holes_are_as_many_as_counted(seed: int, share: float) -> None:
    ticks = SyntheticTicks(
        SyntheticConfig(events=2000, seed=seed, instruments=20, holes=share, batch_rows=300)
    )
    found = 0
    for numbers in numbers_of(flat(ticks)).values():
        assert (np.diff([0, *numbers]) >= 1).all()
        found += numbers[-1] - len(numbers)
    assert found == ticks.counts.holes > 0


@SMALL
@given(st.integers(0, 2**32), st.floats(0.01, 1.0))
def test_repeats_are_the_same_event_again(seed: int, share: float) -> None:
    ticks = SyntheticTicks(
        SyntheticConfig(events=1000, seed=seed, instruments=20, repeats=share, batch_rows=300)
    )
    batches = list(ticks)
    found = 0
    for batch in batches:
        rows = batch.to_pylist()
        found += sum(a == b for a, b in pairwise(rows))
    assert found == ticks.counts.repeats > 0
    assert ticks.counts.events == 1000 + found
    for numbers in numbers_of(flat(batches)).values():
        assert sorted(set(numbers)) == list(range(1, max(numbers) + 1))


@SMALL
@given(st.integers(0, 2**32), st.floats(0.01, 0.5))
def test_disorder_moves_events_and_loses_none(seed: int, share: float) -> None:
    ticks = SyntheticTicks(
        SyntheticConfig(events=1000, seed=seed, instruments=20, disorder=share, batch_rows=300)
    )
    table = flat(ticks)
    late = times(table) < np.maximum.accumulate(times(table))
    assert 0 < late.sum() <= ticks.counts.late
    for numbers in numbers_of(table).values():
        assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_events_keep_the_contract_and_are_called_synthetic() -> None:
    batches = list(SyntheticTicks(SyntheticConfig(events=60_000, seed=3, instruments=32_768)))
    kinds = {conform_events(batch, ts_publish_ns=1)[0] for batch in batches}
    assert kinds == {"trade", "quote"}
    table = flat(batches)
    assert set(table["source"].to_pylist()) == {"synthetic"}
    assert set(table["region"].to_pylist()) == {"us", "eu", "apac"}
    assert len(set(table["venue"].to_pylist())) == 12


def test_prices_are_positive_cents_and_quotes_are_not_crossed() -> None:
    for batch in SyntheticTicks(SyntheticConfig(events=50_000, seed=3, instruments=3)):
        if "price" in batch.schema.names:
            assert pc.min(batch.column("price")).as_py() > 0
            assert not np.any(batch.column("price").to_numpy() % 10_000_000)
        else:
            assert pc.min(batch.column("bid_price")).as_py() > 0
            assert pc.all(pc.less(batch.column("bid_price"), batch.column("ask_price"))).as_py()


def test_activity_follows_zipf() -> None:
    table = flat(SyntheticTicks(SyntheticConfig(events=200_000, seed=3, instruments=100)))
    counts = {name: len(numbers) for name, numbers in numbers_of(table).items()}
    assert counts["SYN00000"] / counts["SYN00009"] == pytest.approx(10, rel=0.1)


def test_the_rate_is_that_of_event_time() -> None:
    table = flat(SyntheticTicks(SyntheticConfig(events=100_000, seed=3, rate=50_000)))
    assert (times(table)[-1] - times(table)[0]) / 1e9 == pytest.approx(2.0, rel=0.02)


def test_without_an_end_it_goes_on() -> None:
    batches = iter(SyntheticTicks(SyntheticConfig(events=None, batch_rows=10)))
    assert sum(next(batches).num_rows for _ in range(100)) == 1000


@pytest.mark.parametrize(
    "wrong", [{"instruments": 0}, {"instruments": 40_000}, {"holes": 1.5}, {"rate": 0.0}]
)
def test_numbers_out_of_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(SourceError, match=f"synthetic: {next(iter(wrong))} is"):
        SyntheticConfig(events=1, **wrong)  # type: ignore[arg-type]
