"""The arithmetic of the checker: pairing, order and numbering over whole columns."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

UNKNOWN: Final = -1
"""Stands for an event that nobody published."""

SEQUENCE_BITS: Final = 42
EPOCH_BITS: Final = 32
_MOST_LIVES: Final = 1 << (63 - SEQUENCE_BITS)


def match(
    accepted: npt.NDArray[np.uint64], received: npt.NDArray[np.uint64]
) -> tuple[Indices, Mask]:
    """Pair received with accepted fingerprints, the nth of a value with the nth of it.

    Returns:
        Per received row the accepted index or `UNKNOWN`, and whether it is a first arrival;
        what arrives more often than it was accepted names its last accepted event.
    """
    order = np.argsort(accepted, kind="stable")
    values, starts, counts = np.unique(accepted[order], return_index=True, return_counts=True)
    origin = np.full(len(received), UNKNOWN, dtype=np.int64)
    first = np.zeros(len(received), dtype=bool)
    if not len(values) or not len(received):
        return origin, first
    by_value = np.argsort(received, kind="stable")
    in_order = received[by_value]
    at = np.minimum(np.searchsorted(values, in_order), len(values) - 1)
    known = values[at] == in_order
    opens = np.flatnonzero(np.diff(in_order, prepend=~in_order[:1]) != 0)
    runs = np.diff(opens, append=len(in_order))
    rank = np.arange(len(in_order)) - np.repeat(opens, runs)
    place = starts[at] + np.minimum(rank, counts[at] - 1)
    origin[by_value] = np.where(known, order[place], UNKNOWN)
    first[by_value] = known & (rank < counts[at])
    return origin, first


def first_occurrences(values: npt.NDArray[Any]) -> Mask:
    """Which rows hold a value that no row before them holds."""
    first = np.zeros(len(values), dtype=bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first


def below_before(group: Indices, values: npt.NDArray[Any]) -> Mask:
    """Rows whose value is below the highest one before them in their group."""
    if not len(values):
        return np.zeros(0, dtype=bool)
    codes = np.unique(group, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    numbers = values.astype(np.int64)
    span = int(numbers.max()) - int(numbers.min()) + 1
    lifted = codes[order] * span + (numbers[order] - int(numbers.min()))
    below = np.zeros(len(values), dtype=bool)
    below[order] = lifted < np.maximum.accumulate(lifted)
    return below


class Lives:
    """The lives of instruments: each epoch of an instrument counts its own sequences.

    Args:
        instrument, epoch: of every row of the log.
    """

    def __init__(self, instrument: Indices, epoch: Indices) -> None:
        self._pairs = np.unique(_pairs(instrument, epoch))
        if len(self._pairs) > _MOST_LIVES:
            raise ValueError(f"more than {_MOST_LIVES} instruments and epochs in one check")
        owners = self._pairs >> EPOCH_BITS
        self._owners, self._first, counts = np.unique(owners, return_index=True, return_counts=True)
        self.several_epochs = frozenset(self._owners[counts > 1].tolist())
        """Instruments that had more than one epoch."""

    def later(self, lives: Indices) -> Mask:
        """Which lives began after another one of the same instrument."""
        later: Mask = ~np.isin(lives, self._first)
        return later

    def only_epoch(self, instrument: Indices) -> Indices:
        """The epoch of instruments that had one; 0 for unknown instruments."""
        if not len(self._owners):
            return np.zeros(len(instrument), dtype=np.int64)
        at = np.minimum(np.searchsorted(self._owners, instrument), len(self._owners) - 1)
        epochs = self._pairs[self._first[at]] & ((1 << EPOCH_BITS) - 1)
        only: Indices = np.where(self._owners[at] == instrument, epochs, 0)
        return only

    def keys(self, instrument: Indices, epoch: Indices, sequence: Indices) -> Indices:
        """One number per (instrument, epoch, sequence): the life, then the sequence.

        `UNKNOWN` where the log does not know the instrument in that epoch.
        """
        if (
            len(sequence)
            and not 0 <= int(sequence.min()) <= int(sequence.max()) < 1 << SEQUENCE_BITS
        ):
            raise ValueError(f"a sequence needs more than {SEQUENCE_BITS} bits")
        if not len(self._pairs):
            return np.full(len(sequence), UNKNOWN, dtype=np.int64)
        pairs = _pairs(instrument, epoch)
        life = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
        known = self._pairs[life] == pairs
        keys: Indices = np.where(known, life << SEQUENCE_BITS | sequence, UNKNOWN)
        return keys


def _pairs(instrument: Indices, epoch: Indices) -> Indices:
    return instrument << EPOCH_BITS | epoch
