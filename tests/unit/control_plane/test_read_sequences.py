"""Up to which event a subscription is read, from what messages at its cursors' places say."""

from __future__ import annotations

from typing import cast

import pytest
from test_subscription_health import NOW_MS, THRESHOLDS, cursor

from control_plane.domains.subscriptions.health import SequencesOut, health
from control_plane.domains.subscriptions.sequences import add_sequences
from control_plane.pulsar_admin import PulsarAdmin
from control_plane.pulsar_values import CursorPlace, StoredEntries

Log = list[dict[str, str]]


def frame(first: int, count: int, epoch: int = 0) -> dict[str, str]:
    return {
        "delivery_sequence": str(first),
        "count": str(count),
        "delivery_epoch": str(epoch),
    }


class Broker:
    """Partitions whose messages have properties; a cursor acknowledged and was sent so many."""

    def __init__(self, *partitions: tuple[Log, int, int]) -> None:
        self._partitions = {f"t-partition-{n}": each for n, each in enumerate(partitions)}

    async def cursor_place(self, topic: str, _name: str) -> CursorPlace:
        log, acknowledged, sent = self._partitions[topic]
        return CursorPlace((7, acknowledged - 1), StoredEntries(), (), (7, sent), (7, len(log) - 1))

    async def newest_properties(self, topic: str) -> dict[str, str] | None:
        log, _, _ = self._partitions[topic]
        return log[-1] if log else None

    async def waiting_properties(self, topic: str, _name: str) -> dict[str, str] | None:
        log, acknowledged, _ = self._partitions[topic]
        return log[acknowledged] if acknowledged < len(log) else None

    async def properties_at(self, topic: str, position: tuple[int, int]) -> dict[str, str] | None:
        log, _, _ = self._partitions[topic]
        return log[position[1]] if position[1] < len(log) else None


async def read(*partitions: tuple[Log, int, int]) -> tuple[list[SequencesOut], int | None]:
    cursors = {
        number: cursor(len(log) - acknowledged, 5)
        for number, (log, acknowledged, _) in enumerate(partitions)
    }
    told = health(cursors, NOW_MS, THRESHOLDS)
    await add_sequences(cast(PulsarAdmin, Broker(*partitions)), "t", "s", cursors, told)
    assert told.sequences is not None
    return told.sequences, told.backlog_events


LOG = [frame(1, 10), frame(11, 5), frame(16, 0), frame(16, 4)]


@pytest.mark.parametrize(
    ("acknowledged", "sent", "expected", "waiting"),
    [
        (0, 0, (0, 0), 19),
        (1, 2, (10, 15), 9),
        # What comes next is what a heartbeat says.
        (2, 3, (15, 15), 4),
        (3, 4, (15, 19), 4),
        (4, 4, (19, 19), 0),
    ],
)
async def test_places_are_told_as_events(
    acknowledged: int, sent: int, expected: tuple[int, int], waiting: int
) -> None:
    (found,), events = await read((LOG, acknowledged, sent))
    assert (found.acknowledged, found.delivered) == expected
    assert (found.newest, found.member, events) == (19, "a", waiting)


async def test_partitions_are_summed_and_those_without_messages_left_out() -> None:
    found, events = await read((LOG, 1, 1), ([], 0, 0), ([frame(1, 3)], 0, 1))
    assert [each.partition for each in found] == [0, 2]
    assert events == 9 + 3


async def test_numbers_of_an_earlier_count_are_not_told() -> None:
    log = [frame(100, 5, epoch=1), frame(1, 2, epoch=2)]
    (found,), events = await read((log, 0, 1))
    assert (found.epoch, found.acknowledged, found.delivered, found.newest) == (2, None, 0, 2)
    assert events is None


async def test_views_whose_messages_do_not_tell_are_left_out() -> None:
    assert await read(([{}, {}], 0, 1)) == ([], 0)
