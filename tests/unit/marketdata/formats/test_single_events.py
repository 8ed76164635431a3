"""Formats that write each event by itself: what our reader and those of others make of it."""

import base64
import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import fastavro
import msgpack
import pyarrow as pa
import pytest
import simplefix
from events import quotes, trades
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import HealthCheck, given, settings

from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.entitlements import NOTHING, bounded
from marketdata.filters import compile_filter
from marketdata.formats import FormatError, formats
from marketdata.formats.base import EventFormat
from marketdata.formats.pulsar_schemas import PulsarSchema
from marketdata.formats.registry import event_format
from marketdata.frames import frame_kind
from marketdata.plans import Delivery, ViewSpec
from marketdata.schemas import SEQUENCED_SCHEMAS
from marketdata.transformations import Transformation
from marketdata.view_schemas import topic_schema

sys.path.insert(0, str(Path(__file__).parents[1] / "filters"))

from strategies import batches

WITH_EVENTS = sorted(name for name, each in formats().items() if isinstance(each, EventFormat))
THOROUGH = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))


def sequenced(kind: str = "trade") -> pa.RecordBatch:
    batch = {"trade": trades, "quote": quotes}[kind](["A", "B", "A"])
    numbers = InstrumentSequences().assign(batch)
    return with_sequences(batch, kind, numbers, epoch=1, ts_sequenced_ns=1)


def spec(sql: str, format_: str, **parts: Any) -> ViewSpec:
    one = compile_filter(sql)
    delivery = Delivery(granularity="event")
    return ViewSpec(
        filter=one.canonical, predicate=one.to_json(), format=format_, delivery=delivery, **parts
    )


def schema(sql: str, format_: str, **parts: Any) -> PulsarSchema:
    found = topic_schema(spec(sql, format_, **parts))
    assert found is not None
    return found


def test_all_but_arrow_write_single_events() -> None:
    assert sorted(formats()) == sorted([*WITH_EVENTS, "arrow"])
    with pytest.raises(FormatError, match="frames of many events"):
        event_format("arrow")


@THOROUGH
@given(batches(finite=True))
@pytest.mark.parametrize("name", WITH_EVENTS)
def test_each_event_comes_back_alone(name: str, batch: pa.RecordBatch) -> None:
    kind, format_ = frame_kind(batch), event_format(name)
    written = format_.encode_each(batch)
    assert len(written) == batch.num_rows
    for row, data in enumerate(written):
        read = format_.decode_one(data, kind, batch.schema)
        assert read.schema == batch.schema
        assert read.to_pylist() == batch.slice(row, 1).to_pylist()


@pytest.mark.parametrize("name", WITH_EVENTS)
def test_an_event_is_the_same_whatever_stands_beside_it(name: str) -> None:
    """What is done again after a crash may lie in other company."""
    batch, format_ = sequenced(), event_format(name)
    whole = format_.encode_each(batch)
    alone = [format_.encode_each(batch.slice(row, 1))[0] for row in range(batch.num_rows)]
    read = [format_.decode_one(data, "trade", batch.schema) for data in (*whole, *alone)]
    assert read[:3] == read[3:]


@pytest.mark.parametrize("name", WITH_EVENTS)
def test_what_is_no_event_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        event_format(name).decode_one(b"\x00nothing", "trade", SEQUENCED_SCHEMAS["trade"])


def test_an_avro_event_of_another_schema_is_refused_with_what_to_give() -> None:
    """Its bytes do not say what they are of."""
    chosen = Transformation(select=("instrument", "sequence"))
    (data, *_) = event_format("avro").encode_each(chosen.apply(sequenced()))
    whole = SEQUENCED_SCHEMAS["trade"]
    with pytest.raises(FormatError):
        event_format("avro").decode_one(data, "trade")
    read = event_format("avro").decode_one(data, "trade", chosen.schema(whole))
    assert read.to_pylist() == [{"instrument": "A", "sequence": 1}]
    longer = data + b"\x00"
    with pytest.raises(FormatError, match="transformation"):
        event_format("avro").decode_one(longer, "trade", chosen.schema(whole))


def test_others_read_single_events() -> None:
    batch = sequenced()
    first = {name: event_format(name).encode_each(batch)[0] for name in WITH_EVENTS}
    price = batch.column("price")[0].as_py()
    assert json.loads(first["json"])["instrument"] == "A"
    (line,) = csv.DictReader(io.StringIO(first["csv"].decode()))
    assert line["instrument"] == "A"
    assert msgpack.unpackb(first["msgpack"])["price"] == price
    parser = simplefix.FixParser()
    parser.append_buffer(first["fix"])
    message = parser.get_message()
    assert message.get(55) == b"A"
    assert parser.get_message() is None


def test_fastavro_reads_events_by_the_schema_of_their_topic() -> None:
    batch = sequenced()
    chosen = Transformation(
        select=("instrument", "sequence", "price"), mask=("price",), rename={"price": "px"}
    )
    for transformation in (Transformation(), chosen):
        found = schema("kind = 'trade' AND price > 0", "avro", transformation=transformation)
        assert found.type == "AVRO"
        parsed = fastavro.parse_schema(json.loads(found.definition))
        rows = transformation.apply(batch)
        for data, row in zip(event_format("avro").encode_each(rows), rows.to_pylist(), strict=True):
            event: Any = fastavro.schemaless_reader(io.BytesIO(data), parsed, None)
            assert list(event) == rows.schema.names
            assert event["sequence"] == row["sequence"]


def test_the_schema_of_json_events_names_what_they_have() -> None:
    of_both = json.loads(schema("kind IN ('trade', 'quote')", "json").definition)
    types = {field["name"]: field["type"] for field in of_both["fields"]}
    for kind in ("trade", "quote"):
        for data in event_format("json").encode_each(sequenced(kind)):
            event = json.loads(data)
            assert event.keys() <= types.keys()
            # What an event lacks may be null, as what only some kinds have is.
            assert {name for name, type_ in types.items() if "null" not in type_} <= event.keys()
    assert types["price"] == ["null", "string"]
    assert types["sequence"] == "long"


def test_protobuf_reads_events_by_the_schema_of_their_topic() -> None:
    found = schema("kind = 'trade'", "protobuf")
    assert found.type == "PROTOBUF_NATIVE"
    described = json.loads(found.definition)
    files = descriptor_pb2.FileDescriptorSet()
    files.ParseFromString(base64.b64decode(described["fileDescriptorSet"]))
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    found_type = pool.FindMessageTypeByName(described["rootMessageTypeName"])
    batch = sequenced()
    for data, row in zip(
        event_format("protobuf").encode_each(batch), batch.to_pylist(), strict=True
    ):
        event: Any = message_factory.GetMessageClass(found_type).FromString(data)
        assert (event.trade.instrument, event.trade.price) == (row["instrument"], row["price"])


def test_where_there_is_no_schema_there_is_none() -> None:
    assert topic_schema(spec("kind = 'trade'", "csv")) is None
    assert topic_schema(spec("price > 0", "avro")) is None, "trades and book changes"
    assert topic_schema(ViewSpec(format="avro")) is None, "frames"
    assert topic_schema(bounded(spec("kind = 'trade'", "avro"), NOTHING.bounds())) is None
