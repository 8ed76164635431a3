"""Telling a new message from one that the broker delivers again. Pure; time is an argument.

After a reconnect or a restart the broker repeats what it has not seen acknowledged, including what
was acknowledged just before its state was lost. Positions in a partition rise, so a position seen
before is a redelivery, and a step back to one that is not remembered means that somebody moved the
subscription's cursor.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import takewhile

from marketdata.positions import Position


class Arrival(Enum):
    """What a message is to this consumer."""

    NEW = auto()
    """Never seen, and next to the one before as far as positions can tell."""
    SKIPPED = auto()
    """Never seen; messages before it went elsewhere: to another member, or they are gone."""
    UNACKNOWLEDGED = auto()
    """Handed out before and not acknowledged yet."""
    ACKNOWLEDGED = auto()
    """Handed out and acknowledged before: to be dropped."""
    REWOUND = auto()
    """Before the latest and not remembered: the cursor was moved back on purpose."""


@dataclass(slots=True)
class _Partition:
    latest: Position | None = None
    open: dict[Position, None] = field(default_factory=dict)
    acknowledged: "OrderedDict[Position, int]" = field(default_factory=OrderedDict)


class RedeliveryTracker:
    """What was handed out and acknowledged, per partition.

    Args:
        window_ns: how long an acknowledged position is remembered, at least as long as its entry
            is read. A broker persists its cursors within seconds, so a longer way back is
            somebody's wish.
    """

    def __init__(self, *, window_ns: int) -> None:
        self._window_ns = window_ns
        self._partitions: dict[int, _Partition] = {}

    def arrive(self, partition: int, position: Position) -> Arrival:
        """Classify a message that is delivered now and remember it as handed out."""
        state = self._partitions.setdefault(partition, _Partition())
        if position in state.acknowledged:
            return Arrival.ACKNOWLEDGED
        if position in state.open:
            return Arrival.UNACKNOWLEDGED
        latest, state.latest = state.latest, position
        state.open[position] = None
        if latest is None or _follows(latest, position):
            return Arrival.NEW
        return Arrival.SKIPPED if position > latest else Arrival.REWOUND

    def hand_out(self, partition: int, position: Position) -> None:
        """Remember a message that was handed out although it was not delivered: it was read again.

        Should it be delivered after all, it comes a second time.
        """
        state = self._partitions.setdefault(partition, _Partition())
        state.open[position] = None

    def acknowledge(self, partition: int, position: Position, *, now_ns: int) -> None:
        """Remember that the message was acknowledged."""
        state = self._partitions.setdefault(partition, _Partition())
        state.open.pop(position, None)
        state.acknowledged[position] = now_ns
        latest = state.latest or position
        past = takewhile(
            # The entry that is being read comes again as a whole: it is acknowledged as one.
            lambda item: now_ns - item[1] > self._window_ns and not _same_entry(item[0], latest),
            state.acknowledged.items(),
        )
        for oldest, _ in list(past):
            del state.acknowledged[oldest]

    def acknowledge_up_to(self, partition: int, position: Position, *, now_ns: int) -> None:
        """Remember that this message and all before it were acknowledged."""
        state = self._partitions.setdefault(partition, _Partition())
        for earlier in [one for one in state.open if one <= position]:
            self.acknowledge(partition, earlier, now_ns=now_ns)

    def forget(self, partition: int | None = None) -> None:
        """Start anew, for one partition or for all: the cursor was moved."""
        if partition is None:
            self._partitions.clear()
        else:
            self._partitions.pop(partition, None)


def _same_entry(one: Position, other: Position) -> bool:
    return (one.ledger_id, one.entry_id) == (other.ledger_id, other.entry_id)


def _follows(before: Position, position: Position) -> bool:
    if position.ledger_id != before.ledger_id:
        # A ledger was closed; whether it held more cannot be told from here.
        return position.ledger_id > before.ledger_id and position.entry_id == 0
    if position.entry_id == before.entry_id:
        return position.batch_index == before.batch_index + 1
    return position.entry_id == before.entry_id + 1
