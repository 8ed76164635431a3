"""Views that go on because their subscriptions have moved to another lane, and when they end.

Lanes read the log each at its own pace. Where the next view begins, by the plan, may be before or
behind what the view that was left has got to in its own lane. So the left one stays in the plans
until its lane has passed everything that was written before the next one's function ran the plan.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from control_plane.database import Database, Lock, lock
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.plans.models import PlanRow
from control_plane.domains.subscriptions.models import OPEN, Move, State
from control_plane.pulsar_admin import PulsarAdmin
from control_plane.requests import current_request_id
from marketdata.lanes import DEFAULT_LANE, lane_of
from marketdata.plans import ViewSpec
from marketdata.topics import SEQUENCED_EVENTS

CLOCKS_DIFFER_MS = 5_000
"""So much later than needed by the log's time, which is that of other machines."""

log = structlog.get_logger(__name__)


class Going(NamedTuple):
    """A move whose view goes on.

    Attributes:
        lane: of the view that was left.
        applied_at: when every function was seen to run the plan with the next view, or a later one.
        given_up: nobody reads on any more.
    """

    id: int
    lane: str
    applied_at: datetime | None
    given_up: bool


class LaneMoves:
    """One per reconciler."""

    def __init__(self, database: Database, admin: PulsarAdmin, *, drain_seconds: float) -> None:
        self._database = database
        self._admin = admin
        self._drain_seconds = drain_seconds

    async def look(self, cursors: Mapping[str, str]) -> int | None:
        """Let views go that have come far enough; gives the plan that is without them.

        Args:
            cursors: the Pulsar subscription on the log by which each lane is read.

        Raises:
            AdminError: the broker does not tell; look again later.
        """
        async with self._database.transaction() as session:
            left = await going(session)
        if not left:
            return None
        oldest = {name: await self._oldest_ms(name) for name in _cursors_of(left, cursors)}
        passed = [
            each.id
            for each in left
            if each.given_up
            or _has_passed(each, oldest.get(cursors.get(each.lane, cursors[DEFAULT_LANE])))
        ]
        if not passed:
            return None
        async with self._database.transaction() as session:
            await lock(session, Lock.PLAN_SEQUENCE)
            number = await let_go(session, passed, drain_seconds=self._drain_seconds)
        log.info("views that were left for other lanes are let go", moves=passed, plan=number)
        return number

    async def _oldest_ms(self, subscription: str) -> float | None:
        """When the oldest message was written that a lane has not done with; None for unknown."""
        stats = await self._admin.partitioned_stats(SEQUENCED_EVENTS, oldest=True)
        times = []
        for partition in stats.partitions.values():
            try:
                found = partition.subscriptions[subscription]
            except KeyError:
                return None
            if found.backlog_messages and not found.oldest_backlog_published_ms:
                return None
            times.append(found.oldest_backlog_published_ms if found.backlog_messages else _NEVER)
        return min(times, default=None)


async def going(session: AsyncSession) -> list[Going]:
    """The moves whose views go on."""
    applied = select(func.min(PlanRow.applied_at)).where(PlanRow.number >= Move.plan)
    query = (
        select(Move, applied.scalar_subquery())
        .where(Move.goes_on)
        .options(joinedload(Move.view), joinedload(Move.subscription))
        .order_by(Move.id)
    )
    return [
        Going(
            id=move.id,
            lane=lane_of(msgspec.convert(move.view.spec, ViewSpec).delivery),
            applied_at=applied_at,
            given_up=move.ended_at is not None or move.subscription.state == State.CLOSED,
        )
        for move, applied_at in await session.execute(query)
    ]


async def let_go(session: AsyncSession, ids: Collection[int], *, drain_seconds: float) -> int:
    """Make the plan without views that have gone on; they can be drained from then on.

    The caller holds Lock.PLAN_SEQUENCE. Gives the number of the plan.
    """
    query = select(Move).where(Move.id.in_(ids), Move.goes_on).order_by(Move.id)
    query = query.options(joinedload(Move.subscription)).with_for_update(of=Move)
    rows = (await session.scalars(query)).all()
    newest = await plan_rows.newest(session)
    for move in rows:
        move.goes_on = False
    await session.flush()
    number = await plan_rows.compile_next(
        session, current_request_id(), above=newest.number if newest else 0
    )
    until = datetime.now(UTC) + timedelta(seconds=drain_seconds)
    for move in rows:
        move.plan = number
        if move.subscription.state in OPEN:
            move.drain_until = max(move.drain_until, until)
    await session.flush()
    await plan_rows.retire_views(session, {move.view_id for move in rows}, number)
    return number


_NEVER = float("inf")


def _cursors_of(left: list[Going], cursors: Mapping[str, str]) -> set[str]:
    return {cursors.get(each.lane, cursors[DEFAULT_LANE]) for each in left}


def _has_passed(move: Going, oldest_ms: float | None) -> bool:
    """Whether the lane of the left view has done with all from before the next one began."""
    if move.applied_at is None or oldest_ms is None:
        return False
    return oldest_ms > move.applied_at.timestamp() * 1e3 + CLOCKS_DIFFER_MS
