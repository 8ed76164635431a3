"""What must hold of the frame decoder, whatever the bytes: the property that is fuzzed."""

import pyarrow as pa

from marketdata.declared_sizes import declared
from marketdata.errors import InvalidFrame
from marketdata.frames import (
    MAX_FRAME_BYTES,
    MAX_ROWS,
    REASONS,
    decode_frame,
    encode_frame,
    read_frame,
    validate_events,
)

MAX_ALLOCATED_BYTES = 16 * MAX_FRAME_BYTES
"""Most that Arrow may ever have allocated: a frame, its copies, and what a refusal looked at."""


def check_frame(data: bytes) -> str:
    """Decode bytes in every way there is: "ok", or the code with which they were refused.

    Any exception is a defect: a foreign one, a code that nobody knows, a batch that breaks the
    contract or does not survive its own encoding, or memory beyond the bound.
    """
    outcomes = [_decoded(data, sequenced=sequenced) for sequenced in (False, True)]
    _read(data)
    allocated = pa.default_memory_pool().max_memory()
    assert allocated is None or allocated <= MAX_ALLOCATED_BYTES, f"{allocated} bytes allocated"
    return "ok" if "ok" in outcomes else outcomes[0]


def _decoded(data: bytes, *, sequenced: bool) -> str:
    try:
        batch = decode_frame(data, partition=0, partitions=1, sequenced=sequenced)
    except InvalidFrame as error:
        return _known(error)
    assert 1 <= batch.num_rows <= MAX_ROWS
    validate_events(batch)
    again = decode_frame(encode_frame(batch).to_pybytes(), sequenced=sequenced)
    assert again.to_pylist() == batch.to_pylist()
    return "ok"


def _read(data: bytes) -> None:
    """`read_frame` trusts the sizes that a stream declares: only small ones are put to it."""
    try:
        small = declared(pa.BufferReader(data)).decompressed_bytes <= MAX_FRAME_BYTES
    except (pa.ArrowException, OSError, EOFError):
        small = False
    if not small:
        return
    try:
        read_frame(data)
    except InvalidFrame as error:
        _known(error)


def _known(error: InvalidFrame) -> str:
    assert error.code in REASONS, f"unknown code {error.code}"
    assert error.reason, error.code
    return error.code
