"""Conflation: of many events of an instrument the newest stands for all.

Pure. What was merged is told with every event that is delivered: how many events it stands for, and
the sequence of the first of them.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.arrays import array_of
from marketdata.mixed import MERGED_FIELDS

Rows = npt.NDArray[np.int64]


class Latest(NamedTuple):
    """The newest rows.

    Attributes:
        rows: numbers of the rows that stay: ascending, int64.
        merged: how many rows each stands for, itself included: uint32.
        first: the sequence of the first of them: uint64.
    """

    rows: Rows
    merged: npt.NDArray[np.uint32]
    first: npt.NDArray[np.uint64]

    def columns(self, rows: Rows) -> list[pa.Array]:
        """The columns that tell it, for some of the rows that stay.

        Args:
            rows: in any order, all of them among `rows`, which are ascending.
        """
        at = np.searchsorted(self.rows, rows)
        merged, first = MERGED_FIELDS
        return [array_of(self.merged[at], merged.type), array_of(self.first[at], first.type)]


def latest(rows: Rows, keys: Rows, sequences: npt.NDArray[np.uint64]) -> Latest:
    """The newest row of each key.

    Args:
        rows: row numbers, ascending, at least one.
        keys, sequences: of the same rows.
    """
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    ends = np.append(starts[1:], len(order))
    newest = order[ends - 1]
    by_row = np.argsort(newest)
    counts = (ends - starts).astype(np.uint32)
    return Latest(rows[newest][by_row], counts[by_row], sequences[order[starts]][by_row])
