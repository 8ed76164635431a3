"""What was not read in time of a topic that was left because of a backlog: told before it goes.

Until it is told, the Pulsar subscription there is not removed (`draining.overdue`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog

from control_plane.database import Database
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.subscriptions import draining, repository
from control_plane.domains.subscriptions.backlog import waiting_before
from control_plane.domains.subscriptions.dropped import Dropped, note_dropped, position
from control_plane.domains.subscriptions.models import Move
from control_plane.domains.system.metrics import Metrics
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin

log = structlog.get_logger(__name__)


class Unread:
    """Looks at what is left on such topics when the time to drain them is over.

    It stands in the history for `kept_days`.
    """

    def __init__(
        self, database: Database, admin: PulsarAdmin, metrics: Metrics, *, kept_days: int
    ) -> None:
        self._database = database
        self._admin = admin
        self._metrics = metrics
        self._kept = timedelta(days=kept_days)
        self._tried = 0

    async def tell(self, more: Callable[[], bool]) -> None:
        """Tell of one topic, and of others as long as there is time: the next look goes on there.

        What fails at the broker is logged and counted, and its turn comes again.
        """
        async with self._database.transaction() as session:
            found = await draining.untold(session)
        # Not always the same one first: it may be one that always fails.
        for key in [key for key in found if key > self._tried] or found:
            self._tried = key
            try:
                await self._tell(key)
            except AdminError as error:
                self._metrics.reconcile_errors.labels("backlog").inc()
                log.warning("not told what was not read", move=key, error=str(error))
            if not more():
                return

    async def _tell(self, key: int) -> None:
        async with self._database.transaction() as session:
            asked = await draining.untold_still(session, key)
            if asked is None:
                return  # the subscription was closed, or resumed
            applied_at = await plan_rows.applied_since(session, asked.plan)
        if applied_at is None:
            return  # more may come there
        # Without a transaction: nobody waits for the row while the broker is asked.
        partitions = await self._left(asked, applied_at)
        async with self._database.transaction() as session:
            move = await draining.untold_still(session, key, lock=True)
            if move is None or move.drain_until != asked.drain_until:
                return  # it was closed, or may read on: then its turn comes again
            move.tells_unread = False
            if not partitions:
                return
            (row,) = await repository.locked(session, [move.subscription_id])
            told = Dropped({}, partitions, move.view.topic)
            await note_dropped(session, row, told, kept=self._kept)
        self._metrics.backlog_dropped.inc(told.messages)
        log.warning("not read in time", subscription=row.id, messages=told.messages)

    async def _left(self, move: Move, applied_at: datetime) -> list[dict[str, Any]]:
        """What waits in each partition that was for the subscription.

        Where others have the view, what came until every function was seen to run the plan without
        it is counted, too.
        """
        topic, name = move.view.topic, move.subscription_name
        try:
            stats = await self._admin.partitioned_stats(topic, oldest=True)
        except AdminNotFound:
            return []
        until_ms = int(applied_at.timestamp() * 1000)
        found = []
        for number, cursor in stats.cursors(name).items():
            if not cursor.backlog_messages:
                continue
            partition = f"{topic}-partition-{number}"
            place = await self._admin.cursor_place(partition, name)
            ledger, entry = await self._admin.first_since(partition, until_ms)
            count = min(waiting_before(place, (ledger, entry)), cursor.backlog_messages)
            if count:
                told = {"from": position(place.acknowledged), "to": position((ledger, entry - 1))}
                found.append({"partition": number, "messages": count, **told})
        return found
