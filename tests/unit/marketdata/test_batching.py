"""Cutting batches into frames loses nothing and keeps the order of every instrument."""

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.batching import (
    MAX_TEXT_BYTES,
    Cut,
    PartitionBuffer,
    conform_events,
    split_by_partition,
)
from marketdata.errors import InvalidEvents
from marketdata.frames import decode_frame, encode_frame
from marketdata.mixed import MIXED, kinds_in, single_kinds
from marketdata.partitioning import partition_of
from marketdata.schemas import INGEST_SCHEMAS, TIMESTAMP

INSTRUMENTS = tuple(f"I{number}" for number in range(40))


def symbols(values: list[str]) -> pa.DictionaryArray:
    encoded = pa.array(values, pa.utf8()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.int16()), encoded.dictionary)


def events(kind: str, rows: list[tuple[str, int]], **columns: pa.Array) -> pa.RecordBatch:
    """A batch of (instrument, source sequence) rows; other columns are null where they may be."""
    schema, n = INGEST_SCHEMAS[kind], len(rows)
    given_columns = {
        "instrument": symbols([instrument for instrument, _ in rows]),
        "venue": symbols(["XNAS"] * n),
        "source": symbols(["test"] * n),
        "source_sequence": pa.array([number for _, number in rows], pa.uint64()),
        "ts_event": pa.array(np.arange(n, dtype=np.int64) + 1).view(TIMESTAMP),
        "ts_publish": pa.array(np.ones(n, dtype=np.int64)).view(TIMESTAMP),
    } | columns
    return pa.RecordBatch.from_arrays(
        [given_columns.get(f.name, pa.nulls(n, f.type)) for f in schema], schema=schema
    )


def rows_of(batch: pa.RecordBatch) -> list[tuple[str, int]]:
    return list(
        zip(
            batch.column("instrument").to_pylist(),
            batch.column("source_sequence").to_pylist(),
            strict=True,
        )
    )


def numbered(names: list[str], start: int = 0) -> list[tuple[str, int]]:
    return [(name, start + offset) for offset, name in enumerate(names)]


names_strategy = st.lists(st.sampled_from(INSTRUMENTS), min_size=1, max_size=200)
calls_strategy = st.lists(
    st.tuples(st.sampled_from(("trade", "quote", "bar")), names_strategy), min_size=1, max_size=12
)


@given(names=names_strategy, partitions=st.integers(1, 9))
def test_split_puts_every_event_in_its_partition_once_and_in_order(
    names: list[str], partitions: int
) -> None:
    batch = events("trade", numbered(names))
    pieces = split_by_partition(batch, partitions)
    assert [partition for partition, _ in pieces] == sorted({p for p, _ in pieces})
    for partition, piece in pieces:
        assert rows_of(piece) == [
            row for row in rows_of(batch) if partition_of(row[0], partitions) == partition
        ]
        assert piece.schema.equals(batch.schema, check_metadata=True)
    assert sum(piece.num_rows for _, piece in pieces) == len(names)


@given(
    calls=calls_strategy, max_events=st.integers(1, 64), max_bytes=st.sampled_from((1, 2000, 10**6))
)
def test_buffer_loses_nothing_and_keeps_the_order_across_kinds(
    calls: list[tuple[str, list[str]]], max_events: int, max_bytes: int
) -> None:
    buffer = PartitionBuffer(max_events=max_events, max_bytes=max_bytes)
    added: list[tuple[str, str, int]] = []
    cuts: list[Cut] = []
    for kind, names in calls:
        rows = numbered(names, len(added))
        added += [(kind, *row) for row in rows]
        cuts += buffer.add(kind, events(kind, rows))
    cuts += buffer.take()
    assert [(cut.kind, *row) for cut in cuts for row in rows_of(cut.batch)] == added
    assert all(1 <= cut.batch.num_rows <= max_events for cut in cuts)
    assert buffer.events == 0
    assert buffer.take() == []


@given(
    calls=calls_strategy,
    max_events=st.integers(1, 600),
    max_bytes=st.sampled_from((1, 2000, 10**6)),
)
def test_frames_of_several_kinds_lose_nothing_and_keep_the_order(
    calls: list[tuple[str, list[str]]], max_events: int, max_bytes: int
) -> None:
    buffer = PartitionBuffer(max_events=max_events, max_bytes=max_bytes, mixed=True)
    added: list[tuple[str, str, int]] = []
    cuts: list[Cut] = []
    for kind, names in calls:
        rows = numbered(names, len(added))
        added += [(kind, *row) for row in rows]
        cuts += buffer.add(kind, events(kind, rows))
    cuts += buffer.take()
    assert [
        (kind, *row)
        for cut in cuts
        for kind, run in single_kinds(cut.kind, cut.batch)
        for row in rows_of(run)
    ] == added
    assert all(1 <= cut.batch.num_rows <= max_events for cut in cuts)
    for cut in cuts:
        decoded = decode_frame(encode_frame(cut.batch).to_pybytes())
        assert decoded.equals(cut.batch)
        if cut.kind == MIXED:
            assert len(kinds_in(cut.kind, cut.batch)) > 1
            assert cut.batch.nbytes <= max_bytes


def test_frames_hold_several_kinds_only_where_events_are_few() -> None:
    buffer = PartitionBuffer(max_events=32_768, max_bytes=1 << 22, mixed=True)
    calls = [("quote", 3000), ("trade", 5000), ("quote", 300), ("trade", 9000), ("quote", 1)]
    cuts = [
        cut
        for kind, rows in calls
        for cut in buffer.add(kind, events(kind, numbered(["A"] * rows)))
    ]
    cuts += buffer.take()
    assert [(cut.kind, cut.batch.num_rows) for cut in cuts] == [
        ("mixed", 8000),
        ("quote", 300),
        ("trade", 9000),
        ("quote", 1),
    ]


@given(calls=calls_strategy, max_events=st.integers(1, 64))
def test_equal_calls_give_equal_frames(calls: list[tuple[str, list[str]]], max_events: int) -> None:
    def run() -> list[Cut]:
        buffer = PartitionBuffer(max_events=max_events, max_bytes=4000)
        cuts = [c for kind, names in calls for c in buffer.add(kind, events(kind, numbered(names)))]
        return cuts + buffer.take()

    assert run() == run()


@given(calls=calls_strategy, partitions=st.integers(1, 5), max_events=st.integers(1, 50))
def test_split_and_buffers_together_keep_every_instrument_in_order(
    calls: list[tuple[str, list[str]]], partitions: int, max_events: int
) -> None:
    buffers = [PartitionBuffer(max_events=max_events, max_bytes=1 << 20) for _ in range(partitions)]
    sent: dict[str, list[int]] = defaultdict(list)
    got: dict[str, list[int]] = defaultdict(list)
    number = 0
    for kind, names in calls:
        rows = numbered(names, number)
        number += len(rows)
        for name, n in rows:
            sent[name].append(n)
        for partition, piece in split_by_partition(events(kind, rows), partitions):
            for cut in buffers[partition].add(kind, piece):
                for name, n in rows_of(cut.batch):
                    got[name].append(n)
    for buffer in buffers:
        for cut in buffer.take():
            for name, n in rows_of(cut.batch):
                got[name].append(n)
    assert got == sent


def test_frames_name_only_the_instruments_they_hold() -> None:
    buffer = PartitionBuffer(max_events=2, max_bytes=1 << 20)
    cuts = buffer.add("trade", events("trade", numbered(["A", "B", "C", "D"])))
    assert [cut.batch.column("instrument").dictionary.to_pylist() for cut in cuts] == [
        ["A", "B"],
        ["C", "D"],
    ]


def test_frames_are_filled_across_adjacent_batches_of_one_kind() -> None:
    buffer = PartitionBuffer(max_events=4, max_bytes=1 << 20)
    cuts = [
        cut
        for start in range(0, 9, 3)
        for cut in buffer.add("trade", events("trade", numbered(["A", "B", "A"], start)))
    ]
    assert [cut.batch.num_rows for cut in cuts] == [4, 4]
    assert buffer.events == 1


def test_another_trace_gets_a_frame_of_its_own() -> None:
    buffer = PartitionBuffer(max_events=10, max_bytes=1 << 20)
    batch = events("trade", numbered(["A"]))
    assert buffer.add("trade", batch, "00-a") == []
    assert [cut.traceparent for cut in buffer.add("trade", batch, "00-b")] == ["00-a"]
    assert [cut.traceparent for cut in buffer.take()] == ["00-b"]


def test_frames_stay_below_the_byte_limit() -> None:
    texts = pa.array(["x" * 1000] * 100)
    batch = events("trade", numbered(["A"] * 100), trade_id=texts)
    buffer = PartitionBuffer(max_events=100, max_bytes=20_000)
    cuts = buffer.add("trade", batch) + buffer.take()
    assert len(cuts) > 1
    assert all(cut.batch.nbytes <= 20_000 for cut in cuts)


@pytest.mark.parametrize(("max_events", "max_bytes"), [(0, 1), (32_769, 1), (1, 0)])
def test_limits_out_of_range_are_refused(max_events: int, max_bytes: int) -> None:
    with pytest.raises(ValueError, match="give"):
        PartitionBuffer(max_events=max_events, max_bytes=max_bytes)


def test_conform_stamps_the_time_of_publishing_even_into_an_absent_column() -> None:
    batch = events("trade", numbered(["A", "B"]))
    without = batch.drop_columns(["ts_publish"])
    for given_batch in (batch, without):
        kind, sent = conform_events(given_batch, ts_publish_ns=77)
        assert kind == "trade"
        assert sent.column("ts_publish").view(pa.int64()).to_pylist() == [77, 77]
        assert sent.schema.equals(INGEST_SCHEMAS["trade"], check_metadata=True)


def test_conform_keeps_the_given_time_when_asked() -> None:
    _, sent = conform_events(events("bar", numbered(["A"])), ts_publish_ns=None)
    assert sent.column("ts_publish").view(pa.int64()).to_pylist() == [1]


def test_conform_takes_batches_longer_than_a_frame() -> None:
    _, sent = conform_events(events("quote", numbered(["A"] * 20_000)), ts_publish_ns=1)
    assert sent.num_rows == 20_000


def test_conform_orders_columns_as_the_schema_does() -> None:
    batch = events("quote", numbered(["A"]))
    shuffled = batch.select(list(reversed(batch.schema.names)))
    assert conform_events(shuffled, ts_publish_ns=5)[1].schema == INGEST_SCHEMAS["quote"]


def _null_instrument() -> pa.RecordBatch:
    column = pa.DictionaryArray.from_arrays(pa.array([0, None], pa.int16()), pa.array(["A"]))
    return events("trade", numbered(["A", "A"]), instrument=column)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (events("trade", []), "holds no events"),
        (_null_instrument(), "instrument"),
        (events("trade", numbered(["A"])).drop_columns(["price"]), r"missing columns \['price'\]"),
        (events("trade", numbered([""])), "symbol"),
        (events("trade", numbered(["A"]), size=pa.array([-1])), "size"),
        (events("trade", numbered(["A"]), quality=pa.array([2.0], pa.float32())), "quality"),
        (events("trade", numbered(["A"])).replace_schema_metadata({}), "kind"),
        (
            events("trade", numbered(["A"]), trade_id=pa.array(["x" * (MAX_TEXT_BYTES + 1)])),
            "trade_id",
        ),
        (
            events("trade", numbered(["A"] * 33_000), size=pa.array([0] * 32_999 + [-1])),
            "rows from 32768",
        ),
        (
            pa.RecordBatch.from_pydict(
                {"price": [1.0]}, schema=pa.schema([("price", pa.float64())])
            ).replace_schema_metadata({"kind": "trade", "schema_version": "1"}),
            "missing columns",
        ),
    ],
    ids=[
        "empty",
        "null-key",
        "missing",
        "symbol",
        "range",
        "quality",
        "kind",
        "long-text",
        "far",
        "alien",
    ],
)
def test_conform_refuses_what_breaks_the_contract_and_says_where(
    batch: pa.RecordBatch, says: str
) -> None:
    with pytest.raises(InvalidEvents, match=says):
        conform_events(batch, ts_publish_ns=1)


def test_conform_refuses_a_column_of_another_type() -> None:
    batch = events("trade", numbered(["A"]))
    place = batch.schema.get_field_index("price")
    changed = batch.set_column(place, pa.field("price", pa.float64()), pa.array([1.0]))
    with pytest.raises(InvalidEvents, match="'price' is double, must be int64"):
        conform_events(changed, ts_publish_ns=1)


def test_a_fill_shares_its_frame_with_nothing_else() -> None:
    buffer = PartitionBuffer(max_events=100, max_bytes=1 << 20)
    cuts: list[Cut] = []
    for number, fill in enumerate((False, True, True, False)):
        cuts += buffer.add("trade", events("trade", [("I0", number)]), fill=fill)
    cuts += buffer.take()
    assert [(cut.fill, cut.batch.num_rows) for cut in cuts] == [(False, 1), (True, 2), (False, 1)]
