"""JSON frames: NDJSON, one event a line, keys in column order after `kind`.

    {"kind":"trade","instrument":"AAPL",…,"price":"187.25","size":"100","side":null}

`marketdata.formats.json_columns` says how values are written. A compressed frame is one LZ4 or
Zstandard frame around the whole text, readable by the usual tools.
"""

import json
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from marketdata.errors import InvalidFrame
from marketdata.formats.base import FormatError
from marketdata.formats.fragments import Constant, Piece, join_pieces
from marketdata.formats.json_columns import pieces_of
from marketdata.frames import frame_kind
from marketdata.schemas import COLUMNS, SEQUENCED_SCHEMAS, decimal_scale

_CODECS: Final = {"lz4": "lz4", "zstd": "zstd"}
_MAGIC: Final = {b"\x04\x22\x4d\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}


class JsonFormat:
    """NDJSON with exact decimal strings."""

    name: Final = "json"
    media_type: Final = "application/x-ndjson"
    max_rows: Final = 8_192

    def encode(self, batch: pa.RecordBatch, compression: str = "none") -> bytes:
        """See `Format.encode`. UTF-8; every line, the last too, ends with a newline."""
        if compression != "none" and compression not in _CODECS:
            raise FormatError(f"unknown compression {compression!r}; there are: none, lz4, zstd")
        if batch.num_rows == 0:
            return b""
        pieces: list[Piece] = [Constant(b'{"kind":' + json.dumps(_kind(batch)).encode())]
        for field, column in zip(batch.schema, batch.columns, strict=True):
            pieces.append(Constant(b"," + json.dumps(field.name).encode() + b":"))
            pieces += pieces_of(field, column)
        pieces.append(Constant(b"}\n"))
        data = join_pieces(pieces, batch.num_rows)
        return data if compression == "none" else _compressed(data, _CODECS[compression])

    def no_events(self) -> bytes:
        """See `Format.no_events`: no line."""
        return b""

    def decode(self, data: bytes, schema: pa.Schema | None = None) -> pa.RecordBatch:
        """See `Format.decode`. Without `schema` the columns must have their own names."""
        try:
            text = _decompressed(data)
            first = json.loads(text[: text.index(b"\n") + 1])
            wanted = schema if schema is not None else _schema_of(first)
            table = pyarrow.json.read_json(
                pa.BufferReader(text),
                read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
                parse_options=pyarrow.json.ParseOptions(
                    explicit_schema=_transport_schema(wanted),
                    unexpected_field_behavior="error",
                ),
            ).combine_chunks()
            kinds = table.column("kind").unique().to_pylist()
            if kinds != [first["kind"]]:
                raise FormatError(f"a frame holds events of one kind, found {kinds}")
            columns = [_column(table.column(field.name), field) for field in wanted]
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"not a JSON frame: {error}") from error
        return pa.RecordBatch.from_arrays(columns, schema=wanted)


def _kind(batch: pa.RecordBatch) -> str:
    try:
        return frame_kind(batch)
    except InvalidFrame as error:
        raise FormatError(str(error)) from error


def _schema_of(event: Any) -> pa.Schema:
    kind = event["kind"]
    if kind not in SEQUENCED_SCHEMAS:
        raise FormatError(f"unknown kind {kind!r}")
    unknown = [name for name in event if name not in COLUMNS and name != "kind"]
    if unknown:
        raise FormatError(f"unknown columns {unknown}: pass the schema of renamed columns")
    whole = SEQUENCED_SCHEMAS[kind]
    return pa.schema([whole.field(name) for name in event if name != "kind"], whole.metadata)


def _transport_schema(schema: pa.Schema) -> pa.Schema:
    """The types as which pyarrow reads the text: what is quoted is text."""
    fields = [pa.field("kind", pa.utf8())]
    for field in schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        plain = number and decimal_scale(field) is None
        fields.append(pa.field(field.name, field.type if plain else pa.utf8()))
    return pa.schema(fields)


def _column(read: pa.ChunkedArray, field: pa.Field) -> pa.Array:
    column = read.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    if pa.types.is_dictionary(field.type):
        encoded = column.dictionary_encode()
        codes = encoded.indices.cast(field.type.index_type)
        return pa.DictionaryArray.from_arrays(codes, encoded.dictionary)
    scale = decimal_scale(field)
    if pa.types.is_timestamp(field.type):
        return _times(column).cast(pa.timestamp("ns")).cast(field.type)
    if scale is None:
        return column.cast(field.type)
    decimals = pc.cast(column, pa.decimal128(19 + scale, scale))
    # An int64 is the low half of the 128 bits.
    halves = np.frombuffer(decimals.buffers()[1], np.int64)[2 * decimals.offset :]
    low, high = halves[0 : 2 * len(column) : 2], halves[1 : 2 * len(column) : 2]
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    if ((high != low >> 63) & valid).any():
        raise FormatError(f"column {field.name!r} holds a number out of range")
    return pa.array(low, field.type, mask=~valid)


def _times(texts: pa.StringArray) -> pa.Array:
    """Nanoseconds of `YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ`.

    Arrow's own parser refuses the first second that 64 bits of nanoseconds reach into.
    """
    shaped = pc.match_substring_regex(texts, r"^.{19}\.[0-9]{9}Z$")
    if not pc.all(shaped, min_count=0).as_py():
        raise FormatError("a time is not of the form 2026-01-31T14:30:00.123456789Z")
    seconds = pc.cast(pc.utf8_slice_codeunits(texts, 0, 19), pa.timestamp("s"))
    nanos = pc.cast(pc.utf8_slice_codeunits(texts, 20, 29), pa.int64())
    # Wrapping is right: the whole fits even where whole seconds below it do not.
    whole = pc.multiply(seconds.view(pa.int64()), 1_000_000_000)
    return pc.add(whole, nanos)


def _compressed(data: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _decompressed(data: bytes) -> bytes:
    codec = _MAGIC.get(bytes(data[:4]))
    if codec is None:
        return data
    with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
        read: bytes = stream.read()
    return read
