"""Avro: an object container file per frame, its one block holding the events of one kind.

Every reader of Avro files opens it; `marketdata.formats.avro_schemas` says what the columns are.
"""

import hashlib
import json
from decimal import Decimal
from functools import lru_cache
from importlib import import_module
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.arrays import run_of, values_of
from marketdata.formats.avro_schemas import DECIMAL_BYTES, avro_schema
from marketdata.formats.base import FormatError
from marketdata.formats.cells import (
    Cells,
    Lengths,
    Piece,
    fixed,
    join_cells,
    optional,
    texts,
    varint,
    varints,
)
from marketdata.formats.compression import compressed, decompressed
from marketdata.formats.events import batch_of, kind_of, schema_of
from marketdata.schemas import SEQUENCED_SCHEMAS, decimal_scale

_MAGIC: Final = b"Obj\x01"
_NULL: Final = b"\x00"
_VALUE: Final = b"\x02"
"""Which branch of a union with null follows: 0 or 1, in zigzag."""


class AvroFormat:
    """Object containers; see the module."""

    name: Final = "avro"
    media_type: Final = "application/avro"
    description: Final = (
        "Each message is one Avro object container of events of one kind. Prices and sizes are "
        "of the logical type decimal, times long in nanoseconds."
    )
    max_rows: Final = 8_192
    renames: Final = True

    def encode(self, batch: pa.RecordBatch, compression: str = "none") -> bytes:
        """See `Format.encode`; the same batch gives the same bytes."""
        kind_of(batch)
        # Arrow holds schemas equal that differ in their metadata; as bytes they are not.
        header, sync = _header(batch.schema.serialize().to_pybytes())
        if batch.num_rows == 0:
            return compressed(header, compression)
        events = run_of(join_cells(pieces_of(batch), batch.num_rows))
        block = _long(batch.num_rows) + _long(events.size)
        return compressed(b"".join((header, block, events, sync)), compression)

    def encode_each(self, batch: pa.RecordBatch) -> list[bytes]:
        """See `EventFormat.encode_each`: data without a container, as Pulsar's clients have it."""
        kind_of(batch)
        events: list[bytes] = join_cells(pieces_of(batch), batch.num_rows).to_pylist()
        return events

    def decode_one(self, data: bytes, kind: str, schema: pa.Schema | None = None) -> pa.RecordBatch:
        """See `EventFormat.decode_one`. Needs the package's extra `formats`."""
        fastavro = import_module("fastavro")
        stream = BytesIO(data)
        wanted = SEQUENCED_SCHEMAS[kind] if schema is None else schema
        try:
            event = fastavro.schemaless_reader(stream, json.loads(avro_schema(wanted)))
        except Exception as error:
            raise FormatError(f"not an Avro event: {type(error).__name__}: {error}") from error
        if stream.tell() != len(data):
            # Nothing in the bytes says what they are of.
            raise FormatError("not an Avro event of this schema; give the view's transformation")
        return _batch([event], wanted)

    def no_events(self) -> bytes:
        """See `Format.no_events`: nothing."""
        return b""

    def decode(self, data: bytes, schema: pa.Schema | None = None) -> pa.RecordBatch:
        """See `Format.decode`. Needs the package's extra `formats`."""
        fastavro = import_module("fastavro")
        text = decompressed(data)
        try:
            reader = fastavro.reader(BytesIO(text))
            written = json.loads(reader.metadata["avro.schema"])
            events = list(reader)
            wanted = schema
            if wanted is None:
                wanted = _schema_of(written)
        except FormatError:
            raise
        except Exception as error:
            # What fastavro raises on bytes that are no Avro is nearly anything.
            raise FormatError(f"not an Avro frame: {type(error).__name__}: {error}") from error
        return _batch(events, wanted)


def pieces_of(batch: pa.RecordBatch) -> list[Piece]:
    """The events in Avro's binary form."""
    pieces: list[Piece] = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if not field.nullable:
            if column.null_count:
                raise FormatError(f"column {field.name!r} is null where its schema forbids it")
            pieces += _values(field, column)
        elif column.null_count == len(column):
            pieces.append(_NULL)
        elif column.null_count:
            valid = column.is_valid().to_numpy(zero_copy_only=False)
            pieces += optional([_VALUE, *_values(field, column)], valid, _NULL)
        else:
            pieces += [_VALUE, *_values(field, column)]
    return pieces


def _values(field: pa.Field, column: pa.Array) -> list[Piece]:
    """The values; at nulls anything."""
    kind = field.type
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        return texts(column, _lengths)
    if pa.types.is_floating(kind):
        return [fixed(values_of(column, "<f4"))]
    if _is_decimal(field):
        return [_decimals(values_of(column, kind.to_pandas_dtype()))]
    width = kind.bit_width // 8
    sign = "u" if pa.types.is_unsigned_integer(kind) else "i"
    return [varints(_zigzag(values_of(column, f"{sign}{width}").astype(np.int64)))]


def _decimals(values: npt.NDArray[Any]) -> Piece:
    if values.dtype.kind == "u" or int(values.min()) >= 0:
        return fixed(values.astype(">u8"), b"\x00")
    matrix = np.empty((len(values), DECIMAL_BYTES), np.uint8)
    matrix[:, 0] = (values >> 63).astype(np.uint8)
    matrix[:, 1:] = values.astype(">i8").view(np.uint8).reshape(len(values), 8)
    return Cells(matrix)


def _lengths(lengths: Lengths) -> Piece:
    return varints(_zigzag(lengths))


def _zigzag(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    return ((values << 1) ^ (values >> 63)).view(np.uint64)


def _long(value: int) -> bytes:
    """A number that is not negative."""
    return varint(value << 1)


@lru_cache(maxsize=1024)
def _header(serialized: bytes) -> tuple[bytes, bytes]:
    """The header of the file, and the marker that ends each block: the same for equal schemas."""
    text = avro_schema(pa.ipc.read_schema(pa.py_buffer(serialized))).encode()
    sync = hashlib.sha256(text).digest()[:16]
    entries = [(b"avro.schema", text), (b"avro.codec", b"null")]
    meta = b"".join(_long(len(one)) + one for entry in entries for one in entry)
    return b"".join((_MAGIC, _long(len(entries)), meta, b"\x00", sync)), sync


def _schema_of(written: dict[str, Any]) -> pa.Schema:
    """That of the events of a file; masked columns may be null, too."""
    types = {field["name"]: field["type"] for field in written["fields"]}
    schema = schema_of(written.get("kind"), types)
    fields = [
        field.with_nullable(field.nullable or "null" in types[field.name]) for field in schema
    ]
    return pa.schema(fields, schema.metadata)


def _batch(events: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    for field in schema:
        if _is_decimal(field):
            digits = decimal_scale(field) or 0
            for event in events:
                event[field.name] = _unscaled(event.get(field.name), digits)
    return batch_of(events, schema)


def _is_decimal(field: pa.Field) -> bool:
    return pa.types.is_uint64(field.type) or decimal_scale(field) is not None


def _unscaled(value: Decimal | None, digits: int) -> int | None:
    return None if value is None else int(value.scaleb(digits))
