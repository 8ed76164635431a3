"""Notes how subscriptions are read, so that it can be seen how that changes over time.

One control plane does so at a time, at each look of its reconciler: one question to the broker for
each topic, of some topics a look, all of them in turn and then none until the next round begins.
What is kept is bounded by its age and by the number of rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from control_plane.database import Database
from control_plane.domains.subscriptions import health_rows, repository, unusual
from control_plane.domains.subscriptions.health import Thresholds, health
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
            if not self._kept.rows:
                return
            self._next_round = now + self._kept.every_seconds
        async with self._database.transaction() as session:
            views = await repository.routed(session, after=self._after, limit=TOPICS_PER_LOOK)
        seen: list[dict[str, Any]] = []
        done = self._after
        for view, (topic, names) in views.items():
            if (stats := await self._ask(topic)) is not None:
                seen += self._read(stats, names)
            done = view
            if self._clock() >= now + LOOK_SECONDS:
                break
        if seen:
            async with self._database.transaction() as session:
                if self._kept.unusual_factor:
                    await unusual.tell(session, seen, self._kept.unusual_factor)
                await health_rows.add(session, seen)
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

    def _read(self, stats: TopicStats, names: dict[str, str]) -> list[dict[str, Any]]:
        """A row for each subscription of which the broker tells a cursor."""
        now = datetime.now(UTC)
        rows = []
        for name, key in names.items():
            cursors = {
                number: partition.subscriptions[name]
                for number, partition in stats.partitions.items()
                if name in partition.subscriptions
            }
            if cursors:
                found = health(cursors, int(now.timestamp() * 1000), self._thresholds)
                rows.append(
                    {
                        "subscription_id": key,
                        "at": now,
                        "state": found.state,
                        "members": len(found.members),
                        "backlog_messages": found.backlog_messages,
                        "backlog_bytes": found.backlog_bytes,
                        "backlog_age_seconds": found.backlog_age_seconds,
                        "rate": found.rate,
                        "redelivery_rate": found.redelivery_rate,
                        "last_acknowledged_at": found.last_acknowledged_at,
                    }
                )
        return rows
