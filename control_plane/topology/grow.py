"""Growing the number of partitions: drains, grows, raises the epoch floor (docs/partitions.md).

An instrument that moves to another partition must be read from its old partition to the end before
its first event in the new one. So publishers are gone before, every subscription has read all, and
sequences start anew in a higher epoch, which every partition announces by a message.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.pulsar_admin import AdminNotFound, PulsarAdmin
from control_plane.topology.model import Actual, Topology
from marketdata.errors import DistributionError
from marketdata.topics import partition_topic

INGEST: Final = "ingest"
SEQUENCED: Final = "sequenced"
"""Ids in the YAML of the topics that events come in and are logged in."""

_POLL_S: Final = 0.5
_LEAST_PATIENCE_S: Final = 5.0
"""Ticks and heartbeats are always under way: a backlog is looked at several times."""

_PARTITIONS: Final = re.compile(r"^partitions:[ \t]*\d+", re.MULTILINE)
_EPOCH: Final = re.compile(r"^epoch:.*\n(?:[ \t]+.*\n)*", re.MULTILINE)

Say = Callable[[str], None]


class GrowError(DistributionError):
    """The partitions cannot grow now; the text says what to do. Nothing is lost by asking again."""


@dataclass(frozen=True, slots=True)
class Growth:
    """What is to be done.

    Attributes:
        old, new: partition counts; old is the one that the functions run with, also when a growth
            was interrupted.
        topics: those of the cluster that have fewer than `new` partitions, in the order in which
            they grow: what events reach last grows first.
        drained: partitioned topics whose subscriptions must have read everything, in the order in
            which events reach them.
    """

    old: int
    new: int
    topics: tuple[str, ...]
    drained: tuple[str, ...]


def growth(topology: Topology, actual: Actual, partitions: int) -> Growth:
    """What it takes to have so many partitions.

    Raises:
        GrowError: the topology or the cluster has more already, or the topology is not applied.
    """
    ingest, sequenced = topology.topic_names[INGEST], topology.topic_names[SEQUENCED]
    missing = [name for name in (ingest, sequenced) if name not in actual.topics]
    if missing:
        raise GrowError(f"{missing[0]} does not exist; run `deploy_functions.py apply` first")
    partitioned = {
        name: state.partitions
        for name, state in actual.topics.items()
        if state.partitions and (name in topology.topics or topology.is_dynamic(name))
    }
    wider = [name for name, count in partitioned.items() if count > partitions]
    if wider or topology.partitions > partitions:
        raise GrowError(
            f"there are {max([topology.partitions, *partitioned.values()])} partitions already, and"
            " Pulsar cannot take partitions away; name a larger number"
        )
    last = [sequenced, ingest]
    views = sorted(name for name in partitioned if name not in topology.topics)
    others = sorted(name for name in partitioned if name in topology.topics and name not in last)
    return Growth(
        min(topology.partitions, partitioned[ingest]),
        partitions,
        tuple(name for name in (*views, *others, *last) if partitioned[name] < partitions),
        (ingest, sequenced, *views),
    )


def grown_texts(
    texts: dict[Path, str], partitions: int, floor: int, reason: str
) -> dict[Path, str]:
    """The topology's files that change, with the new count and the raised epoch floor.

    Comments and everything else stay as they are.

    Raises:
        GrowError: no file has a line `partitions: …`.
    """
    epoch = f"epoch: {{floor: {floor}, reason: {json.dumps(reason)}}}\n"
    owner = next((path for path, text in texts.items() if _PARTITIONS.search(text)), None)
    if owner is None:
        raise GrowError("no topology file has a line `partitions: …`; write it so")
    changed = {path: _EPOCH.sub("", text) for path, text in texts.items()}
    place = f"partitions: {partitions}"
    changed[owner] = _PARTITIONS.sub(lambda _: place, changed[owner], count=1)
    at = changed[owner].index(place)
    end = changed[owner].find("\n", at)
    end = len(changed[owner]) if end < 0 else end + 1
    head = changed[owner][:end]
    head += "" if head.endswith("\n") else "\n"
    changed[owner] = head + epoch + changed[owner][end:]
    return {path: text for path, text in changed.items() if text != texts[path]}


class Grower:
    """Carries a growth out on a cluster.

    Args:
        admin: the cluster.
        growth: what is to be done.
        patience_s: how long to wait for publishers to go and for subscriptions to read all.
        say: told of every step.
    """

    def __init__(self, admin: PulsarAdmin, growth: Growth, *, patience_s: float, say: Say) -> None:
        self._admin = admin
        self._growth = growth
        self._patience_s = max(patience_s, _LEAST_PATIENCE_S)
        self._say = say

    async def publishers_gone(self) -> None:
        """Wait until nobody but the sequencer's ticks publishes.

        Raises:
            GrowError: somebody still does.
        """
        ingest = self._growth.drained[0]
        deadline = time.monotonic() + self._patience_s
        told: list[str] = []
        while connected := await self._publishers(ingest):
            if time.monotonic() > deadline:
                raise GrowError(
                    f"publishers are still connected: {', '.join(connected)}. They place events by"
                    f" {self._growth.old} partitions: stop them, or pass --wait SECONDS to wait for"
                    " them; with --publishers-told those that are known not to publish until they"
                    " are restarted may stay connected"
                )
            if connected != told:
                told = connected
                self._say(f"  waiting for publishers to go: {', '.join(connected)}")
            await asyncio.sleep(_POLL_S)
        self._say("  no publisher is connected")

    async def drained(self, *, accepted: Iterable[str] = ()) -> None:
        """Wait until every subscription has read everything: functions first, then consumers.

        Args:
            accepted: Pulsar subscriptions that may be behind; their readers see an instrument that
                moves in its new partition before they have read it to the end in its old one.

        Raises:
            GrowError: one has not.
        """
        deadline = time.monotonic() + self._patience_s
        for topic in self._growth.drained:
            told: dict[str, int] = {}
            seen_empty: set[tuple[str, int]] = set()
            while behind := await self._behind(topic, set(accepted), seen_empty):
                shown = ", ".join(f"{name} ({count} messages)" for name, count in behind.items())
                if time.monotonic() > deadline:
                    raise GrowError(
                        f"{topic} has not been read to its end by {shown}. Let them read on, for"
                        " example with --wait SECONDS; delete the subscriptions that nobody needs;"
                        " or accept with --accept-backlog NAME that one's reader sees instruments"
                        " out of order once"
                    )
                if behind.keys() != told.keys():
                    self._say(f"  waiting for {topic} to be read by {shown}")
                    told = behind
                await asyncio.sleep(_POLL_S)
        self._say("  every subscription has read everything")

    async def highest_epoch(self) -> int:
        """The highest epoch that a partition of the log is in, as its heartbeats say.

        Raises:
            GrowError: a partition has no heartbeat as its newest message.
        """
        topic = self._growth.drained[1]
        return max(
            [await self._epoch(partition_topic(topic, n), 0) for n in range(self._growth.old)]
        )

    async def grow_topics(self) -> None:
        """Give every topic its partitions; subscriptions follow to the new ones."""
        for topic in self._growth.topics:
            try:
                await self._admin.update_partitions(topic, self._growth.new)
            except AdminNotFound:  # a view that went meanwhile
                continue
            self._say(f"  {topic}: {self._growth.new} partitions")
            await self._extend_subscriptions(topic)

    async def announced(self, floor: int) -> None:
        """Wait until every partition of the log has announced the new epoch.

        Raises:
            GrowError: one has not, so publishers must not start yet.
        """
        topic = self._growth.drained[1]
        for number in range(self._growth.new):
            await self._epoch(partition_topic(topic, number), floor)
        self._say(f"  all {self._growth.new} partitions of the log are in epoch {floor} or above")

    async def _extend_subscriptions(self, topic: str) -> None:
        """Have every durable subscription on the new partitions before the first event comes."""
        first, *others = [
            await self._admin.topic_stats(partition_topic(topic, number))
            for number in range(self._growth.new)
        ]
        durable = {name for name, each in first.subscriptions.items() if each.durable}
        for number, stats in enumerate(others, start=1):
            for name in sorted(durable - stats.subscriptions.keys()):
                part = partition_topic(topic, number)
                await self._admin.create_subscription(part, name, start="earliest")

    async def _publishers(self, topic: str) -> list[str]:
        stats = await self._admin.partitioned_stats(topic)
        return sorted(
            {
                f"{each.name} ({each.address})"
                for partition in stats.partitions.values()
                for each in partition.connected_producers
                if each.properties.get("role") != "tick"
            }
        )

    async def _behind(
        self, topic: str, accepted: set[str], seen_empty: set[tuple[str, int]]
    ) -> dict[str, int]:
        """Backlogs that have not been seen at 0; without publishers one that was holds no event."""
        try:
            stats = await self._admin.partitioned_stats(topic)
        except AdminNotFound:
            return {}
        behind: dict[str, int] = {}
        for number, partition in stats.partitions.items():
            for name, each in partition.subscriptions.items():
                if not each.durable:
                    continue  # a reader: it keeps no place, so nobody knows whether it wants more
                if each.backlog_messages == 0:
                    seen_empty.add((name, number))
                if name not in accepted and (name, number) not in seen_empty:
                    behind[name] = behind.get(name, 0) + each.backlog_messages
        return behind

    async def _epoch(self, topic: str, least: int) -> int:
        deadline = time.monotonic() + max(self._patience_s, 60.0)
        while True:
            properties = await self._admin.newest_properties(topic) or {}
            epoch = int(properties.get("epoch", 0))
            if epoch and epoch >= least:
                return epoch
            if time.monotonic() > deadline:
                raise GrowError(
                    f"{topic} shows no heartbeat of epoch {max(least, 1)} or above; see with"
                    " `deploy_functions.py status` whether the sequencer runs, then run the same"
                    " command again"
                )
            await asyncio.sleep(_POLL_S)
