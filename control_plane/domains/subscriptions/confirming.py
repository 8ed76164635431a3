"""Works out what followed workflows have confirmed, and tells the functions that wait for it.

One control plane does so at a time, about once a second, for the workflows that the topology has a
lane for; without such a lane nothing is asked. It is one question for the log and one for each
topic of the workflows' views. What has been confirmed stands on the topic `control/confirmed`,
which every control plane reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from control_plane.broker import Broker
from control_plane.database import Database, Lock
from control_plane.domains.functions.topology import KnownTopology
from control_plane.domains.subscriptions.confirmation import Confirmation, Cursor
from control_plane.domains.subscriptions.followed import Following, Member, following
from control_plane.domains.system.metrics import Metrics
from control_plane.looks import Looks
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin
from control_plane.pulsar_values import CursorPlace
from marketdata.confirmed import Confirmed, Place, decode_confirmed, encode_confirmed, later
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
        """Take in what the topic tells; MsgspecError when it is nothing of the kind."""
        told = decode_confirmed(payload)
        self._known[told.workflow] = later(self.of(told.workflow), told)

    def of(self, workflow: str) -> Confirmed:
        """What a workflow has confirmed."""
        return self._known.get(workflow) or Confirmed(workflow, {})

    def all(self) -> list[Confirmed]:
        """What each has confirmed of which something was told."""
        return list(self._known.copy().values())


Members = Callable[[str], Awaitable[Following]]
"""Tells who belongs to a workflow at the moment of the question."""


class Confirmations:
    """What workflows have confirmed of the log, asked of the broker; keeps what is under way."""

    def __init__(self, admin: PulsarAdmin, metrics: Metrics) -> None:
        self._admin = admin
        self._metrics = metrics
        self._known: dict[tuple[str, int], Confirmation] = {}

    async def look(
        self, sequenced: str, lanes: Mapping[str, str], members: Members
    ) -> list[Confirmed]:
        """What each workflow has confirmed that a lane follows.

        Args:
            sequenced: the topic of the log.
            lanes: the Pulsar subscriptions on it of the functions that there are, by lane.

        Raises:
            AdminError: the broker does not tell of the log; look again later.
        """
        at_ns = time.time_ns()
        log_cursors = await self._admin.cursor_places(sequenced)
        # Behind the log's cursors: whoever was sent something up to there is among them.
        asked = {
            workflow: await members(workflow)
            for workflow in sorted({followed_by(lane) for lane in lanes} - {""})
        }
        every = {member.topic for each in asked.values() for member in each.members}
        topics = await self._topics(every)
        found = []
        for workflow, each in asked.items():
            passed = _passed(log_cursors, each.members, lanes)
            waits = self._look_at(workflow, each, passed, topics, at_ns)
            if each.members and len(passed) < len(log_cursors):
                waits = UNSERVED
            known = {number: self._known[workflow, number] for number in passed}
            places = {number: one.place for number, one in known.items() if one.place}
            as_of_ns = [known[n].as_of_ns if n in known else 0 for n in log_cursors]
            found.append(Confirmed(workflow, places, min(as_of_ns, default=0), waits))
        return found

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
        asked: Following,
        passed: Mapping[int, Place],
        topics: Mapping[str, Cursors],
        at_ns: int,
    ) -> str:
        """Note how far a workflow is in each partition; gives what more waits for."""
        waiting: set[Cursor] = set()
        for number, place in passed.items():
            known = self._known.setdefault((workflow, number), Confirmation())
            if asked.members:
                cursors = _cursors(asked.members, topics, number)
                waiting |= known.look(place, cursors, at_ns)
            elif not asked.waited_for:
                known.pass_all(place, at_ns)
            else:
                known.wait()
        if asked.waited_for and not asked.members:
            return NOBODY
        late = len({name for _, name in waiting})
        names = {member.name for member in asked.members}
        return f"{late} of its {len(names)} subscriptions have more to acknowledge" if late else ""


class ConfirmationKeeper(Looks):
    """One per control plane; `run` is its task.

    Attributes:
        board: what has been told, by whichever control plane.
    """

    under = Lock.CONFIRM

    def __init__(
        self,
        database: Database,
        admin: PulsarAdmin,
        broker: Broker,
        metrics: Metrics,
        topology: KnownTopology,
    ) -> None:
        super().__init__(database, metrics, interval_seconds=LOOK_SECONDS)
        self.board = ConfirmedBoard()
        metrics.follow_confirmed(self._told)
        self._broker = broker
        self._topology = topology
        self._confirmations = Confirmations(admin, metrics)

    async def look_once(self) -> bool:
        """As of all looks; none where no function follows a workflow."""
        return any(map(followed_by, self._lanes())) and await super().look_once()

    async def look(self) -> None:
        """Look what each workflow that can be followed has confirmed, and tell it."""
        # Which function serves what may have changed, and must be known before it does.
        await self._topology.load()
        for found in await self._confirmations.look(SEQUENCED_EVENTS, self._lanes(), self._members):
            told = later(self.board.of(found.workflow), found)
            await self._broker.publish(CONFIRMED, encode_confirmed(told), key=told.workflow)

    def _told(self) -> list[Confirmed]:
        """What those have confirmed that a lane follows: the topic still tells of others."""
        if self._topology.functions is None:
            return self.board.all()
        followed = set(map(followed_by, self._lanes()))
        return [each for each in self.board.all() if each.workflow in followed]

    def _lanes(self) -> dict[str, str]:
        """The Pulsar subscriptions by which lanes read the log."""
        topology = self._topology.functions
        if topology is None:
            return {}
        return topology.lane_subscriptions

    async def _members(self, workflow: str) -> Following:
        async with self._database.transaction() as session:
            return await following(session, workflow)


def _passed(
    log_cursors: Cursors, members: set[Member], lanes: Mapping[str, str]
) -> dict[int, Place]:
    """Up to where partitions of the log were passed by all that serve the views of a workflow.

    Without those of which that cannot be said.
    """
    needed = {member.lane: served_in(member.lane, lanes) for member in members}
    needed = needed or {DEFAULT_LANE: served_in(DEFAULT_LANE, lanes)}
    if not all(needed.values()):
        return {}
    names = {lanes[lane] for serving in needed.values() for lane in serving}
    return {
        partition: min(cursors[name].acknowledged for name in names)
        for partition, cursors in log_cursors.items()
        if names <= cursors.keys()
    }


def _cursors(
    members: set[Member], topics: Mapping[str, Cursors], partition: int
) -> dict[Cursor, CursorPlace | None]:
    return {
        (member.topic, member.name): topics[member.topic].get(partition, {}).get(member.name)
        for member in members
    }
