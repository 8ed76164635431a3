"""Works out what followed workflows have confirmed, and tells the functions that wait for it.

One control plane does so at a time, about once a second, for the workflows that the topology has a
lane for; without such a lane nothing is asked. It is one question for the log and one for each
topic of the workflows' views. What has been confirmed stands on the topic `control/confirmed`,
which every control plane reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import structlog

from control_plane.broker import Broker
from control_plane.database import Database, Lock
from control_plane.domains.functions.topology import KnownTopology
from control_plane.domains.subscriptions import followed
from control_plane.domains.subscriptions.confirmation import Confirmation, Cursor
from control_plane.domains.subscriptions.followed import Member
from control_plane.domains.system.metrics import Metrics
from control_plane.looks import Looks
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin
from control_plane.pulsar_values import CursorPlace
from marketdata.confirmed import Confirmed, Place, decode_confirmed, encode_confirmed, merged
from marketdata.lanes import DEFAULT_LANE, followed_by, served_in
from marketdata.topics import CONFIRMED, SEQUENCED_EVENTS

LOOK_SECONDS = 1.0
TOPICS_AT_ONCE = 8

NOBODY = "no subscription belongs to the workflow"
UNSERVED = "no function serves a view of the workflow"

log = structlog.get_logger(__name__)

Cursors = Mapping[int, Mapping[str, CursorPlace]]
"""By partition where the cursors of a topic stand, by name."""


class ConfirmedBoard:
    """What workflows have confirmed, as the topic tells; filled by its follower's thread."""

    def __init__(self) -> None:
        self._known: dict[str, Confirmed] = {}

    def take(self, payload: bytes) -> None:
        """Take in what the topic tells; what was confirmed once stays so. MsgspecError for others."""
        told = decode_confirmed(payload)
        before = self.of(told.workflow)
        places = merged(before.places, told.places)
        as_of_ns = max(before.as_of_ns, told.as_of_ns)
        self._known[told.workflow] = msgspec.structs.replace(told, places=places, as_of_ns=as_of_ns)

    def of(self, workflow: str) -> Confirmed:
        """What a workflow has confirmed."""
        return self._known.get(workflow) or Confirmed(workflow, {})

    def all(self) -> list[Confirmed]:
        """What each has confirmed of which something was told."""
        return list(self._known.copy().values())


class _Asked(NamedTuple):
    """What is known of a workflow at a look.

    Attributes:
        passed: by partition up to where the log was passed for it, before the members were asked
            for; without those where that cannot be told.
        members: the Pulsar subscriptions of the workflow.
        waited_for: whether a view follows it.
    """

    passed: dict[int, Place]
    members: set[Member]
    waited_for: bool


class ConfirmationKeeper(Looks):
    """One per control plane; `run` is its task."""

    under = Lock.CONFIRM

    def __init__(
        self,
        database: Database,
        admin: PulsarAdmin,
        broker: Broker,
        board: ConfirmedBoard,
        metrics: Metrics,
        topology: KnownTopology,
    ) -> None:
        super().__init__(database, metrics, interval_seconds=LOOK_SECONDS)
        self._admin = admin
        self._broker = broker
        self._board = board
        self._topology = topology
        self._known: dict[tuple[str, int], Confirmation] = {}

    async def look_once(self) -> bool:
        """As of all looks; none where no function follows a workflow."""
        return bool(self._lanes()) and await super().look_once()

    async def look(self) -> None:
        """Look what each workflow that can be followed has confirmed, and tell it."""
        # Which function serves what may have changed, and must be known before it does.
        await self._topology.load()
        at_ns = time.time_ns()
        sequenced = await self._admin.cursor_places(SEQUENCED_EVENTS)
        asked = {}
        for workflow in sorted(set(filter(None, map(followed_by, self._lanes())))):
            async with self._database.transaction() as session:
                # Behind the log's cursors: whoever was sent something of it is among them.
                found = await followed.members(session, workflow)
                waited_for = bool(found) or await followed.is_followed(session, workflow)
            asked[workflow] = _Asked(self._passed(sequenced, found), found, waited_for)
        topics = await self._topics(
            {member.topic for each in asked.values() for member in each.members}
        )
        for workflow, each in asked.items():
            told = self._look_at(workflow, each, topics, len(sequenced), at_ns)
            await self._broker.publish(CONFIRMED, encode_confirmed(told), key=workflow)

    def _lanes(self) -> dict[str, str]:
        """The Pulsar subscriptions by which lanes read the log; none unless one follows another."""
        topology = self._topology.functions
        if topology is None or not any(map(followed_by, topology.lanes)):
            return {}
        return {
            lane: topology.functions[name].subscription for lane, name in topology.lanes.items()
        }

    def _passed(self, sequenced: Cursors, found: set[Member]) -> dict[int, Place]:
        """Up to where each partition of the log was passed by all that serve some views."""
        lanes = self._lanes()
        needed = {member.lane: served_in(member.lane, lanes) for member in found}
        needed = needed or {DEFAULT_LANE: served_in(DEFAULT_LANE, lanes)}
        if not all(needed.values()):
            return {}
        names = {lanes[lane] for serving in needed.values() for lane in serving}
        return {
            partition: min(cursors[name].acknowledged for name in names)
            for partition, cursors in sequenced.items()
            if names <= cursors.keys()
        }

    async def _topics(self, names: set[str]) -> dict[str, Cursors]:
        """Where the cursors of topics stand; none of topics that are not there."""
        few = asyncio.Semaphore(TOPICS_AT_ONCE)

        async def ask(topic: str) -> tuple[str, Cursors]:
            async with few:
                try:
                    return topic, await self._admin.cursor_places(topic)
                except AdminNotFound:
                    return topic, {}  # the publisher makes it, or the reconciler makes it again
                except AdminError as error:
                    self._metrics.reconcile_errors.labels("confirmed").inc()
                    log.warning("cursors not read", topic=topic, error=str(error))
                    return topic, {}

        return dict(await asyncio.gather(*map(ask, sorted(names))))

    def _look_at(
        self,
        workflow: str,
        asked: _Asked,
        topics: Mapping[str, Cursors],
        partitions: int,
        at_ns: int,
    ) -> Confirmed:
        """What a workflow has confirmed by now."""
        waiting: set[Cursor] = set()
        places, as_of_ns = {}, []
        for number in range(partitions):
            known = self._known.setdefault((workflow, number), Confirmation())
            passed = asked.passed.get(number)
            if not asked.members and asked.waited_for:
                known.wait()
            elif passed is not None and not asked.members:
                known.pass_all(passed, at_ns)
            elif passed is not None:
                waiting |= known.look(passed, _cursors(asked.members, topics, number), at_ns)
            if known.place is not None:
                places[number] = known.place
            as_of_ns.append(known.as_of_ns)
        before = self._board.of(workflow)
        waits = ""
        if not asked.members and asked.waited_for:
            waits = NOBODY
        elif len(asked.passed) < partitions:
            waits = UNSERVED
        elif waiting:
            names = {member.name for member in asked.members}
            late = len({name for _, name in waiting})
            waits = f"{late} of its {len(names)} subscriptions have more to acknowledge"
        return Confirmed(
            workflow,
            merged(before.places, places),
            max(before.as_of_ns, min(as_of_ns, default=0)),
            waits,
        )


def _cursors(
    members: set[Member], topics: Mapping[str, Cursors], partition: int
) -> dict[Cursor, CursorPlace | None]:
    return {
        (member.topic, member.name): topics[member.topic].get(partition, {}).get(member.name)
        for member in members
    }
