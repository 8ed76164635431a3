"""What the service writes, pyarrow alone reads: the same columns, the same content."""

import io
import json
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from events import batches
from hypothesis import given, settings

from marketdata.formats import get_format
from marketdata.formats.avro_schemas import avro_schema
from marketdata.formats.registry import event_format
from marketdata.transformations import Transformation
from scripts.verification.decoding import decode_arrow, decode_avro, decode_json
from scripts.verification.fingerprints import fingerprints

RENAME = {"ts_event": "happened_at", "source": "origin"}


def content(batch: pa.RecordBatch) -> list[int]:
    columns = [(name, batch.column(name)) for name in batch.schema.names]
    return fingerprints(columns, batch.num_rows).tolist()


@settings(max_examples=60, deadline=None)
@given(batches(sequenced=True))
def test_a_json_frame_says_what_the_batch_says(batch: pa.RecordBatch) -> None:
    decoded = decode_json(get_format("json").encode(batch))

    assert set(decoded.schema.names) == set(batch.schema.names)
    assert content(decoded) == content(batch)


@settings(max_examples=20, deadline=None)
@given(batches(sequenced=True))
def test_renamed_columns_are_found_under_their_original_names(batch: pa.RecordBatch) -> None:
    changed = Transformation(rename=RENAME).apply(batch)

    from_json = decode_json(get_format("json").encode(changed), RENAME)
    from_arrow = decode_arrow(get_format("arrow").encode(changed), RENAME)

    assert content(from_json) == content(from_arrow) == content(batch)
    assert from_arrow.schema.metadata == batch.schema.metadata


@settings(max_examples=30, deadline=None)
@given(batches(sequenced=True))
def test_an_avro_event_says_what_its_row_says(batch: pa.RecordBatch) -> None:
    schema = fastavro.parse_schema(json.loads(avro_schema(batch.schema)))
    for row, data in enumerate(event_format("avro").encode_each(batch)):
        event: Any = fastavro.schemaless_reader(io.BytesIO(data), schema, None)
        assert content(decode_avro(event)) == content(batch.slice(row, 1))


def test_an_arrow_stream_of_two_batches_is_no_frame() -> None:
    batch = pa.RecordBatch.from_pydict({"n": [1]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
        writer.write_batch(batch)

    with pytest.raises(ValueError, match="this one 2"):
        decode_arrow(sink.getvalue().to_pybytes())
