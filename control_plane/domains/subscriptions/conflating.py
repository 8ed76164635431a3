"""Moves subscriptions to a conflated view when their backlog is too large, and back: `conflate`.

A move of that kind is told by `subscription.moved` like any other, and by what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database, Lock, lock
from control_plane.domains.consumers.models import Consumer
from control_plane.domains.events.schemas import EventType
from control_plane.domains.rules import repository as rule_rows
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.conflated import conflated, hindrance
from control_plane.domains.subscriptions.draining import lock_open
from control_plane.domains.subscriptions.models import Subscription
from control_plane.domains.subscriptions.moves import follow_backlog
from control_plane.domains.subscriptions.schemas import OnBacklog
from control_plane.domains.system.metrics import Metrics
from control_plane.errors import ConflictError
from marketdata.lanes import CONFLATED_LANE
from marketdata.plans import ViewSpec, view_of

SWITCHES_A_LOOK = 200
"""One plan is made for all of them, and no other meanwhile."""

log = structlog.get_logger(__name__)


class Switch(NamedTuple):
    """What is to become of a subscription.

    Attributes:
        version: that it had when that was decided.
        every_ms: at which intervals it is to be conflated; None for no longer at all.
        beyond: how large the backlog is by those of its limits that it is beyond.
    """

    version: int
    every_ms: int | None
    beyond: dict[str, int]


class Conflating:
    """Gathers who is to be conflated, or to be so no longer, and moves them together.

    There and back take a while, so that nobody is moved to and fro: who is conflated stays so for
    `least_seconds` and until nothing is left to drain, and is not conflated again before the
    conflated view is drained.
    """

    def __init__(
        self,
        database: Database,
        metrics: Metrics,
        *,
        lanes: Callable[[], Collection[str]],
        drain_seconds: float,
        least_seconds: float,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._lanes = lanes
        self._drain_seconds = drain_seconds
        self._least = timedelta(seconds=least_seconds)
        self._switches: dict[str, Switch] = {}

    def begin(self, row: Subscription, limit: OnBacklog, beyond: dict[str, int]) -> None:
        """Conflate a subscription at the end of the look, if that can be; else it holds.

        Args:
            row: with its view and what it drains.
        """
        spec, every_ms = msgspec.convert(row.view.spec, ViewSpec), limit.every_ms
        if every_ms is None or hindrance(spec, every_ms) or CONFLATED_LANE not in self._lanes():
            return
        there = view_of(conflated(spec, every_ms)).id
        if all(move.view_id != there for move in row.draining):
            self._note(row, Switch(row.version, every_ms, beyond))

    def end(self, row: Subscription) -> None:
        """Let a subscription have its own view again, unless it is too early.

        Args:
            row: with what it drains.
        """
        since = row.conflated_since or datetime.now(UTC)
        if not row.draining and datetime.now(UTC) >= since + self._least:
            self._note(row, Switch(row.version, None, {}))

    def _note(self, row: Subscription, switch: Switch) -> None:
        if len(self._switches) < SWITCHES_A_LOOK:
            self._switches[row.id] = switch

    async def carry_out(self) -> None:
        """Move who is to be moved, unless it was changed meanwhile.

        Where the plan has no room for that all stay where they are, until their turn comes again.
        """
        switches, self._switches = self._switches, {}
        if not switches:
            return
        try:
            async with self._database.transaction() as session:
                await lock(session, Lock.PLAN_SEQUENCE)
                await lock_open(session, Subscription.id.in_(switches))
                rows = [
                    row
                    for row in await repository.locked(session, switches)
                    if row.version == switches[row.id].version
                ]
                await self._move(session, rows, switches)
        except ConflictError as error:
            self._metrics.reconcile_errors.labels("backlog").inc()
            log.warning("not conflated", subscriptions=sorted(switches), error=str(error))
            return
        begun = sum(switches[row.id].every_ms is not None for row in rows)
        self._metrics.backlog_conflated.inc(begun)
        log.info("conflated because of backlogs", begun=begun, ended=len(rows) - begun)

    async def _move(
        self, session: AsyncSession, rows: Sequence[Subscription], switches: Mapping[str, Switch]
    ) -> None:
        now = datetime.now(UTC)
        for row in rows:
            row.conflate_ms = switches[row.id].every_ms
            row.conflated_since = None if row.conflate_ms is None else now
        await session.flush()
        policy = await rule_rows.policy(session)
        of = Consumer.id.in_({row.consumer_id for row in rows})
        bounds = {
            consumer.id: policy.allowed(consumer)
            for consumer in await session.scalars(select(Consumer).where(of))
        }
        ids = [row.id for row in rows]
        await follow_backlog(session, ids, bounds, drain_seconds=self._drain_seconds)
        for row in rows:
            switch = switches[row.id]
            if switch.every_ms is None:
                await repository.note(
                    session, EventType.SUBSCRIPTION_UNCONFLATED, [row], reason="backlog"
                )
            else:
                await repository.note(
                    session,
                    EventType.SUBSCRIPTION_CONFLATED,
                    [row],
                    every_ms=switch.every_ms,
                    beyond=switch.beyond,
                )
