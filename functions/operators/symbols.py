"""Dense ids for names, looked up for a whole dictionary at once.

A frame of a few thousand instruments must not cost a few thousand Python look-ups. Names of up to
15 bytes are packed with their length into two 64-bit words, which is exact, and found in an
open-addressing table with NumPy; longer ones go through a `dict`. Ids are given in order of
appearance and never change.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.arrays import array_of, lengths_of

PACKED_BYTES: Final = 15
"""Longest name that two words hold beside its length."""

_FEW: Final = 16
"""So many names are found sooner in a `dict`."""

_SLOTS_A_KEY: Final = 16
"""At least; each round of searching on after a collision costs as much as the first look."""

_Words = npt.NDArray[np.uint64]
_Ids = npt.NDArray[np.int64]

_MASKS: Final = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)
_LOW: Final = _MASKS[np.minimum(np.arange(PACKED_BYTES + 1), 8)]
_HIGH: Final = _MASKS[np.maximum(np.arange(PACKED_BYTES + 1) - 8, 0)]
_FACTORS: Final = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))


class KeyTable:
    """Dense ids of keys of two 64-bit words, by open addressing.

    >>> table = KeyTable()
    >>> low, high = np.array([7, 9, 7], np.uint64), np.zeros(3, np.uint64)
    >>> table.ids_of(low, high)
    array([0, 1, 0])
    """

    def __init__(self) -> None:
        self._size = 0
        self._low = np.zeros(1024, dtype=np.uint64)
        self._high = np.zeros(1024, dtype=np.uint64)
        self._slots = np.full(16_384, -1, dtype=np.int64)

    def __len__(self) -> int:
        """How many keys have an id."""
        return self._size

    def key(self, number: int) -> tuple[int, int]:
        """The key with an id."""
        return int(self._low[number]), int(self._high[number])

    def ids_of(self, low: _Words, high: _Words) -> _Ids:
        """The ids of keys, given in order of appearance to new ones: int64, one a key."""
        ids, _ = self._find(low, high)
        if len(ids) and ids.min() < 0:
            missing = ids < 0
            self._add(low[missing], high[missing])
            ids, _ = self._find(low, high)
        return ids

    def _find(self, low: _Words, high: _Words) -> tuple[_Ids, _Ids]:
        """Ids, -1 where there is none, and the slot where each search ended."""
        slots = self._hash(low, high)
        ids = self._slots[slots]
        # An empty slot, -1, is compared with any key and left out by its sign.
        other = (self._low[ids] != low) | (self._high[ids] != high)
        searching = (other & (ids >= 0)).nonzero()[0]
        while len(searching):
            slots[searching] = (slots[searching] + 1) & (len(self._slots) - 1)
            there = self._slots[slots[searching]]
            ids[searching] = there
            other = (self._low[there] != low[searching]) | (self._high[there] != high[searching])
            searching = searching[(there >= 0) & other]
        return ids, slots

    def _add(self, low: _Words, high: _Words) -> None:
        new = list(dict.fromkeys(zip(low.tolist(), high.tolist(), strict=True)))
        first, self._size = self._size, self._size + len(new)
        if self._size > len(self._low):
            room = np.zeros(2 * self._size - len(self._low), dtype=np.uint64)
            self._low = np.concatenate([self._low, room])
            self._high = np.concatenate([self._high, room])
        self._low[first : self._size] = [key for key, _ in new]
        self._high[first : self._size] = [key for _, key in new]
        if _SLOTS_A_KEY * self._size > len(self._slots):
            self._slots = np.full(
                1 << (2 * _SLOTS_A_KEY * self._size).bit_length(), -1, dtype=np.int64
            )
            first = 0
        self._place(np.arange(first, self._size))

    def _place(self, numbers: _Ids) -> None:
        while len(numbers):
            _, slots = self._find(self._low[numbers], self._high[numbers])
            self._slots[slots] = numbers  # of several for one slot the last one has it
            numbers = numbers[self._slots[slots] != numbers]

    def _hash(self, low: _Words, high: _Words) -> _Ids:
        mixed = low * _FACTORS[0] ^ high * _FACTORS[1]
        mixed ^= mixed >> np.uint64(29)
        mixed *= _FACTORS[0]
        return (mixed >> np.uint64(40)).astype(np.int64) & (len(self._slots) - 1)


class SymbolTable:
    """Dense ids of names.

    >>> table = SymbolTable()
    >>> table.ids_of(pa.array(["MSFT", "AAPL"])), table.ids_of(pa.array(["AAPL"])), table.names
    (array([0, 1]), array([1]), ['MSFT', 'AAPL'])
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._ids: dict[str, int] = {}
        self._table = KeyTable()
        self._by_key = np.zeros(1024, dtype=np.int64)

    def __len__(self) -> int:
        """How many names have an id."""
        return len(self.names)

    def find(self, name: str) -> int | None:
        """The id of a name that has one."""
        return self._ids.get(name)

    def ids_of(self, names: pa.StringArray) -> _Ids:
        """The ids of names, given in order of appearance to new ones: int64, one a name."""
        if len(names) <= _FEW:
            return self._one_by_one(names.to_pylist())
        lengths = lengths_of(names)
        if lengths.max() > PACKED_BYTES:
            return self._one_by_one(names.to_pylist())
        low, high = _words(names, lengths)
        known = len(self._table)
        keys = self._table.ids_of(low, high)
        if len(self._table) > known:
            self._name(keys, known, names)
        return self._by_key[keys]

    def _name(self, keys: _Ids, known: int, names: pa.StringArray) -> None:
        if len(self._table) > len(self._by_key):
            grown = np.zeros(2 * len(self._table), dtype=np.int64)
            grown[:known] = self._by_key[:known]
            self._by_key = grown
        new = np.flatnonzero(keys >= known)
        texts = names.take(array_of(new, pa.int64())).to_pylist()
        self._by_key[keys[new]] = self._one_by_one(texts)

    def _one_by_one(self, names: Iterable[str]) -> _Ids:
        ids = []
        for name in names:
            number = self._ids.setdefault(name, len(self.names))
            if number == len(self.names):
                self.names.append(name)
            ids.append(number)
        return np.array(ids, dtype=np.int64)


def _words(names: pa.StringArray, lengths: npt.NDArray[np.int32]) -> tuple[_Words, _Words]:
    """Each name and its length in two words, little-endian; exact up to `PACKED_BYTES`."""
    offsets = np.frombuffer(names.buffers()[1], np.int32, count=len(names), offset=names.offset * 4)
    data: Any = names.buffers()[2]
    text = np.zeros((int(offsets[-1]) if len(offsets) else 0) + 32, dtype=np.uint8)
    given = np.frombuffer(data, np.uint8)[: len(text)]
    text[: len(given)] = given
    words = np.ndarray((len(text) - 7,), dtype="<u8", buffer=text, strides=(1,))
    low = words[offsets] & _LOW[lengths]
    high = words[offsets + 8] & _HIGH[lengths] | (lengths.astype(np.uint64) << np.uint64(56))
    return low, high
