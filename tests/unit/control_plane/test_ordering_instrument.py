"""An instrument stands where its newest frames say, whatever the snapshot before them knew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from events import trades
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domains.ordering.instrument import InstrumentStand, SourceStand
from marketdata.frames import encode_frame, read_frame
from marketdata.schemas import SEQUENCED_SCHEMAS, TIMESTAMP


def frame(names: list[str], sequences: list[int], *, epoch: int = 1, **columns: Any) -> Any:
    """A frame of the log as it is read from it."""
    batch = trades(names, **columns)
    rows = len(names)
    assigned = {
        "sequence": pa.array(sequences, pa.uint64()),
        "epoch": pa.array([epoch] * rows, pa.uint32()),
        "ts_sequenced": pa.array(np.arange(rows) + 1000, TIMESTAMP),
    }
    schema = SEQUENCED_SCHEMAS["trade"]
    arrays = [
        assigned[name] if name in assigned else batch.column(name).cast(schema.field(name).type)
        for name in schema.names
    ]
    return read_frame(encode_frame(pa.RecordBatch.from_arrays(arrays, schema=schema)))


def snapshot(epoch: int, **sequences: int) -> pa.RecordBatch:
    schema = pa.schema(
        [("instrument", pa.utf8()), ("sequence", pa.uint64())], metadata={"epoch": str(epoch)}
    )
    return pa.RecordBatch.from_arrays(
        [pa.array(list(sequences)), pa.array(list(sequences.values()), pa.uint64())], schema=schema
    )


def test_a_snapshot_tells_sequence_and_epoch() -> None:
    stand = InstrumentStand("B")
    stand.absorb_snapshot(snapshot(3, A=7, B=9), None)
    assert (stand.epoch, stand.sequence, stand.ts_sequenced_ns) == (3, 9, None)


def test_of_an_instrument_that_a_snapshot_does_not_know_the_epoch_is_known() -> None:
    stand = InstrumentStand("C")
    stand.absorb_snapshot(snapshot(3, A=7), None)
    assert (stand.epoch, stand.sequence) == (3, 0)


def test_the_newest_row_tells_the_sequence_and_each_source_its_newest() -> None:
    stand = InstrumentStand("A")
    stand.absorb_snapshot(snapshot(1, A=7), None)
    stand.absorb(
        frame(
            ["A", "B", "A", "A"],
            [8, 1, 9, 10],
            source=["x", "x", "y", "x"],
            source_sequence=[5, 99, None, 4],
            ts_event=[50, 900, 60, 40],
        )
    )
    assert (stand.sequence, stand.epoch, stand.ts_sequenced_ns) == (10, 1, 1003)
    assert stand.sources == {"x": SourceStand(5, 50), "y": SourceStand(None, 60)}
    stand.absorb(frame(["B"], [2]))
    stand.absorb(frame(["A"], [11], source=["y"], source_sequence=[0], ts_event=[55]))
    assert stand.sequence == 11
    assert stand.sources["y"] == SourceStand(0, 60)


def test_a_snapshot_tells_the_sources_that_number_and_frames_go_on_from_there() -> None:
    pairs = pa.RecordBatch.from_pydict(
        {
            "source": ["x", "x", "y"],
            "instrument": ["A", "B", "A"],
            "last": pa.array([5, 6, 2**64 - 1], pa.uint64()),
            "newest_ns": [50, 60, 70],
        }
    )
    stand = InstrumentStand("A")
    stand.absorb_snapshot(snapshot(1, A=7), pairs)
    assert stand.sources == {"x": SourceStand(5, 50), "y": SourceStand(2**64 - 1, 70)}
    stand.absorb(frame(["A", "A"], [8, 9], source=["x"] * 2, source_sequence=[4, 9]))
    assert stand.sources["x"].source_sequence == 9


def test_what_a_snapshot_leaves_out_comes_from_the_frames_up_to_it() -> None:
    stand = InstrumentStand("A", epoch=1, sequence=2, sources={"x": SourceStand(9, 90)})
    earlier = InstrumentStand("A")
    earlier.absorb(frame(["A", "A"], [1, 2], source=["x", "y"], ts_event=[10, 20]))
    stand.complete(earlier)
    assert stand.ts_sequenced_ns == 1001
    assert stand.sources == {"x": SourceStand(9, 90), "y": SourceStand(2, 20)}
    newer = InstrumentStand("A", epoch=2, sequence=2)
    newer.complete(earlier)
    assert newer.ts_sequenced_ns is None


def test_a_source_that_counts_anew_stands_at_its_new_number() -> None:
    stand = InstrumentStand("A")
    stand.absorb(frame(["A"] * 2, [1, 2], source_sequence=[8, 9], ts_event=[10, 20]))
    stand.absorb(frame(["A"] * 2, [3, 4], source_sequence=[1, 2], ts_event=[15, 16]))
    assert stand.sources["test"] == SourceStand(9, 20)
    stand.absorb(frame(["A"] * 3, [5, 6, 7], source_sequence=[10, 1, 2], ts_event=[21, 22, 23]))
    assert stand.sources["test"] == SourceStand(2, 23)
    stand.absorb(frame(["A"] * 2, [8, 9], source_sequence=[3, 1], ts_event=[24, 24]))
    assert stand.sources["test"] == SourceStand(3, 24)


def test_a_new_epoch_starts_the_sequence_anew_and_an_old_one_says_nothing() -> None:
    stand = InstrumentStand("A", epoch=2, sequence=5, ts_sequenced_ns=1)
    stand.start_anew(2)
    assert stand.sequence == 5
    stand.start_anew(3)
    assert (stand.epoch, stand.sequence, stand.ts_sequenced_ns) == (3, 0, None)


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from("AB"), st.sampled_from("xyz"), st.none() | st.integers(2, 2**64 - 1)
            ),
            min_size=1,
            max_size=6,
        ),
        max_size=4,
    )
)
def test_frames_are_absorbed_as_if_event_by_event(
    frames: list[list[tuple[str, str, int | None]]],
) -> None:
    stand = InstrumentStand("A")
    count = 0
    expected: dict[str, int | None] = {}
    for rows in frames:
        sequences = []
        for name, source, number in rows:
            count += name == "A"
            sequences.append(count if name == "A" else 1)
            if name == "A":
                known = expected.get(source)
                given_ = [n for n in (known, number) if n is not None]
                expected[source] = max(given_, default=None)
        stand.absorb(
            frame(
                [name for name, _, _ in rows],
                sequences,
                source=[source for _, source, _ in rows],
                source_sequence=[number for _, _, number in rows],
            )
        )
    assert stand.sequence == count
    assert {name: source.source_sequence for name, source in stand.sources.items()} == expected
