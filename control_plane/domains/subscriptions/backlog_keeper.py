"""What is done about a backlog that a subscription does not want to have: `on_backlog` carried out.

One control plane does so at a time, at each look of its reconciler.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.backlog import (
    caught_up,
    reason,
    to_drop,
    waiting_before,
)
from control_plane.domains.subscriptions.conflating import Conflating
from control_plane.domains.subscriptions.dropped import Dropped, note_dropped, position
from control_plane.domains.subscriptions.models import Subscription
from control_plane.domains.subscriptions.schemas import OnBacklog
from control_plane.domains.subscriptions.unread import Unread
from control_plane.domains.system.metrics import Metrics
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin
from control_plane.pulsar_values import SubscriptionStats, TopicStats

SUBSCRIPTIONS_PER_LOOK = 1000
LOOK_SECONDS = 2.0
"""When a look takes longer, others wait: rollout and repair of functions come after it."""
START = ("", "")

log = structlog.get_logger(__name__)


class BacklogKeeper:
    """Looks at the backlogs that have limits, and does what their subscriptions ask for.

    Who resumes has time to catch up: nothing is done within `grace_seconds`, unless its backlog was
    within its limits since. What was dropped stands in the history for `kept_days`.
    """

    def __init__(
        self,
        database: Database,
        admin: PulsarAdmin,
        metrics: Metrics,
        conflating: Conflating,
        unread: Unread,
        *,
        grace_seconds: float,
        kept_days: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._admin = admin
        self._metrics = metrics
        self._conflating = conflating
        self._unread = unread
        self._grace = timedelta(seconds=grace_seconds)
        self._kept = timedelta(days=kept_days)
        self._clock = clock
        self._after = START

    async def look(self) -> None:
        """Carry out the policies of some subscriptions, all of them in turn.

        At least of one, and of no more when `LOOK_SECONDS` are over: the next look goes on there.
        What fails at the broker is logged and counted, and its turn comes again. Then tell what
        was not read in time of topics that were left because of a backlog.

        Raises:
            UnavailableError: the database is down; the next look goes on.
        """
        until = self._clock() + LOOK_SECONDS
        await self._look_at_some(until)
        await self._conflating.carry_out()
        await self._unread.tell(lambda: self._clock() < until)

    async def _look_at_some(self, until: float) -> None:
        async with self._database.transaction() as session:
            rows = await repository.limited(
                session, after=self._after, limit=SUBSCRIPTIONS_PER_LOOK
            )
        for topic, readers in groupby(rows, key=lambda row: row.view.topic):
            stats = await self._stats(topic)
            for row in readers:
                self._after = (row.view_id, row.id)
                if stats is not None:
                    await self._look_at(row, stats)
                if self._clock() >= until and row is not rows[-1]:
                    return
        if len(rows) < SUBSCRIPTIONS_PER_LOOK:
            self._after = START

    async def _stats(self, topic: str) -> TopicStats | None:
        try:
            return await self._admin.partitioned_stats(topic, oldest=True)
        except AdminNotFound:
            return None  # the reconciler makes it again
        except AdminError as error:
            self._failed(topic, error)
            return None

    def _failed(self, where: str, error: AdminError) -> None:
        self._metrics.reconcile_errors.labels("backlog").inc()
        log.warning("backlog not looked after", where=where, error=str(error))

    async def _look_at(self, row: Subscription, stats: TopicStats) -> None:
        limit = msgspec.convert(row.on_backlog, OnBacklog)
        cursors, now_ms = stats.cursors(row.subscription_name), _now_ms()
        beyond = reason(cursors, limit, now_ms)
        # Where the broker tells of no cursor it does not say that nothing waits.
        told_of_all = cursors.keys() == stats.partitions.keys()
        if row.conflated_since is not None:
            if limit.policy != "conflate" or (told_of_all and caught_up(cursors, limit, now_ms)):
                self._conflating.end(row)
        elif beyond and limit.policy == "conflate" and not self._catches_up(row):
            self._conflating.begin(row, limit, beyond)
        if beyond and limit.policy in ("drop_oldest", "disconnect"):
            try:
                await self._act(row.id)
            except AdminError as error:
                self._failed(row.subscription_name, error)
        elif not beyond and row.resumed_at is not None and told_of_all:
            async with self._database.transaction() as session:
                await repository.caught_up(session, row.id, row.resumed_at)

    def _catches_up(self, row: Subscription) -> bool:
        return row.resumed_at is not None and datetime.now(UTC) < row.resumed_at + self._grace

    async def _act(self, key: str) -> None:
        """Do what a subscription asks for as it is now; nobody changes it meanwhile."""
        async with self._database.transaction() as session:
            row = await repository.limited_still(session, key)
            if row is None or self._catches_up(row):
                return  # or somebody is changing it: its turn comes again
            limit = msgspec.convert(row.on_backlog, OnBacklog)
            stats = await self._admin.partitioned_stats(row.view.topic, oldest=True)
            cursors = stats.cursors(row.subscription_name)
            beyond = reason(cursors, limit, _now_ms())
            if not beyond:
                return
            if limit.policy == "drop_oldest":
                await self._drop_oldest(session, row, cursors, limit, beyond)
            if limit.policy != "disconnect":
                return
            await repository.pause(session, row, reason="backlog", beyond=beyond)
        self._metrics.backlog_disconnected.inc()
        log.warning("disconnected because of its backlog", subscription=key, beyond=beyond)

    async def _drop_oldest(
        self,
        session: AsyncSession,
        row: Subscription,
        cursors: Mapping[int, SubscriptionStats],
        limit: OnBacklog,
        beyond: dict[str, int],
    ) -> None:
        """Drop what is too much of each partition, and tell what went, all of it or not."""
        counts = to_drop(cursors, limit)
        dropped = []
        try:
            for number, cursor in cursors.items():
                if cursor.backlog_messages:
                    partition = f"{row.view.topic}-partition-{number}"
                    count = counts.get(number, 0)
                    told = await self._drop(partition, row.subscription_name, cursor, count, limit)
                    dropped += [{"partition": number, **told}] if told else []
        except AdminError as error:
            # The rest is too much still at the next look.
            self._failed(row.subscription_name, error)
        if not dropped:
            return
        what = Dropped(beyond, dropped)
        log.warning("backlog dropped", subscription=row.id, messages=what.messages, beyond=beyond)
        self._metrics.backlog_dropped.inc(what.messages)
        await note_dropped(session, row, what, kept=self._kept)

    async def _drop(
        self,
        partition: str,
        subscription: str,
        cursor: SubscriptionStats,
        count: int,
        limit: OnBacklog,
    ) -> dict[str, Any]:
        """Move a cursor over the oldest messages of a partition; gives what is told of it."""
        before = await self._admin.cursor_place(partition, subscription)
        if limit.seconds is not None:
            since_ms = _now_ms() - limit.seconds * 1000
            first = await self._admin.first_since(partition, since_ms)
            count = max(count, waiting_before(before, first))
        count = min(count, cursor.backlog_messages)
        if not count:
            return {}
        await self._admin.skip_messages(partition, subscription, count)
        told: dict[str, Any] = {"messages": count, "from": position(before.acknowledged)}
        with suppress(AdminError):  # they are gone, wherever the cursor is now
            after = await self._admin.cursor_place(partition, subscription)
            told["to"] = position(after.acknowledged)
        return told


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
