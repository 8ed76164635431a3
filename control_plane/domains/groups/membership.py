"""Who reads what of a group, from what the broker says of its cursors, and what has changed. Pure.

A member is known by the name of its Pulsar consumer: two clients that call themselves the same are
one member. It may have several addresses, one for each broker that it is connected to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from control_plane.pulsar_values import ConnectedConsumer, SubscriptionStats

MEMBERS_KEPT = 100
"""Most members of a group that are kept and told; those that read something come first."""
DEPARTED_KEPT = 20
NAME_CHARACTERS = 100
ADDRESSES_KEPT = 8


class Member(msgspec.Struct, frozen=True):
    """A client that reads, or stands by."""

    name: Annotated[str, Meta(description="Of its Pulsar consumer.")]
    addresses: list[str]
    partitions: Annotated[
        list[int], Meta(description="That it reads; a member that stands by has none.")
    ]
    joined_at: Annotated[datetime, Meta(description="When it was first seen.")]


class Departed(msgspec.Struct, frozen=True):
    """A client that is no longer connected."""

    name: str
    addresses: list[str]
    partitions: Annotated[list[int], Meta(description="That it read when it was last seen.")]
    joined_at: datetime
    left_at: Annotated[datetime, Meta(description="When it was no longer there.")]


class Moved(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """A partition that another member reads than before; None for nobody."""

    partition: int
    before: str | None
    after: str | None


class Changes(msgspec.Struct, frozen=True):
    """A group as it is now, and how it differs from before."""

    members: list[Member]
    joined: list[Member]
    left: list[Member]
    moved: list[Moved]

    def __bool__(self) -> bool:
        return bool(self.joined or self.left or self.moved)


def connections(
    cursors: Mapping[int, SubscriptionStats],
) -> dict[str, dict[int, list[ConnectedConsumer]]]:
    """The connected consumers of each member, by partition."""
    found: dict[str, dict[int, list[ConnectedConsumer]]] = {}
    for number, cursor in cursors.items():
        for client in cursor.connected:
            found.setdefault(printable(client.name), {}).setdefault(number, []).append(client)
    return found


def members(cursors: Mapping[int, SubscriptionStats], now: datetime) -> list[Member]:
    """The members of a group, those that read first; at most `MEMBERS_KEPT`.

    Args:
        cursors: the cursor in each partition of the topic.
        now: what is told as when they joined.
    """
    active = {number: printable(cursor.active) for number, cursor in cursors.items()}
    found = [
        Member(
            name,
            sorted({printable(each.address) for at in clients.values() for each in at})[
                :ADDRESSES_KEPT
            ],
            sorted(number for number in clients if active[number] == name),
            now,
        )
        for name, clients in connections(cursors).items()
    ]
    return sorted(found, key=lambda each: (not each.partitions, each.name))[:MEMBERS_KEPT]


def compare(before: Sequence[Member], now: Sequence[Member]) -> Changes:
    """What has changed in a group; who was there before keeps the time of joining."""
    known = {each.name: each for each in before}
    there = {each.name for each in now}
    was, becomes = _readers(before), _readers(now)
    return Changes(
        members=[
            msgspec.structs.replace(each, joined_at=known[each.name].joined_at)
            if each.name in known
            else each
            for each in now
        ],
        joined=[each for each in now if each.name not in known],
        left=[each for each in before if each.name not in there],
        moved=[
            Moved(number, was.get(number), becomes.get(number))
            for number in sorted(was.keys() | becomes.keys())
            if was.get(number) != becomes.get(number)
        ],
    )


def departed(
    before: Sequence[Departed], left: Sequence[Member], joined: Sequence[Member], at: datetime
) -> list[Departed]:
    """Who has left, the latest first; who has come back is not among them."""
    back = {each.name for each in joined}
    now = [
        Departed(each.name, each.addresses, each.partitions, each.joined_at, at) for each in left
    ]
    gone = {each.name for each in left} | back
    return [*now, *(each for each in before if each.name not in gone)][:DEPARTED_KEPT]


def printable(text: str) -> str:
    r"""What a client calls itself, as it can be stored and shown.

    >>> printable("a\x00b")
    'a?b'
    """
    return "".join(each if each.isprintable() else "?" for each in text[:NAME_CHARACTERS])


def _readers(members: Sequence[Member]) -> dict[int, str]:
    return {number: each.name for each in members for number in each.partitions}
