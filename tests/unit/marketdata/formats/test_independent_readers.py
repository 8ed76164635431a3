"""Libraries that are not ours read every frame, and find the exact values in it."""

import csv
import importlib.util
import io
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import fastavro
import msgpack
import pyarrow as pa
import pytest
from google.protobuf.internal.decoder import _DecodeVarint32
from hypothesis import HealthCheck, given, settings

from marketdata.formats import get_format
from marketdata.formats.avro_schemas import avro_schema
from marketdata.formats.protobuf_schemas import FIELD_NUMBERS, KIND_NUMBERS, proto_file
from marketdata.frames import frame_kind
from marketdata.schemas import COLUMNS, KINDS, SEQUENCED_SCHEMAS, decimal_scale

sys.path.insert(0, str(Path(__file__).parents[1] / "filters"))

from strategies import batches

THOROUGH = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def raw(batch: pa.RecordBatch) -> dict[str, list[Any]]:
    """Integers for times, prices and sizes."""
    return {
        field.name: (
            column.view(pa.int64()) if pa.types.is_timestamp(field.type) else column
        ).to_pylist()
        for field, column in zip(batch.schema, batch.columns, strict=True)
    }


def same(found: Any, value: Any) -> bool:
    if isinstance(value, float) and math.isnan(value):
        return isinstance(found, float) and math.isnan(found)
    return type(found) is type(value) and found == value


def exact(field: pa.Field, value: Any) -> Any:
    """Decimals where Avro has them."""
    if value is None or not (decimal_scale(field) or pa.types.is_uint64(field.type)):
        return value
    return Decimal(value).scaleb(-(decimal_scale(field) or 0))


@THOROUGH
@given(batches())
def test_fastavro_reads_the_exact_values(batch: pa.RecordBatch) -> None:
    reader = fastavro.reader(io.BytesIO(get_format("avro").encode(batch)))
    events = list(reader)
    assert len(events) == batch.num_rows
    for name, values in raw(batch).items():
        for event, value in zip(events, values, strict=True):
            assert same(event[name], exact(batch.schema.field(name), value))


@pytest.mark.parametrize("kind", KINDS)
def test_fastavro_accepts_the_schema_of_every_kind(kind: str) -> None:
    parsed = fastavro.parse_schema(json.loads(avro_schema(SEQUENCED_SCHEMAS[kind])))
    assert [field["name"] for field in parsed["fields"]] == SEQUENCED_SCHEMAS[kind].names


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The classes that protoc makes of the published file."""
    folder = tmp_path_factory.mktemp("proto")
    (folder / "events.proto").write_text(proto_file())
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--python_out={folder}"]
    subprocess.run([*command, "events.proto"], check=True, cwd=folder)
    spec = importlib.util.spec_from_file_location("events_pb2", folder / "events_pb2.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def delimited(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size, at = _DecodeVarint32(data, at)
        yield data[at : at + size]
        at += size


@THOROUGH
@given(batch=batches())
def test_classes_made_by_protoc_read_the_exact_values(
    generated: ModuleType, batch: pa.RecordBatch
) -> None:
    events = []
    for one in delimited(get_format("protobuf").encode(batch)):
        event = generated.Event()
        assert event.ParseFromString(one) == len(one)
        assert event.WhichOneof("event") == frame_kind(batch)
        events.append(getattr(event, frame_kind(batch)))
    assert len(events) == batch.num_rows
    for name, values in raw(batch).items():
        for event, value in zip(events, values, strict=True):
            assert event.HasField(name) == (value is not None)
            assert value is None or same(getattr(event, name), value)


def test_every_column_and_kind_has_a_number_that_never_changes() -> None:
    assert set(FIELD_NUMBERS) >= set(COLUMNS)
    assert sorted(FIELD_NUMBERS.values()) == list(range(1, len(FIELD_NUMBERS) + 1))
    assert set(KIND_NUMBERS) == set(KINDS)
    chosen = ["instrument", "region", "conditions", "ask_size", "trade_count", "value"]
    assert [FIELD_NUMBERS[name] for name in chosen] == [1, 12, 17, 21, 29, 36]


@THOROUGH
@given(batches())
def test_msgpack_reads_the_exact_values(batch: pa.RecordBatch) -> None:
    events = msgpack.unpackb(get_format("msgpack").encode(batch))
    assert len(events) == batch.num_rows
    for event in events:
        assert list(event) == ["kind", *batch.schema.names]
        assert event["kind"] == frame_kind(batch)
    for name, values in raw(batch).items():
        for event, value in zip(events, values, strict=True):
            assert same(event[name], value)


@THOROUGH
@given(batches())
def test_the_standard_library_reads_csv_with_the_exact_values(batch: pa.RecordBatch) -> None:
    text = get_format("csv").encode(batch).decode()
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(lines) == batch.num_rows
    assert all(line["kind"] == frame_kind(batch) for line in lines)
    for field in batch.schema:
        for line, value in zip(lines, raw(batch)[field.name], strict=True):
            found = line[field.name]
            if value is None or (isinstance(value, float) and math.isnan(value)):
                assert found == ""
            elif pa.types.is_timestamp(field.type):
                seconds, nanos = divmod(value, 10**9)
                whole = pa.scalar(seconds, pa.timestamp("s")).as_py().isoformat()
                assert found == f"{whole}.{nanos:09d}Z"
            elif scale := decimal_scale(field):
                assert Decimal(found).scaleb(scale) == value
            elif isinstance(value, float):
                assert float(found) == float(f"{value:.7g}")
            else:
                assert found == str(value)
