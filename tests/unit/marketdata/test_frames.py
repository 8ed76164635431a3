"""Frames: what is encoded comes back; whatever else comes in is refused with its reason."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from events import batches, column, quotes, trades
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import InvalidFrame
from marketdata.frames import (
    MAX_FRAME_BYTES,
    MAX_ROWS,
    REASONS,
    compact_dictionaries,
    decode_frame,
    encode_frame,
    frame_kind,
    frame_properties,
    read_frame,
    validate_events,
)
from marketdata.mixed import MAX_KIND_RUNS, MAX_MIXED_ROWS, mixed_batch
from marketdata.partitioning import partition_of
from marketdata.schemas import ASSIGNED, INGEST_SCHEMAS, KINDS, SCHEMA_VERSION, SEQUENCED_SCHEMAS


@given(batches(), st.sampled_from([None, "lz4", "zstd"]))
def test_an_ingest_frame_comes_back_as_it_was(batch: pa.RecordBatch, compression: str) -> None:
    data = encode_frame(batch, compression=compression).to_pybytes()
    assert decode_frame(data).equals(batch, check_metadata=True)
    assert read_frame(data).equals(batch)


@given(batches(sequenced=True))
def test_a_sequenced_frame_comes_back_as_it_was(batch: pa.RecordBatch) -> None:
    assert decode_frame(encode_frame(batch).to_pybytes(), sequenced=True).equals(batch)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_with_a_known_code(data: bytes) -> None:
    with pytest.raises(InvalidFrame) as refused:
        decode_frame(data)
    assert refused.value.code in REASONS


@given(batches(max_rows=3), st.data())
def test_a_frame_cut_or_altered_anywhere_is_refused_or_still_keeps_the_contract(
    batch: pa.RecordBatch, data: st.DataObject
) -> None:
    whole = encode_frame(batch).to_pybytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(InvalidFrame):
        decode_frame(whole[:at])
    altered = bytearray(whole)
    altered[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(InvalidFrame):
        validate_events(decode_frame(bytes(altered)))


def _frame(batch: pa.RecordBatch) -> bytes:
    return encode_frame(batch).to_pybytes()


def _with(name: str, values: list[Any]) -> bytes:
    batch = trades(["A", "B", "A"])
    index = batch.schema.get_field_index(name)
    field = batch.schema.field(name).with_nullable(True)
    return _frame(batch.set_column(index, field, column(values, field)))


def _relabelled(**metadata: str) -> bytes:
    batch = trades(["A"])
    return _frame(batch.replace_schema_metadata({**batch.schema.metadata, **_bytes(metadata)}))


def _bytes(metadata: dict[str, str]) -> dict[bytes, bytes]:
    return {key.encode(): value.encode() for key, value in metadata.items()}


def _two_batches() -> bytes:
    sink = pa.BufferOutputStream()
    batch = trades(["A"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _bad_code() -> bytes:
    batch = trades(["A"])
    broken = pa.DictionaryArray.from_arrays(
        pa.array(np.array([7], dtype=np.int16)), pa.array(["A"]), safe=False
    )
    return _frame(pa.RecordBatch.from_arrays([broken, *batch.columns[1:]], schema=batch.schema))


def _mixed(rows: int = 3, **columns: pa.Array) -> bytes:
    """Trade, quote, trade, … with other columns in the place of some."""
    singles = [(kind, made(["A"])) for kind, made in (("trade", trades), ("quote", quotes))]
    batch = mixed_batch([singles[n % 2] for n in range(rows)])
    for name, values in columns.items():
        index = batch.schema.get_field_index(name)
        batch = batch.set_column(index, pa.field(name, values.type), values)
    return _frame(batch)


def _kinds(codes: list[int | None], kinds: list[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int16()), pa.array(kinds))


@pytest.mark.parametrize(
    ("code", "make", "says"),
    [
        ("not_arrow", lambda: b"hello, this is no frame", "not an Arrow"),
        ("not_arrow", lambda: b"", "not an Arrow"),
        ("truncated", lambda: _frame(trades(["A"]))[:-8], "marker is missing"),
        ("truncated", lambda: _frame(trades(["A"]))[:-100], "ends early"),
        ("trailing_bytes", lambda: _frame(trades(["A"])) + b"xyz", "3 bytes follow"),
        ("too_large", lambda: b"\0" * (MAX_FRAME_BYTES + 1), "at most"),
        ("unknown_kind", lambda: _relabelled(kind="candle"), "kind='candle'"),
        ("unsupported_version", lambda: _relabelled(schema_version="99"), "'99'"),
        ("wrong_schema", lambda: _frame(trades(["A"]).drop_columns(["price"])), "'price'"),
        ("wrong_schema", lambda: _frame(trades(["A"]).select([1, 0, *range(2, 14)])), "order"),
        ("batch_count", _two_batches, "2 record batches"),
        ("empty", lambda: _frame(trades([])), "no events"),
        ("too_many_rows", lambda: _frame(trades(["A"] * (MAX_ROWS + 1))), f"{MAX_ROWS + 1} events"),
        ("corrupt", _bad_code, "Arrow's own rules"),
        ("null_key", lambda: _with("venue", ["XNAS", None, None]), "row 1 holds None (2 of 3"),
        ("bad_symbol", lambda: _with("region", ["us", "", "us"]), "'region'"),
        ("bad_symbol", lambda: _with("instrument", ["x" * 256, "B", "B"]), "'instrument'"),
        ("out_of_range", lambda: _with("quality", [0.5, float("nan"), None]), "row 1 holds nan"),
        ("out_of_range", lambda: _with("quality", [0.5, 1.0, 1.5]), "row 2 holds 1.5"),
        ("out_of_range", lambda: _with("size", [1, None, -1]), "row 2 holds -1"),
        ("out_of_range", lambda: _with("ts_event", [-5, 1, 1]), "row 0 holds -5"),
        ("unknown_kind", lambda: _mixed(kind=_kinds([0, 1, 0], ["trade", "candle"])), "'candle'"),
        ("unknown_kind", lambda: _mixed(kind=_kinds([0, 1, 0], ["trade", "trade"])), "once"),
        ("null_key", lambda: _mixed(kind=_kinds([0, None, 1], ["trade", "quote"])), "row 1"),
        ("wrong_schema", lambda: _mixed(1, kind=_kinds([0], ["trade", "quote"])), "'bid_price'"),
        ("wrong_schema", lambda: _mixed(kind=_kinds([0, 0, 0], ["trade", "quote"])), "absent"),
        ("wrong_schema", lambda: _mixed(kind=pa.array([1, 2, 3])), "a column 'kind' of type"),
        ("foreign_column", lambda: _mixed(price=pa.array([1, 2, 3])), "row 1 holds 2 (1 of 3"),
        ("out_of_range", lambda: _mixed(size=pa.array([1, None, -1])), "row 2 holds -1"),
        ("too_many_rows", lambda: _mixed(MAX_MIXED_ROWS + 1), f"{MAX_MIXED_ROWS} of several"),
        ("too_many_runs", lambda: _mixed(MAX_KIND_RUNS + 1), f"changes {MAX_KIND_RUNS} times"),
    ],
)
def test_each_breach_of_the_contract_is_named(
    code: str, make: Callable[[], bytes], says: str
) -> None:
    with pytest.raises(InvalidFrame) as refused:
        decode_frame(make())
    assert (refused.value.code, says in refused.value.reason) == (code, True), refused.value


def test_a_wrong_type_says_what_is_there_and_what_must_be() -> None:
    batch = trades(["A"])
    index = batch.schema.get_field_index("price")
    floats = batch.set_column(index, "price", pa.array([1.5]))
    with pytest.raises(InvalidFrame, match=r"'price' is double, must be int64"):
        decode_frame(_frame(floats))


@pytest.mark.parametrize("metadata", [None, {"unit": "x" * 1000, "scale": "zz"}])
def test_what_a_publisher_says_of_fields_is_not_passed_on(
    metadata: dict[str, str] | None,
) -> None:
    batch = trades(["A"])
    foreign = pa.schema(
        [field.with_metadata(metadata) for field in batch.schema], metadata=batch.schema.metadata
    )
    frame = encode_frame(pa.RecordBatch.from_arrays(batch.columns, schema=foreign))
    decoded = decode_frame(frame.to_pybytes())
    assert decoded.schema.equals(INGEST_SCHEMAS["trade"], check_metadata=True)


def test_an_instrument_on_a_foreign_partition_is_named() -> None:
    belongs = partition_of("AAPL", 4)
    data = _frame(trades(["AAPL"]))
    assert decode_frame(data, partition=belongs, partitions=4).num_rows == 1
    with pytest.raises(InvalidFrame, match=f"belongs to partition {belongs} of 4"):
        decode_frame(data, partition=(belongs + 1) % 4, partitions=4)


@given(batches(), st.data())
def test_compacted_rows_are_the_same_and_name_only_what_occurs(
    batch: pa.RecordBatch, data: st.DataObject
) -> None:
    keep = data.draw(st.lists(st.booleans(), min_size=batch.num_rows, max_size=batch.num_rows))
    rows = batch.filter(pa.array(keep))
    compacted = compact_dictionaries(rows)
    assert compacted.to_pylist() == rows.to_pylist()
    for field, values in zip(compacted.schema, compacted.columns, strict=True):
        if pa.types.is_dictionary(field.type):
            occurring = set(values.to_pylist()) - {None}
            assert set(values.dictionary.to_pylist()) == occurring


def test_properties_tell_a_reader_what_is_inside() -> None:
    batch = trades(["A", "B"], ts_event=[5, 9])
    assert frame_properties(batch, "trade") == {
        "kind": "trade",
        "count": "2",
        "schema_version": str(SCHEMA_VERSION),
        "format": "arrow",
        "ts_event_first": "5",
        "ts_event_last": "9",
    }


def test_every_kind_has_both_schemas_and_names_itself() -> None:
    for kind in KINDS:
        empty = pa.RecordBatch.from_pylist([], schema=SEQUENCED_SCHEMAS[kind])
        assert frame_kind(empty) == kind
        assert set(SEQUENCED_SCHEMAS[kind].names) - set(INGEST_SCHEMAS[kind].names) == set(ASSIGNED)
