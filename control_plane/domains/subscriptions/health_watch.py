"""Notes how subscriptions are read, to show how that changes over time, and tells when it does.

One control plane does so at a time, at each look of its reconciler: one question to the broker for
each topic, of some topics a look, all of them in turn and then none until the next round begins.
What is kept is bounded by its age and by the number of rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.domains.alerts import repository as alert_rows
from control_plane.domains.events.repository import record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.subscriptions import health_rows, repository, unusual
from control_plane.domains.subscriptions.health import (
    HealthOut,
    OwnThresholds,
    Thresholds,
    health,
)
from control_plane.domains.subscriptions.models import READ
from control_plane.domains.system.metrics import Metrics
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin
from control_plane.pulsar_values import TopicStats

TOPICS_PER_LOOK = 100
LOOK_SECONDS = 1.0
"""When a look takes longer, other topics wait: repairs come after it."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """How often is noted, in seconds, and how much is kept; nothing with no rows.

    `unusual_factor`: how many times its usual rate is told of a subscription; 0 tells nothing.
    """

    every_seconds: float
    days: int
    rows: int
    unusual_factor: float = 0.0


class Seen(NamedTuple):
    """How a subscription was read when it was looked at."""

    key: str
    at: datetime
    found: HealthOut

    @property
    def row(self) -> dict[str, Any]:
        """What is kept of it."""
        found = self.found
        return {
            "subscription_id": self.key,
            "at": self.at,
            "state": found.state,
            "members": len(found.members),
            "backlog_messages": found.backlog_messages,
            "backlog_bytes": found.backlog_bytes,
            "backlog_age_seconds": found.backlog_age_seconds,
            "rate": found.rate,
            "redelivery_rate": found.redelivery_rate,
            "last_acknowledged_at": found.last_acknowledged_at,
        }


class HealthWatch:
    """One per reconciler, which has it look."""

    def __init__(
        self,
        database: Database,
        admin: PulsarAdmin,
        metrics: Metrics,
        thresholds: Thresholds,
        kept: Kept,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._admin = admin
        self._metrics = metrics
        self._thresholds = thresholds
        self._kept = kept
        self._clock = clock
        self._after = ""
        self._next_round = clock()

    async def look(self) -> None:
        """Note some topics' subscriptions, all of them in turn; nothing between two rounds.

        What fails at the broker is left out until the next round.

        Raises:
            UnavailableError: the database is down; the next look goes on.
        """
        now = self._clock()
        if not self._after:
            if now < self._next_round:
                return
            async with self._database.transaction() as session:
                await health_rows.forget(session, days=self._kept.days, rows=self._kept.rows)
                await alert_rows.forget_ended(session)
            if not self._kept.rows:
                return
            self._next_round = now + self._kept.every_seconds
        async with self._database.transaction() as session:
            views = await repository.readers(
                session, READ, after=self._after, limit=TOPICS_PER_LOOK
            )
            own = await health_rows.own_thresholds(session, views)
        seen: list[Seen] = []
        done = self._after
        for view, (topic, names) in views.items():
            if (stats := await self._ask(topic)) is not None:
                seen += self._read(stats, names, own)
            done = view
            if self._clock() >= now + LOOK_SECONDS:
                break
        if seen:
            async with self._database.transaction() as session:
                await self._tell(session, seen)
                rows = [each.row for each in seen]
                if self._kept.unusual_factor:
                    await unusual.tell(session, rows, self._kept.unusual_factor)
                await health_rows.add(session, rows)
        whole = len(views) < TOPICS_PER_LOOK and done == next(reversed(views), done)
        self._after = "" if whole else done

    async def _ask(self, topic: str) -> TopicStats | None:
        try:
            return await self._admin.partitioned_stats(topic, oldest=True)
        except AdminNotFound:
            return None  # the reconciler makes it again
        except AdminError as error:
            self._metrics.reconcile_errors.labels("health").inc()
            log.warning("health not noted", topic=topic, error=str(error))
            return None

    async def _tell(self, session: AsyncSession, seen: Sequence[Seen]) -> None:
        """Tell of those that are read otherwise than when they were looked at last."""
        before = await health_rows.newest_states(session, [each.key for each in seen])
        changed = {
            each.key: each
            for each in seen
            if before.get(each.key, each.found.state) != each.found.state
        }
        if not changed:
            return
        changes = []
        for row in await repository.still_routed(session, changed):
            found = changed[row.id].found
            told = {"health": found.state, "before": before[row.id], "reason": found.reason}
            changes.append(repository.change_of(EventType.SUBSCRIPTION_HEALTH, row, told))
        await record(session, *changes)

    def _read(
        self, stats: TopicStats, names: dict[str, str], own: dict[str, OwnThresholds]
    ) -> Iterator[Seen]:
        """What is seen of each subscription of which the broker tells a cursor."""
        now = datetime.now(UTC)
        for name, key in names.items():
            cursors = stats.cursors(name)
            if cursors:
                thresholds = self._thresholds.of(own.get(key, OwnThresholds()))
                yield Seen(key, now, health(cursors, int(now.timestamp() * 1000), thresholds))
