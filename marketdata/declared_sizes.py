"""What an Arrow stream declares about itself, read before any of it is decompressed.

A compressed buffer begins with the size that it will have, and Arrow allocates and fills that much
before anybody is asked: 4 MiB of zeros compress to a few hundred bytes. `declared` adds these sizes
up from the messages' metadata alone, so that a bomb is refused at the cost of reading its label.

The metadata are flatbuffers (Arrow's `Message.fbs`); Arrow has verified each one when it hands the
message out, so places within it can be trusted. pyarrow offers no reader for the fields needed.
"""

from struct import Struct
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

_INT32: Final = Struct("<i")
_UINT32: Final = Struct("<I")
_UINT16: Final = Struct("<H")
_SIZE_BYTES: Final = 8
"""Of the declared size at the begin of a compressed buffer."""

# Numbers of the fields in their tables.
_MESSAGE_HEADER: Final = 2
_DICTIONARY_DATA: Final = 1
_BATCH_BUFFERS: Final = 2
_BATCH_COMPRESSION: Final = 3


class Declared(NamedTuple):
    """Record batches of a stream, and bytes of its compressed buffers once decompressed."""

    record_batches: int
    decompressed_bytes: int


def declared(source: pa.BufferReader) -> Declared:
    """Read the stream's messages up to its end without decompressing anything.

    Raises:
        pyarrow.ArrowException, EOFError, OSError: the messages cannot be told apart.
    """
    record_batches = decompressed = 0
    for message in pa.ipc.MessageReader.open_stream(source):
        kind = message.type
        if kind == "record batch":
            record_batches += 1
            decompressed += _decompressed_bytes(message, dictionary=False)
        elif kind == "dictionary":
            decompressed += _decompressed_bytes(message, dictionary=True)
    return Declared(record_batches, decompressed)


def _decompressed_bytes(message: Any, *, dictionary: bool) -> int:
    metadata = memoryview(message.metadata)
    table = _target(metadata, _reference(metadata, 0), _MESSAGE_HEADER)
    if dictionary and table:
        table = _target(metadata, table, _DICTIONARY_DATA)
    compressed = table and _place(metadata, table, _BATCH_COMPRESSION)
    vector = _target(metadata, table, _BATCH_BUFFERS) if compressed else 0
    if not vector:
        return 0  # whatever else is missing, Arrow refuses
    buffers = np.frombuffer(
        metadata,
        np.dtype("<i8"),
        count=2 * _UINT32.unpack_from(metadata, vector)[0],
        offset=vector + _UINT32.size,
    ).reshape(-1, 2)
    body = np.frombuffer(message.body, np.uint8)
    # Arrow refuses buffers outside the body and such as are too short for a size.
    starts = buffers[(buffers[:, 1] >= _SIZE_BYTES) & (buffers[:, 0] >= 0), 0]
    starts = starts[starts <= len(body) - _SIZE_BYTES]
    sizes = body[starts[:, None] + np.arange(_SIZE_BYTES)].view("<i8")
    # -1 says that the buffer is not compressed. Python's integers do not overflow.
    return sum(size for size in sizes.ravel().tolist() if size > 0)


def _reference(metadata: memoryview, place: int) -> int:
    """Where the reference at `place` points to."""
    offset: int = _UINT32.unpack_from(metadata, place)[0]
    return place + offset


def _target(metadata: memoryview, table: int, number: int) -> int:
    """Where a table's field points to; 0 when it is absent."""
    place = _place(metadata, table, number)
    return _reference(metadata, place) if place else 0


def _place(metadata: memoryview, table: int, number: int) -> int:
    """The place of a table's field; 0 when it is absent."""
    vtable = table - _INT32.unpack_from(metadata, table)[0]
    slot = 2 * _UINT16.size + number * _UINT16.size
    if slot >= _UINT16.unpack_from(metadata, vtable)[0]:
        return 0
    offset: int = _UINT16.unpack_from(metadata, vtable + slot)[0]
    return table + offset if offset else 0
