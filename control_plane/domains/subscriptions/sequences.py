"""How far the partitions of a view are read, in delivery sequences.

The broker tells positions; which events these are is told by the messages there, whose properties
name the first event of each (`delivery_sequence`) and how many there are. So a heartbeat, which has
none, tells the event that comes next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from control_plane.domains.subscriptions.health import HealthOut, SequencesOut
from control_plane.pulsar_admin import PulsarAdmin
from control_plane.pulsar_values import SubscriptionStats

PARTITIONS_AT_ONCE = 4
Properties = Mapping[str, str]


class _Place(NamedTuple):
    """An event of a partition: the count that it is of, and its number there."""

    epoch: int
    sequence: int


async def add_sequences(
    admin: PulsarAdmin,
    topic: str,
    subscription: str,
    cursors: Mapping[int, SubscriptionStats],
    told: HealthOut,
) -> None:
    """Tell of a subscription's health how far it is read.

    Left out is what messages do not tell: of views with one event a message, and of messages that
    retention has removed.

    Raises:
        AdminError: the broker cannot be asked.
    """
    limit = asyncio.Semaphore(PARTITIONS_AT_ONCE)

    async def of_partition(number: int) -> SequencesOut | None:
        async with limit:
            partition = f"{topic}-partition-{number}"
            return await _read(admin, partition, subscription, number, cursors[number])

    found = await asyncio.gather(*map(of_partition, sorted(cursors)))
    told.sequences = [each for each in found if each is not None]
    waiting = [
        each.newest - each.acknowledged for each in told.sequences if each.acknowledged is not None
    ]
    if len(waiting) == len(told.sequences):
        told.backlog_events = sum(waiting)


async def _read(
    admin: PulsarAdmin, partition: str, subscription: str, number: int, cursor: SubscriptionStats
) -> SequencesOut | None:
    """How far one partition is read; None where it holds nothing that tells."""
    place = await admin.cursor_place(partition, subscription)
    newest = _last(await admin.newest_properties(partition))
    if newest is None:
        return None
    acknowledged: _Place | None = newest
    if cursor.backlog_messages:
        acknowledged = _before(await admin.waiting_properties(partition, subscription))
    delivered: _Place | None = newest
    if place.next_read <= place.newest:
        delivered = _before(await admin.properties_at(partition, place.next_read))
    return SequencesOut(
        partition=number,
        member=cursor.active or None,
        epoch=newest.epoch,
        acknowledged=_within(acknowledged, newest),
        delivered=_within(delivered, newest),
        newest=newest.sequence,
    )


def _within(place: _Place | None, newest: _Place) -> int | None:
    """The number of an event of the count that goes on; None of an earlier one."""
    return place.sequence if place is not None and place.epoch == newest.epoch else None


def _last(properties: Properties | None) -> _Place | None:
    """The last event of a message, or before it where it has none."""
    before = _before(properties)
    if properties is None or before is None:
        return None
    return _Place(before.epoch, before.sequence + int(properties["count"]))


def _before(properties: Properties | None) -> _Place | None:
    """The event before the first one of a message."""
    if not properties or "delivery_sequence" not in properties:
        return None
    epoch = int(properties.get("delivery_epoch", "0"))
    return _Place(epoch, int(properties["delivery_sequence"]) - 1)
