"""Compression of what has none of its own: one LZ4 or Zstandard frame around the whole."""

from typing import Final

import pyarrow as pa

from marketdata.formats.base import FormatError

COMPRESSIONS: Final = ("none", "lz4", "zstd")
_MAGIC: Final = {b"\x04\x22\x4d\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}


def compressed(data: bytes | pa.Buffer, compression: str) -> bytes:
    """The bytes as one frame that the usual tools read.

    Raises:
        FormatError: there is no such compression.
    """
    if compression not in COMPRESSIONS:
        raise FormatError(
            f"unknown compression {compression!r}; there are: {', '.join(COMPRESSIONS)}"
        )
    if compression == "none":
        return bytes(data)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, compression) as stream:
        stream.write(data)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def decompressed(data: bytes) -> bytes:
    """The bytes inside; what is not compressed passes.

    Raises:
        FormatError: the frame is broken.
    """
    codec = _MAGIC.get(bytes(data[:4]))
    if codec is None:
        return data
    try:
        with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
            read: bytes = stream.read()
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"the {codec} frame is broken: {error}") from error
    return read
