"""The schemas that are served describe what is delivered, as readers that are not ours see it."""

from __future__ import annotations

import hashlib
import io
import json
import math
from typing import Any

import fastavro
import httpx
import jsonschema
import pyarrow as pa
import pytest
from litestar.testing import AsyncTestClient

from marketdata.formats import get_format
from marketdata.formats.base import FormatError
from marketdata.formats.json_schemas import json_form
from marketdata.schemas import KINDS, SEQUENCED_SCHEMAS, TIMESTAMP

Client = AsyncTestClient[Any]

PUBLISHED = "6e4c53"
"""Of the digest of all files of version 1. What changes more than words is another version: raise
SCHEMA_VERSION."""


def batch_of_extremes(kind: str) -> pa.RecordBatch:
    """A row of least values, one of greatest, and one of nulls where they may be."""
    schema = SEQUENCED_SCHEMAS[kind]
    columns = []
    for field in schema:
        type_ = field.type
        if pa.types.is_dictionary(type_):
            values: list[Any] = ["", 'a"\\\n\x01é']
        elif pa.types.is_string(type_):
            values = ["", "b"]
        elif pa.types.is_floating(type_):
            values = [0.0, 0.1]
        elif pa.types.is_timestamp(type_):
            values = [-1, 2**62]
        else:
            bits = type_.bit_width
            signed = pa.types.is_signed_integer(type_)
            values = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1]
        values.append(None if field.nullable else values[0])
        plain = pa.utf8() if pa.types.is_dictionary(type_) else type_
        plain = pa.int64() if pa.types.is_timestamp(type_) else plain
        columns.append(
            pa.array(values, plain).cast(
                TIMESTAMP if plain != type_ and type_ == TIMESTAMP else plain
            )
        )
    arrays = [
        column.dictionary_encode().cast(field.type)
        if pa.types.is_dictionary(field.type)
        else column
        for field, column in zip(schema, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


async def served(client: Client, name: str, version: int = 1) -> httpx.Response:
    answer = await client.get(f"/v1/schemas/{version}/{name}")
    assert answer.status_code == 200, answer.text
    return answer


async def test_everything_that_is_listed_is_there(client: Client) -> None:
    (listed,) = (await client.get("/v1/schemas")).json()
    assert listed["version"] == 1
    assert [kind["kind"] for kind in listed["kinds"]] == list(KINDS)
    texts: dict[str, str] = {}
    for kind in listed["kinds"]:
        assert [column["name"] for column in kind["columns"]] == SEQUENCED_SCHEMAS[
            kind["kind"]
        ].names
        assert [file["format"] for file in kind["files"]] == ["avro", "json", "protobuf"]
        for file in kind["files"]:
            answer = await client.get(file["path"])
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith(file["media_type"])
            texts[file["path"]] = answer.text
    assert len(texts) == 2 * len(KINDS) + 1
    assert hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:6] == PUBLISHED


@pytest.mark.parametrize("kind", KINDS)
async def test_delivered_json_is_what_the_schema_says(client: Client, kind: str) -> None:
    schema = (await served(client, f"{kind}.schema.json")).json()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    lines = get_format("json").encode(batch_of_extremes(kind)).decode().splitlines()
    assert len(lines) == 3
    for line in lines:
        validator.validate(json.loads(line))
    event = json.loads(lines[0])
    for name, value in event.items():
        for wrong in (math.nan if isinstance(value, str) else "x", [value]):
            assert not validator.is_valid({**event, name: wrong}), (name, wrong)
    assert not validator.is_valid({name: event[name] for name in event if name != "sequence"})
    assert validator.is_valid({**event, "computed": "1.5"})


@pytest.mark.parametrize("kind", KINDS)
async def test_delivered_avro_is_read_with_the_served_schema(client: Client, kind: str) -> None:
    schema = fastavro.parse_schema((await served(client, f"{kind}.avsc")).json())
    frame = get_format("avro").encode(batch_of_extremes(kind))
    reader = fastavro.reader(io.BytesIO(frame), reader_schema=schema)
    assert [set(event) for event in reader] == [set(SEQUENCED_SCHEMAS[kind].names)] * 3


async def test_the_proto_names_every_kind(client: Client) -> None:
    text = (await served(client, "marketdata.proto")).text
    for kind in KINDS:
        assert f"message {kind.capitalize()} {{" in text


@pytest.mark.parametrize("path", ["2/trade.avsc", "1/trade", "1/nothing.proto"])
async def test_what_is_not_there_is_404_and_says_where_to_look(client: Client, path: str) -> None:
    answer = await client.get(f"/v1/schemas/{path}")
    assert answer.status_code == 404
    assert "GET /v1/schemas" in answer.json()["detail"]


def test_a_column_that_json_has_no_form_for_is_refused() -> None:
    with pytest.raises(FormatError, match="odd"):
        json_form(pa.field("odd", pa.binary()))
