"""Merging: adjacent frames of one kind become one batch, so that small frames cost little.

Under load frames pile up and are merged; when idle each goes alone, so nothing waits for company.
"""

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

import pyarrow as pa


class Positioned(Protocol):
    """Something read from a log."""

    @property
    def position(self) -> int:
        """Its place in the log, packed."""


Item = TypeVar("Item", bound=Positioned)


def merged(
    frames: Iterable[tuple[Item, str, pa.RecordBatch]], *, max_rows: int, max_bytes: int
) -> Iterator["FrameGroup[Item]"]:
    """Groups of adjacent frames, in log order.

    Args:
        frames: what was read, its kind and its batch.
        max_rows, max_bytes: bounds of a merged batch; a single frame always fits.
    """
    group: FrameGroup[Item] | None = None
    for item, kind, batch in frames:
        if group is None or not group.add(item, kind, batch):
            if group is not None:
                yield group
            group = FrameGroup(kind, max_rows=max_rows, max_bytes=max_bytes)
            group.add(item, kind, batch)
    if group is not None:
        yield group


class FrameGroup(Generic[Item]):
    """Frames of one kind in log order, and where each begins in the merged batch.

    Args:
        kind: of all frames.
        max_rows, max_bytes: bounds of the merged batch; a first frame always fits.
    """

    def __init__(self, kind: str, *, max_rows: int, max_bytes: int) -> None:
        self.kind = kind
        self.items: list[Item] = []
        self.rows = 0
        self._bytes = 0
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._batches: list[pa.RecordBatch] = []
        self._starts: list[int] = []

    def add(self, item: Item, kind: str, batch: pa.RecordBatch) -> bool:
        """Append a frame; False when it is of another kind or would burst the bounds."""
        size = batch.nbytes
        if self.items and (
            kind != self.kind
            or self.rows + batch.num_rows > self._max_rows
            or self._bytes + size > self._max_bytes
        ):
            return False
        self.items.append(item)
        self._batches.append(batch)
        self._starts.append(self.rows)
        self.rows += batch.num_rows
        self._bytes += size
        return True

    def batch(self) -> pa.RecordBatch:
        """All rows in log order, on shared dictionaries."""
        if len(self._batches) == 1:
            return self._batches[0]
        table = pa.Table.from_batches(self._batches).unify_dictionaries()
        return table.combine_chunks().to_batches()[0]

    def items_after(self, position: int) -> tuple[list[Item], int]:
        """The frames behind a position and the row where they begin."""
        for n, item in enumerate(self.items):
            if item.position > position:
                return self.items[n:], self._starts[n]
        return [], self.rows
