"""Which partition an instrument belongs to: CRC-32 of its UTF-8 name modulo the partitions.

CRC-32 (ISO-HDLC, the one of zlib) exists in every language, so publishers in any of them agree.
The hash is taken once per distinct instrument of a frame, never per event.
"""

from functools import lru_cache
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@lru_cache(maxsize=1_000_000)
def instrument_hash(instrument: str) -> int:
    """CRC-32 of the instrument's UTF-8 bytes, 0 … 2**32-1."""
    return crc32(instrument.encode())


def partition_of(instrument: str, partitions: int) -> int:
    """The partition of one instrument.

    >>> partition_of("AAPL", 4)
    0
    """
    return instrument_hash(instrument) % partitions


def partitions_of(instruments: pa.Array, partitions: int) -> npt.NDArray[np.int32]:
    """Partition of each value of a string array (a frame's dictionary), as int32."""
    hashes = [instrument_hash(name) for name in instruments.to_pylist()]
    return (np.array(hashes, dtype=np.uint32) % np.uint32(partitions)).astype(np.int32)
