"""Arrow IPC streams: the frame as it is."""

from typing import Final

import pyarrow as pa

from marketdata.control_frames import NO_EVENTS
from marketdata.errors import InvalidFrame
from marketdata.formats.base import FormatError
from marketdata.frames import encode_frame, read_frame

_COMPRESSIONS: Final[dict[str, str | None]] = {"none": None, "lz4": "lz4", "zstd": "zstd"}
_NO_EVENTS: Final[bytes] = encode_frame(pa.RecordBatch.from_pylist([], NO_EVENTS)).to_pybytes()


class ArrowFormat:
    """One IPC stream with one record batch; compression is Arrow's own, of the buffers."""

    name: Final = "arrow"
    media_type: Final = "application/vnd.apache.arrow.stream"
    description: Final = (
        "Each message is one Arrow IPC stream with one record batch of events of one kind. "
        "Prices are int64 in units of 1e-9, sizes int64 in units of 1e-8."
    )
    max_rows: Final = 32_768
    renames: Final = True

    def encode(self, batch: pa.RecordBatch, compression: str = "none") -> bytes:
        """See `Format.encode`."""
        if compression not in _COMPRESSIONS:
            raise FormatError(
                f"unknown compression {compression!r}; there are: {', '.join(_COMPRESSIONS)}"
            )
        data: bytes = encode_frame(batch, compression=_COMPRESSIONS[compression]).to_pybytes()
        return data

    def no_events(self) -> bytes:
        """See `Format.no_events`: one batch without rows."""
        return _NO_EVENTS

    def decode(self, data: bytes, schema: pa.Schema | None = None) -> pa.RecordBatch:
        """See `Format.decode`; the stream carries its schema, `schema` is only checked."""
        try:
            batch = read_frame(data)
        except InvalidFrame as error:
            raise FormatError(str(error)) from error
        if schema is not None and batch.schema != schema:
            raise FormatError("the stream has another schema than expected")
        return batch
