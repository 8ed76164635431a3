"""Delivery sequences: contiguous per (view, partition), within an epoch. Pure."""

from typing import Final

from marketdata.findings import Duplicate, EpochChange, Finding, Gap, Reversal
from marketdata.holes import Holes

HOLES_KEPT: Final = 1024
"""How many holes of one key are remembered to tell what comes late from what comes twice."""


class DeliveryContinuity:
    """Delivery sequences of one topic."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, int], int] = {}
        self._epochs: dict[tuple[str, int], int] = {}
        self._holes: dict[tuple[str, int], Holes] = {}

    def check(
        self, view: str, partition: int, first: int, count: int, epoch: int = 0
    ) -> list[Finding]:
        """Check a frame of `count` events whose first has delivery sequence `first`.

        A rise of `epoch` (the property `delivery_epoch`) starts the count anew. A heartbeat is a
        frame of no events: `first` is what comes next.

        >>> continuity = DeliveryContinuity()
        >>> continuity.check("v", 0, 1, 10), continuity.check("v", 0, 11, 10)
        ([], [])
        >>> continuity.check("v", 0, 26, 0)
        [Gap(partition=0, key='view:v', epoch=0, first=21, last=25)]
        """
        key, last = (view, partition), first + count - 1
        findings: list[Finding] = []
        if epoch > self._epochs.setdefault(key, epoch):
            self._epochs[key] = epoch
            self._next[key] = 1
            self._holes.pop(key, None)
            findings.append(EpochChange(partition, f"view:{view}", epoch, 1, 1))
        expected = self._next.setdefault(key, first)
        if epoch < self._epochs[key]:
            if count:
                findings.append(Duplicate(partition, f"view:{view}", epoch, first, last))
            return findings
        if first < expected:
            behind = min(last, expected - 1)
            for late, a, b in self._holes.setdefault(key, Holes(HOLES_KEPT)).fill(first, behind):
                kind = Reversal if late else Duplicate
                findings.append(kind(partition, f"view:{view}", epoch, a, b))
        elif first > expected:
            self._holes.setdefault(key, Holes(HOLES_KEPT)).add(expected, first - 1)
            findings.append(Gap(partition, f"view:{view}", epoch, expected, first - 1))
        self._next[key] = max(expected, last + 1)
        return findings

    def forget(self, partition: int | None = None) -> None:
        """Take the next frame of a partition (None: of every one) as a new baseline."""
        for key in [key for key in self._next if partition in (None, key[1])]:
            del self._next[key]
            self._epochs.pop(key, None)
            self._holes.pop(key, None)
