"""JSON frames: NDJSON, one event a line, keys in column order after `kind`.

    {"kind":"trade","instrument":"AAPL",…,"price":"187.25","size":"100","side":null}

`marketdata.formats.text_columns` says how values are written; prices, sizes and times are strings.
A compressed frame is one LZ4 or Zstandard frame around the whole text, readable by the usual tools.
"""

import json
from typing import Final

import pyarrow as pa
import pyarrow.json

from marketdata.formats.base import FormatError
from marketdata.formats.compression import compressed, decompressed
from marketdata.formats.events import kind_of, schema_of
from marketdata.formats.fragments import Constant, Piece, join_pieces, join_rows
from marketdata.formats.text_columns import TextStyle, pieces_of
from marketdata.formats.text_reading import column_of, transport_schema

_STYLE: Final = TextStyle(
    name="JSON",
    null=b"null",
    quote_texts=b'"',
    quote_numbers=b'"',
    special=r'["\\\x00-\x1f]',
    escape=lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
)


class JsonFormat:
    """NDJSON with exact decimal strings."""

    name: Final = "json"
    media_type: Final = "application/x-ndjson"
    description: Final = (
        "Each message is NDJSON, one event a line. Prices and sizes are exact decimal strings, "
        "times ISO 8601 with nanoseconds."
    )
    max_rows: Final = 8_192
    renames: Final = True

    def encode(self, batch: pa.RecordBatch, compression: str = "none") -> bytes:
        """See `Format.encode`. UTF-8; every line, the last too, ends with a newline."""
        if batch.num_rows == 0:
            return compressed(b"", compression)
        return compressed(join_pieces(_objects(batch, b"}\n"), batch.num_rows), compression)

    def encode_each(self, batch: pa.RecordBatch) -> list[bytes]:
        """See `EventFormat.encode_each`: JSON objects."""
        events: list[bytes] = join_rows(_objects(batch, b"}"), batch.num_rows).to_pylist()
        return events

    def decode_one(
        self,
        data: bytes,
        kind: str,  # noqa: ARG002 - it is in the bytes
        schema: pa.Schema | None = None,
    ) -> pa.RecordBatch:
        """See `EventFormat.decode_one`."""
        return self.decode(data + b"\n", schema)

    def no_events(self) -> bytes:
        """See `Format.no_events`: no line."""
        return b""

    def decode(self, data: bytes, schema: pa.Schema | None = None) -> pa.RecordBatch:
        """See `Format.decode`. Without `schema` the columns must have their own names."""
        try:
            text = decompressed(data)
            first = json.loads(text[: text.index(b"\n") + 1])
            wanted = schema
            if wanted is None:
                wanted = schema_of(first["kind"], [name for name in first if name != "kind"])
            table = pyarrow.json.read_json(
                pa.BufferReader(text),
                read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
                parse_options=pyarrow.json.ParseOptions(
                    explicit_schema=transport_schema(wanted),
                    unexpected_field_behavior="error",
                ),
            ).combine_chunks()
            kinds = table.column("kind").unique().to_pylist()
            if kinds != [first["kind"]]:
                raise FormatError(f"a frame holds events of one kind, found {kinds}")
            columns = [column_of(table.column(field.name), field) for field in wanted]
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"not a JSON frame: {error}") from error
        return pa.RecordBatch.from_arrays(columns, schema=wanted)


def _objects(batch: pa.RecordBatch, end: bytes) -> list[Piece]:
    """The events as JSON objects, each with its closing brace and what follows it."""
    pieces: list[Piece] = [Constant(b'{"kind":' + json.dumps(kind_of(batch)).encode())]
    for field, column in zip(batch.schema, batch.columns, strict=True):
        pieces.append(Constant(b"," + json.dumps(field.name).encode() + b":"))
        pieces += pieces_of(field, column, _STYLE)
    return [*pieces, Constant(end)]
