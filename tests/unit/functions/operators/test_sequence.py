"""Sequencing: per instrument from 1, without holes or repeats, recoverable from its own log."""

from collections import defaultdict

import numpy as np
import pyarrow as pa
from events import column, trades
from hypothesis import given
from hypothesis import strategies as st

from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.frames import decode_frame, encode_frame
from marketdata.schemas import INGEST_SCHEMAS

names = st.text("ABCDE", min_size=1, max_size=2)
frames = st.lists(st.lists(names, min_size=1, max_size=30), max_size=12)

FIELD = INGEST_SCHEMAS["trade"].field("instrument")


def _batch(instruments: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([column(instruments, FIELD)], names=["instrument"])


def _expected(instruments: list[list[str]]) -> list[list[int]]:
    counts: defaultdict[str, int] = defaultdict(int)
    numbers = []
    for frame in instruments:
        row = []
        for name in frame:
            counts[name] += 1
            row.append(counts[name])
        numbers.append(row)
    return numbers


@given(frames)
def test_every_instrument_is_numbered_from_one_without_holes(instruments: list[list[str]]) -> None:
    state = InstrumentSequences()
    found = [state.assign(_batch(frame)).tolist() for frame in instruments]
    assert found == _expected(instruments)


@given(frames, st.integers(0, 12), st.integers(0, 12))
def test_state_rebuilt_from_any_snapshot_and_the_log_behind_it_continues_the_same(
    instruments: list[list[str]], snapshot_at: int, crash_at: int
) -> None:
    snapshot_at, crash_at = sorted(min(n, len(instruments)) for n in (snapshot_at, crash_at))
    state = InstrumentSequences(epoch=3)
    log = []
    snapshot = state.snapshot()
    for n, frame in enumerate(instruments[:crash_at]):
        if n == snapshot_at:
            snapshot = state.snapshot()
        log.append((n, _batch(frame), state.assign(_batch(frame))))
    if snapshot_at == crash_at:
        snapshot = state.snapshot()
    rebuilt = InstrumentSequences.from_snapshot(snapshot)
    for n, batch, sequences in log:
        if n >= snapshot_at:
            rebuilt.absorb(batch.column("instrument"), sequences)
    rest = [rebuilt.assign(_batch(frame)).tolist() for frame in instruments[crash_at:]]
    assert rest == _expected(instruments)[crash_at:]
    assert rebuilt.epoch == 3


@given(frames)
def test_a_repeated_dictionary_value_is_still_one_instrument(instruments: list[list[str]]) -> None:
    state = InstrumentSequences()
    found = []
    for frame in instruments:
        repeated = pa.DictionaryArray.from_arrays(
            pa.array(np.arange(len(frame), dtype=np.int16)), pa.array(frame)
        )
        found.append(state.assign(pa.record_batch({"instrument": repeated})).tolist())
    assert found == _expected(instruments)


def test_last_tells_the_newest_number() -> None:
    state = InstrumentSequences()
    state.assign(_batch(["A", "B", "A"]))
    assert [state.last(name) for name in "ABC"] == [2, 1, 0]
    assert len(state) == 2


def test_state_grows_with_the_instruments() -> None:
    state = InstrumentSequences()
    names_ = [f"I{n}" for n in range(5_000)]
    assert state.assign(_batch(names_)).tolist() == [1] * 5_000
    assert state.assign(_batch(names_)).tolist() == [2] * 5_000


def test_a_sequenced_batch_keeps_the_contract() -> None:
    batch = trades(["A", "B", "A"])
    sequenced = with_sequences(
        batch,
        "trade",
        np.array([1, 1, 2], dtype=np.uint64),
        epoch=7,
        ts_sequenced_ns=1_700_000_000_000_001_000,
    )
    decoded = decode_frame(encode_frame(sequenced).to_pybytes(), sequenced=True)
    assert decoded.column("sequence").to_pylist() == [1, 1, 2]
    assert decoded.column("epoch").to_pylist() == [7, 7, 7]
    assert decoded.select(batch.schema.names).equals(batch)


@given(frames, st.integers(0, 12))
def test_a_snapshot_stays_what_it_was_when_later_frames_are_lost(
    instruments: list[list[str]], crash_at: int
) -> None:
    """Frames numbered after a snapshot may never be stored: their numbers are then given again."""
    crash_at = min(crash_at, len(instruments))
    state = InstrumentSequences()
    for frame in instruments[:crash_at]:
        state.assign(_batch(frame))
    snapshot = state.snapshot()
    for frame in instruments[crash_at:]:
        state.assign(_batch(frame))
    rebuilt = InstrumentSequences.from_snapshot(snapshot)
    rest = [rebuilt.assign(_batch(frame)).tolist() for frame in instruments[crash_at:]]
    assert rest == _expected(instruments)[crash_at:]
