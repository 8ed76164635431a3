"""Topics, asked of the topology, the database and the broker at the moment of the question."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from control_plane.database import Database
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.topics.schemas import TopicDetailOut, TopicList, TopicOut, TopicState
from control_plane.errors import BrokerUnavailableError, NotFoundError, UnavailableError
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin
from control_plane.pulsar_values import TopicStats
from control_plane.topology import Topology, TopologyError, load_topology
from marketdata.topics import delivery_topic

_VIEW = re.compile(r"view-([0-9a-f]{16})")
_NOTHING = TopicStats(0, 0, 0.0, 0.0, 0, 0, 0, {}, {})


class TopologyUnavailableError(UnavailableError):
    """The topology's files cannot be read."""

    dependency = "topology"


class TopicService:
    """Lists the topics of the topology, and describes these and those of views."""

    def __init__(self, database: Database, admin: PulsarAdmin, topology_dir: Path) -> None:
        self._database = database
        self._admin = admin
        self._topology_dir = topology_dir

    async def listing(self) -> TopicList:
        """Every topic that the topology declares.

        Raises:
            BrokerUnavailableError, TopologyUnavailableError: one cannot be asked.
        """
        topology = await self._load()
        items = []
        for key, name in sorted(topology.topic_names.items()):
            actual = await self._partitions(name)
            items.append(_compared(key, name, topology.topics[name].partitions, actual))
        return TopicList(items)

    async def describe(self, key: str) -> TopicDetailOut:
        """One topic, with the broker's counters.

        Raises:
            NotFoundError: neither the topology nor the broker has it.
            BrokerUnavailableError, TopologyUnavailableError: one cannot be asked.
        """
        topology = await self._load()
        view = _VIEW.fullmatch(key)
        desired: int | None
        if view is not None:
            name = delivery_topic(view[1])
            async with self._database.transaction() as session:
                live = await plan_rows.is_live(session, view[1])
            desired = topology.partitions if live else None
        elif key in topology.topic_names:
            name = topology.topic_names[key]
            desired = topology.topics[name].partitions
        else:
            raise NotFoundError("topic", key)
        actual = await self._partitions(name)
        if desired is None and actual is None:
            raise NotFoundError("topic", key)
        compared = _compared(key, name, desired, actual)
        stats = await self._stats(name, actual)
        return TopicDetailOut(
            **{member: getattr(compared, member) for member in TopicOut.__struct_fields__},
            messages_in=stats.messages_in,
            rate_in=stats.rate_in,
            rate_out=stats.rate_out,
            storage_bytes=stats.storage_bytes,
            backlog_bytes=stats.backlog_bytes,
            producers=stats.producers,
            subscriptions=len(stats.subscriptions),
        )

    async def _load(self) -> Topology:
        try:
            return await asyncio.to_thread(load_topology, self._topology_dir)
        except (TopologyError, OSError) as error:
            raise TopologyUnavailableError(f"The topology cannot be read: {error}") from error

    async def _partitions(self, name: str) -> int | None:
        """How many partitions a topic has; 0 for a plain one, None where there is none."""
        try:
            return await self._admin.partitions(name) or await self._plain(name)
        except AdminNotFound:
            return None
        except AdminError as error:
            raise BrokerUnavailableError("The broker's admin API failed.") from error

    async def _plain(self, name: str) -> int:
        # A topic that is not there is answered with 0 partitions, too.
        await self._admin.topic_stats(name)
        return 0

    async def _stats(self, name: str, partitions: int | None) -> TopicStats:
        try:
            if partitions is None:
                return _NOTHING
            if partitions == 0:
                return await self._admin.topic_stats(name)
            return await self._admin.partitioned_stats(name)
        except AdminNotFound:
            return _NOTHING  # gone since
        except AdminError as error:
            raise BrokerUnavailableError("The broker's admin API failed.") from error


def _compared(key: str, name: str, desired: int | None, actual: int | None) -> TopicOut:
    state: TopicState = "present"
    if actual is None:
        state = "missing"
    elif desired is None:
        state = "left over"
    elif desired != actual:
        state = "drifted"
    return TopicOut(key, name, desired, actual, state)
