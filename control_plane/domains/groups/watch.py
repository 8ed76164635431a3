"""Finds out who reads under each subscription, and tells how that changes.

One control plane does so at a time, at each look of its reconciler: one question to the broker for
each topic, of some topics a look, all of them in turn. What joined, left or went from one member to
another between two looks at a topic is told as one change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.domains.events.repository import Change, record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.groups import repository
from control_plane.domains.groups.membership import (
    Changes,
    Departed,
    Member,
    compare,
    departed,
    members,
)
from control_plane.domains.groups.models import GroupRow
from control_plane.domains.plans.models import ViewRow
from control_plane.domains.subscriptions.models import Subscription
from control_plane.domains.system.metrics import Metrics
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin
from control_plane.pulsar_values import SubscriptionStats, TopicStats

TOPICS_PER_LOOK = 100
LOOK_SECONDS = 1.0
"""When a look takes longer, other topics wait: repairs come after it."""

log = structlog.get_logger(__name__)


class GroupWatch:
    """One per reconciler, which has it look."""

    def __init__(
        self,
        database: Database,
        admin: PulsarAdmin,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._admin = admin
        self._metrics = metrics
        self._clock = clock
        self._after = ""

    async def look(self) -> None:
        """Look at some topics, all of them in turn; what fails at the broker is looked at again.

        Raises:
            UnavailableError: the database is down; the next look goes on.
        """
        until = self._clock() + LOOK_SECONDS
        async with self._database.transaction() as session:
            if not self._after:
                await repository.forget_closed(session)
            views = await repository.read_views(session, after=self._after, limit=TOPICS_PER_LOOK)
            known = await repository.occupied(session, [view.id for view in views])
        for view in views:
            self._after = view.id
            try:
                stats = await self._admin.partitioned_stats(view.topic)
            except AdminNotFound:
                continue  # the reconciler makes it again
            except AdminError as error:
                self._metrics.reconcile_errors.labels("groups").inc()
                log.warning("members not looked at", topic=view.topic, error=str(error))
                continue
            await self._note(view, stats, known)
            if self._clock() >= until and view is not views[-1]:
                return
        if len(views) < TOPICS_PER_LOOK:
            self._after = ""

    async def _note(self, view: ViewRow, stats: TopicStats, known: Mapping[str, GroupRow]) -> None:
        """Keep and tell what has changed in the groups of one topic."""
        now = datetime.now(UTC)
        changes: dict[str, Changes] = {}
        for key, cursors in _complete(stats).items():
            group = known.get(key)
            if group is None and not any(each.connected for each in cursors.values()):
                continue
            before = _members(group) if group is not None else []
            found = compare(before, members(cursors, now))
            if found:
                changes[key] = found
        if not changes:
            return
        async with self._database.transaction() as session:
            for row, group in await repository.still_of(session, view.id, changes.keys()):
                await self._keep(session, row, group, changes[row.id], now)

    async def _keep(
        self,
        session: AsyncSession,
        row: Subscription,
        group: GroupRow | None,
        found: Changes,
        now: datetime,
    ) -> None:
        before = [] if group is None else msgspec.convert(group.departed, list[Departed])
        gone = departed(before, found.left, found.joined, now)
        await repository.keep(session, row.id, found.members, gone)
        told = (
            (EventType.GROUP_JOINED, "members", [each.name for each in found.joined]),
            (EventType.GROUP_LEFT, "members", [each.name for each in found.left]),
            (EventType.GROUP_REBALANCED, "moved", msgspec.to_builtins(found.moved)),
        )
        await record(
            session,
            *(
                Change(
                    what,
                    {"name": row.group_name, member: values, "size": len(found.members)},
                    consumer=row.consumer_id,
                    subscription=row.id,
                )
                for what, member, values in told
                if values
            ),
        )


def _complete(stats: TopicStats) -> dict[str, dict[int, SubscriptionStats]]:
    """The cursor in each partition, by the id of the subscription.

    Without those of which the broker does not tell in every partition: one that is being loaded
    has no members yet, which does not say that they left.
    """
    found: dict[str, dict[int, SubscriptionStats]] = {}
    for number, partition in stats.partitions.items():
        for name, cursor in partition.subscriptions.items():
            found.setdefault(name.rpartition("-")[2], {})[number] = cursor
    return {
        key: cursors for key, cursors in found.items() if cursors.keys() == stats.partitions.keys()
    }


def _members(group: GroupRow) -> list[Member]:
    return msgspec.convert(group.members, list[Member])
