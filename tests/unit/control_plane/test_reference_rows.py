"""Arrow bodies that would take more memory than they have bytes are refused before they do."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pytest

from control_plane.domains.reference_tables import reading
from control_plane.domains.reference_tables.reading import ARROW, read_rows
from marketdata.reference import TableError, TableSpec

SPEC = TableSpec({"instrument": "text", "lot": "integer"}, ("instrument",))


def stream(table: pa.Table, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


def refused(body: bytes) -> str:
    with pytest.raises(TableError) as error:
        read_rows(body, ARROW, SPEC)
    return str(error.value)


def test_what_is_compressed_is_measured_before_it_is_decompressed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = stream(pa.table({"instrument": ["A"] * 4000, "lot": [0] * 4000}), "zstd")
    assert read_rows(body, ARROW, SPEC).num_rows == 4000
    monkeypatch.setattr(reading, "MAX_TABLE_BYTES", 40_000)
    opened: list[Any] = []
    monkeypatch.setattr(pa.ipc, "open_stream", opened.append)
    assert "bytes of memory; at most 40000 fit" in refused(body)
    assert opened == []


def test_texts_that_rows_share_count_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_TABLE_BYTES", 100_000)
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int8()), ["x" * 1000])
    body = stream(pa.table({"instrument": shared}))
    assert len(body) < 10_000
    assert "would take 201600 bytes" in refused(body)


def test_rows_that_take_no_bytes_are_counted() -> None:
    body = stream(pa.table({"lot": pa.nulls(500_001)}))
    assert "500001 rows; at most 500000" in refused(body)


def test_texts_that_are_none_are_refused() -> None:
    broken = pa.Array.from_buffers(
        pa.utf8(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    )
    assert "no application/vnd.apache.arrow.stream" in refused(
        stream(pa.table({"instrument": broken}))
    )
    assert "no application/vnd.apache.arrow.stream" in refused(
        stream(pa.table({"instrument": ["A"]}))[:100]
    )
