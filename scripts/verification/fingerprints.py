"""Fingerprints: what an event says, as one 64-bit number, computed column by column.

Two events have equal fingerprints when they agree in every column compared, names included,
whatever their encoding (dictionary or plain text); different events agree by chance once in 2**64.
"""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Words = npt.NDArray[np.uint64]

_NULL: Final = np.uint64(0x9E3779B97F4A7C15)
_ODD: Final = np.uint64(0xD6E8FEB86659FD93)


@lru_cache(1 << 18)
def text_hash(text: str) -> int:
    """64 bits of BLAKE2b over the UTF-8 bytes."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def fingerprints(columns: Iterable[tuple[str, pa.Array]], rows: int) -> Words:
    """One fingerprint a row: uint64.

    Args:
        columns: (name, values); symbols, text, integers, timestamps and 32-bit floats. Their
            order does not matter.
        rows: length of every column.
    """
    named = list(columns)
    words = np.empty((len(named), rows), dtype=np.uint64)
    for at, (_, column) in enumerate(named):
        words[at] = _words(column)
    words *= _ODD
    words += np.array([[text_hash(name)] for name, _ in named], dtype=np.uint64).reshape(-1, 1)
    return _mixed(_mixed(words).sum(axis=0, dtype=np.uint64))


def _words(column: pa.Array) -> Words:
    kind = column.type
    if pa.types.is_string(kind):
        column = column.dictionary_encode()
        kind = column.type
    if pa.types.is_dictionary(kind):
        hashes = [_NULL if t is None else text_hash(t) for t in column.dictionary.to_pylist()]
        table = np.array([*hashes, _NULL], dtype=np.uint64)
        codes = column.indices.cast(pa.int64()).fill_null(len(hashes))
        words: Words = table[codes.to_numpy(zero_copy_only=False)]
        return words
    if pa.types.is_timestamp(kind):
        column = column.view(pa.int64())
    elif pa.types.is_float32(kind):
        column = column.view(pa.int32())
    null = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    numbers = column.fill_null(0) if column.null_count else column
    words = numbers.to_numpy(zero_copy_only=False).astype(np.int64, copy=False).view(np.uint64)
    return words if null is None else np.where(null, _NULL, words)


def _mixed(words: Words) -> Words:
    """The finalizer of SplitMix64: every input bit reaches every output bit."""
    words = words ^ (words >> np.uint64(30))
    words = words * np.uint64(0xBF58476D1CE4E5B9)
    words = words ^ (words >> np.uint64(27))
    words = words * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
