"""Finding a place in one partition without reading all of it; every call blocks and is bounded.

The ledgers of a partition tell where its entries are. They are halved again and again; what the
message in the middle says of the place decides. Messages that say nothing are read over.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate

import pulsar

from control_plane.pulsar_values import StoredEntries
from marketdata.errors import DistributionError
from marketdata.history import read_stretch
from marketdata.positions import BATCH_BITS, Position

MAX_MESSAGES = 10_000
MAX_BYTES = 256 * 1024 * 1024
PREFETCH = 4
"""A frame may have megabytes, and most searches need one message of a stretch."""

_BEHIND_ALL = (1 << BATCH_BITS) - 1

FINE = 8
"""Stretches of so many entries are read from their beginning."""

Judge = Callable[[pulsar.Message], bool | None]
"""Whether a message stands at or behind the place; None when it does not say."""


class OutOfBounds(DistributionError):
    """More would have to be read than one request may; the text says how much was."""


class Budget:
    """What one request may read.

    Args:
        timeout_s: from now on.
    """

    def __init__(
        self, *, timeout_s: float, messages: int = MAX_MESSAGES, size: int = MAX_BYTES
    ) -> None:
        self.deadline = time.monotonic() + timeout_s
        self._messages = messages
        self._bytes = size
        self._read = 0

    def spend(self, message: pulsar.Message) -> None:
        """Count a message that was read.

        Raises:
            OutOfBounds: it was the last one too many.
        """
        self._read += 1
        self._bytes -= len(message.data())
        if self._read > self._messages or self._bytes < 0 or time.monotonic() >= self.deadline:
            raise OutOfBounds(f"{self._read} messages were read")


class Stored:
    """The entries of one partition, numbered from 0, as its ledgers were when they were asked for.

    Args:
        topic: the partition's own topic; the messages of an entry have its number.
        entries: what it holds.
    """

    def __init__(self, topic: str, entries: StoredEntries) -> None:
        filled = [ledger for ledger in entries.ledgers if ledger[1]]
        self.topic = topic
        self.written = entries.written
        self._ids = [ledger_id for ledger_id, _ in filled]
        self._ends = list(accumulate(entries for _, entries in filled))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def position(self, number: int) -> Position:
        """Where an entry is."""
        ledger = bisect_right(self._ends, number)
        return Position(self._ids[ledger], number - (self._ends[ledger - 1] if ledger else 0))

    def read(
        self, client: pulsar.Client, begin: int, end: int, budget: Budget
    ) -> Generator[tuple[int, pulsar.Message]]:
        """The messages of a stretch of entries with their numbers, as far as they are still there.

        Raises:
            OutOfBounds, HistoryTimeout: the budget is spent.
            pulsar.PulsarException: the broker is away, or there is no such topic.
        """
        if begin >= end:
            return
        # To the last of an entry's messages, of which there may be several.
        first, last = self.position(begin), self.position(end - 1)._replace(batch_index=_BEHIND_ALL)
        stretch = read_stretch(
            client, self.topic, first, last, deadline=budget.deadline, prefetch=PREFETCH
        )
        with closing(stretch) as messages:
            for position, message in messages:
                budget.spend(message)
                yield self._number(position), message

    def _number(self, position: Position) -> int:
        ledger = self._ids.index(position.ledger_id)
        return position.entry_id + (self._ends[ledger - 1] if ledger else 0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a search ended.

    Attributes:
        number: of the first entry at or behind the place; that behind the last when there is none.
        message: in it; None when the partition ends before the place.
        preceded: a message before the place is there: it is not the beginning that hides more.
    """

    number: int
    message: pulsar.Message | None
    preceded: bool


def find_place(client: pulsar.Client, stored: Stored, judge: Judge, budget: Budget) -> Place:
    """The first message of a partition at or behind a place.

    Raises:
        OutOfBounds, HistoryTimeout: the budget is spent.
        pulsar.PulsarException: the broker is away, or there is no such topic.
    """
    low, high, preceded = 0, len(stored), False
    while high - low > FINE:
        middle = (low + high) // 2
        number, behind = _saying(client, stored, (middle, high), judge, budget)
        if behind is False:
            low, preceded = number + 1, True
        else:
            high = middle
    with closing(stored.read(client, low, len(stored), budget)) as messages:
        for number, message in messages:
            behind = judge(message)
            if behind:
                return Place(number, message, preceded)
            preceded = preceded or behind is False
    return Place(len(stored), None, preceded)


def _saying(
    client: pulsar.Client, stored: Stored, stretch: tuple[int, int], judge: Judge, budget: Budget
) -> tuple[int, bool | None]:
    """The first entry of a stretch that says anything of the place, and what; None for none."""
    with closing(stored.read(client, *stretch, budget)) as messages:
        for number, message in messages:
            behind = judge(message)
            if behind is not None:
                return number, behind
    return stretch[1], None
