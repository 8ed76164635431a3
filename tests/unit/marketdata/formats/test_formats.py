"""Every format gives back what it was given, exactly, and JSON is JSON to others."""

import csv
import io
import json
import math
import sys
from decimal import Decimal
from pathlib import Path

import fastavro
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from marketdata.formats import FormatError, formats, get_format
from marketdata.frames import frame_kind
from marketdata.schemas import SEQUENCED_SCHEMAS, SYMBOL, TIMESTAMP, decimal_scale
from marketdata.transformations import Transformation

sys.path.insert(0, str(Path(__file__).parents[1] / "filters"))

from strategies import batches

THOROUGH = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def rows(batch: pa.RecordBatch) -> list[list[object]]:
    columns = []
    for column in batch.columns:
        whole = pa.types.is_timestamp(column.type)
        columns.append((column.view(pa.int64()) if whole else column).to_pylist())
    return [list(row) for row in zip(*columns, strict=True)]


@THOROUGH
@given(batches(finite=True))
@pytest.mark.parametrize("name", sorted(formats()))
def test_round_trip_of_any_batch(name: str, batch: pa.RecordBatch) -> None:
    format_ = get_format(name)
    back = format_.decode(format_.encode(batch))
    assert back.schema.equals(batch.schema, check_metadata=True)
    assert rows(back) == rows(batch)


@THOROUGH
@given(batches())
def test_json_lines_read_by_the_standard_library_are_the_exact_values(
    batch: pa.RecordBatch,
) -> None:
    lines = get_format("json").encode(batch).decode("utf-8").split("\n")
    assert lines.pop() == ""
    events = [json.loads(line) for line in lines]
    assert len(events) == batch.num_rows
    for field, column in zip(batch.schema, batch.columns, strict=True):
        for event, scalar in zip(events, column, strict=True):
            assert list(event) == ["kind", *batch.schema.names]
            assert event["kind"] == frame_kind(batch)
            assert event[field.name] == said(field, scalar)


def said(field: pa.Field, scalar: pa.Scalar) -> object:
    if not scalar.is_valid:
        return None
    if pa.types.is_timestamp(field.type):
        seconds, nanos = divmod(scalar.value, 10**9)
        whole = pa.scalar(seconds, pa.timestamp("s")).as_py().isoformat()
        return f"{whole}.{nanos:09d}Z"
    value = scalar.as_py()
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.7g}")
    scale = decimal_scale(field)
    if scale is None:
        return value
    whole, rest = divmod(abs(value), 10**scale)
    text = f"{whole}.{rest:0{scale}d}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 else text


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("name", sorted(formats()))
def test_compressed_frames_are_recognized(name: str, compression: str) -> None:
    some = sample()
    format_ = get_format(name)
    assert rows(format_.decode(format_.encode(some, compression))) == rows(some)


@pytest.mark.parametrize("name", sorted(formats()))
def test_unknown_compression_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="there are: none, lz4, zstd"):
        get_format(name).encode(sample(), "rar")


@pytest.mark.parametrize("name", sorted(name for name in formats() if get_format(name).renames))
def test_renamed_columns_come_back_with_their_schema(name: str) -> None:
    transformation = Transformation(("price", "instrument", "sequence"), {"price": "px"})
    batch = transformation.apply(sample())
    data = get_format(name).encode(batch)
    back = get_format(name).decode(data, transformation.schema(SEQUENCED_SCHEMAS["trade"]))
    assert back.schema.names == ["px", "instrument", "sequence"]
    assert rows(back) == rows(batch)


EXTREME = [0, 1, -1, 10**9, -(10**9) - 5, 2**63 - 1, -(2**63), None]


def computed_sample() -> tuple[pa.RecordBatch, Transformation]:
    """Computed columns of every scale and type, and masked ones, beside plain ones."""
    transformation = Transformation(
        ("instrument", "sequence", "source", "price"),
        compute={
            "text": "CASE WHEN price > 0 THEN upper(side) WHEN price < 0 THEN '\"ß,\n' END",
            "time": "coalesce(ts_event, ts_publish)",
            "nothing": "upper(region)",
            "units": "CASE WHEN price < 0 THEN -1 ELSE price * 1000 END",
            **{f"d{n}": f"round(price, {n})" for n in range(10)},
        },
        mask=("source", "price"),
    )
    schema = SEQUENCED_SCHEMAS["trade"]
    arrays = [pa.nulls(len(EXTREME), field.type) for field in schema]
    for name, values in {
        "instrument": pa.array(["A"] * len(EXTREME)).dictionary_encode().cast(SYMBOL),
        "sequence": pa.array(range(len(EXTREME)), pa.uint64()),
        "side": pa.array(["buy", "sell", None, "buy"] * 2).dictionary_encode().cast(SYMBOL),
        "ts_publish": pa.array([5] * len(EXTREME), pa.int64()).view(TIMESTAMP),
        "price": pa.array(EXTREME, pa.int64()),
    }.items():
        arrays[schema.get_field_index(name)] = values
    return pa.RecordBatch.from_arrays(arrays, schema=schema), transformation


@pytest.mark.parametrize("name", sorted(name for name in formats() if get_format(name).renames))
def test_computed_and_masked_columns_come_back_with_their_schema(name: str) -> None:
    events, transformation = computed_sample()
    batch = transformation.apply(events)
    wanted = transformation.schema(events.schema)
    back = get_format(name).decode(get_format(name).encode(batch), wanted)
    assert back.schema.equals(wanted, check_metadata=True)
    assert rows(back) == rows(batch)
    assert back.column("d9").to_pylist() == EXTREME


def test_computed_numbers_are_exact_texts_in_json_and_csv_and_decimals_in_avro() -> None:
    events, transformation = computed_sample()
    batch = transformation.apply(events)
    lines = [json.loads(line) for line in get_format("json").encode(batch).splitlines()]
    table = list(csv.DictReader(io.StringIO(get_format("csv").encode(batch).decode())))
    records = list(fastavro.reader(io.BytesIO(get_format("avro").encode(batch))))
    for field, column in zip(batch.schema, batch.columns, strict=True):
        scale = decimal_scale(field)
        for scalar, line, cells, record in zip(column, lines, table, records, strict=True):
            assert line[field.name] == said(field, scalar)
            if scale and scalar.is_valid:
                exact = Decimal(scalar.as_py()).scaleb(-scale)
                assert Decimal(cells[field.name]) == record[field.name] == exact


def test_protobuf_has_masked_columns_as_absent_and_no_computed_ones() -> None:
    masked = Transformation(mask=("price", "source")).apply(sample())
    back = get_format("protobuf").decode(get_format("protobuf").encode(masked), masked.schema)
    assert rows(back) == rows(masked)
    computed = Transformation(compute={"x": "price"}).apply(sample())
    with pytest.raises(FormatError, match="'x' has no field"):
        get_format("protobuf").encode(computed)


def test_renamed_json_without_schema_is_refused_with_what_to_do() -> None:
    data = get_format("json").encode(Transformation(rename={"price": "px"}).apply(sample()))
    with pytest.raises(FormatError, match="pass the schema"):
        get_format("json").decode(data)


def test_arrow_frames_of_another_schema_are_refused() -> None:
    data = get_format("arrow").encode(sample())
    with pytest.raises(FormatError, match="another schema"):
        get_format("arrow").decode(data, SEQUENCED_SCHEMAS["quote"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b"{}\n",
        b'{"kind":"nope"}\n',
        b'{"kind":"trade","price":"1e40"}\n',
        b'{"kind":"trade","price":"9300000000"}\n',
        b'{"kind":"trade","price":"1"}\n{"kind":"quote","price":"1"}\n',
        b'{"kind":"trade","price":"1"}\n{"kind":"trade","prize":"1"}\n',
        b"\x28\xb5\x2f\xfdxx",
    ],
)
@pytest.mark.parametrize("name", sorted(formats()))
def test_bytes_of_no_frame_are_refused(name: str, data: bytes) -> None:
    with pytest.raises(FormatError):
        get_format(name).decode(data)


def test_unknown_format_is_refused_with_those_that_are() -> None:
    with pytest.raises(FormatError, match="arrow, json"):
        get_format("xml")


def test_batch_without_a_kind_cannot_be_written_as_json() -> None:
    with pytest.raises(FormatError, match="unknown_kind"):
        get_format("json").encode(sample().replace_schema_metadata(None))


def test_no_rows_are_no_lines() -> None:
    assert get_format("json").encode(sample().slice(0, 0)) == b""


def test_column_of_a_type_that_events_do_not_have_is_refused() -> None:
    schema = pa.schema([pa.field("x", pa.date32())], SEQUENCED_SCHEMAS["trade"].metadata)
    batch = pa.RecordBatch.from_arrays([pa.array([1], pa.int32()).view(pa.date32())], schema=schema)
    with pytest.raises(FormatError, match="no form for date32"):
        get_format("json").encode(batch)


@pytest.mark.parametrize("many", [1, 40, 600, 5000])
def test_long_frames_with_many_distinct_values_round_trip(many: int) -> None:
    """Crosses the sizes at which pieces stop being merged."""
    schema = SEQUENCED_SCHEMAS["trade"]
    n = 6000
    arrays = []
    for i, field in enumerate(schema):
        values = [(j * 7919 + i) % many for j in range(n)]
        if pa.types.is_dictionary(field.type) or pa.types.is_string(field.type):
            text = pa.array([f'v"{v}' if v % 2 else f"w{v}" for v in values])
            codes = text.dictionary_encode()
            column = pa.DictionaryArray.from_arrays(codes.indices.cast("int16"), codes.dictionary)
            arrays.append(column if pa.types.is_dictionary(field.type) else text)
        elif decimal_scale(field):
            arrays.append(pa.array([v * 10**5 * (-1) ** v for v in values], pa.int64()))
        elif pa.types.is_timestamp(field.type):
            arrays.append(pa.array([v * 10**7 for v in values]).view(field.type))
        elif pa.types.is_floating(field.type):
            arrays.append(pa.array([v / many for v in values], pa.float32()))
        else:
            arrays.append(pa.array(values, field.type))
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    data = get_format("json").encode(batch)
    assert rows(get_format("json").decode(data)) == rows(batch)
    assert len([json.loads(line) for line in data.splitlines()]) == n


def sample() -> pa.RecordBatch:
    schema = SEQUENCED_SCHEMAS["trade"]
    plain = {
        "instrument": ["A", "B", "A"],
        "price": [187_250_000_000, -1, None],
        "sequence": [1, 1, 2],
    }
    arrays = []
    for field in schema:
        absent = "X" if pa.types.is_dictionary(field.type) else 0
        values = plain.get(field.name, [None if field.nullable else absent] * 3)
        if pa.types.is_dictionary(field.type):
            encoded = pa.array(values, pa.utf8()).dictionary_encode()
            codes = encoded.indices.cast(pa.int16())
            arrays.append(pa.DictionaryArray.from_arrays(codes, encoded.dictionary))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
