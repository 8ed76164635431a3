"""MessagePack: an array of maps, one event each: `kind` and the columns by name.

Numbers keep their place value: prices are integers in units of 1e-9, sizes in units of 1e-8, times
nanoseconds since the epoch, UTC. Null is nil.
"""

from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from marketdata.arrays import run_of, values_of
from marketdata.formats.base import FormatError
from marketdata.formats.cells import (
    Cells,
    Lengths,
    Piece,
    fixed,
    join_cells,
    optional,
    texts,
)
from marketdata.formats.compression import compressed, decompressed
from marketdata.formats.events import batch_of, kind_of, schema_of

_NIL: Final = b"\xc0"
_NUMBERS: Final = {
    pa.uint16(): (b"\xcd", "u2"),
    pa.uint32(): (b"\xce", "u4"),
    pa.uint64(): (b"\xcf", "u8"),
    pa.int64(): (b"\xd3", "i8"),
    pa.float32(): (b"\xca", "f4"),
}
"""Type -> MessagePack's first byte, and how the bytes behind it lie."""


class MessagePackFormat:
    """Arrays of maps; see the module."""

    name: Final = "msgpack"
    media_type: Final = "application/vnd.msgpack"
    description: Final = (
        "Each message is one MessagePack array with a map for each event. Prices are "
        "integers in units of 1e-9, sizes in units of 1e-8, times nanoseconds."
    )
    max_rows: Final = 8_192
    renames: Final = True

    def encode(self, batch: pa.RecordBatch, compression: str = "none") -> bytes:
        """See `Format.encode`."""
        head = _array(batch.num_rows)
        if batch.num_rows == 0:
            return compressed(head, compression)
        events = run_of(_maps(batch))
        return compressed(b"".join((head, events)), compression)

    def encode_each(self, batch: pa.RecordBatch) -> list[bytes]:
        """See `EventFormat.encode_each`: maps."""
        events: list[bytes] = _maps(batch).to_pylist()
        return events

    def decode_one(
        self,
        data: bytes,
        kind: str,  # noqa: ARG002 - it is in the bytes
        schema: pa.Schema | None = None,
    ) -> pa.RecordBatch:
        """See `EventFormat.decode_one`."""
        return self.decode(_array(1) + data, schema)

    def no_events(self) -> bytes:
        """See `Format.no_events`: nothing."""
        return b""

    def decode(self, data: bytes, schema: pa.Schema | None = None) -> pa.RecordBatch:
        """See `Format.decode`. Without `schema` the columns must have their own names."""
        try:
            events = msgspec.msgpack.decode(decompressed(data), type=list[dict[str, Any]])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"not a MessagePack frame: {error}") from error
        kinds = {str(event.pop("kind", None)) for event in events}
        if len(kinds) != 1:
            raise FormatError(f"a frame holds events of one kind, found {sorted(kinds)}")
        wanted = schema if schema is not None else schema_of(kinds.pop(), events[0])
        return batch_of(events, wanted)


def _maps(batch: pa.RecordBatch) -> pa.BinaryArray:
    pieces: list[Piece] = [_map(batch.num_columns + 1) + _text("kind") + _text(kind_of(batch))]
    for field, column in zip(batch.schema, batch.columns, strict=True):
        pieces += [_text(field.name), *_values(field, column)]
    return join_cells(pieces, batch.num_rows)


def _array(size: int) -> bytes:
    return b"\xdd" + size.to_bytes(4, "big")


def _values(field: pa.Field, column: pa.Array) -> list[Piece]:
    kind = field.type
    if column.null_count == len(column):
        return [_NIL]
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        pieces = texts(column, _lengths)
    else:
        stored = pa.int64() if pa.types.is_timestamp(kind) and kind.unit == "ns" else kind
        if stored not in _NUMBERS:
            raise FormatError(f"column {field.name!r}: MessagePack has no form for {kind}")
        first, dtype = _NUMBERS[stored]
        pieces = [fixed(values_of(column, f"<{dtype}").astype(f">{dtype}"), first)]
    if column.null_count:
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        return optional(pieces, valid, _NIL)
    return pieces


def _lengths(lengths: Lengths) -> Piece:
    """Heads of texts: fixstr below 32 bytes, str 8 or str 32 above.

    A wider head than a text needs is as good.
    """
    most = int(lengths.max())
    if most < 32:
        return Cells((0xA0 | lengths).astype(np.uint8).reshape(-1, 1))
    first, dtype = (b"\xd9", ">u1") if most < 256 else (b"\xdb", ">u4")
    return fixed(lengths.astype(dtype), first)


def _text(value: str) -> bytes:
    return msgspec.msgpack.encode(value)


def _map(size: int) -> bytes:
    return bytes([0x80 | size]) if size < 16 else b"\xde" + size.to_bytes(2, "big")
