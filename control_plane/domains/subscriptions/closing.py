"""The end of subscriptions: at once, or when they had time to be read out.

A subscription that is drained is on its way from its view to none (`Move`): what is done about a
topic that was left holds for it, too. From the plan of that on nothing new is for it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from sqlalchemy import exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.events.schemas import EventType
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.plans.models import PlanRow
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.draining import drain_anew, drain_no_longer
from control_plane.domains.subscriptions.models import Move, State, Subscription
from control_plane.domains.subscriptions.moves import UNKNOWN_PLAN
from control_plane.requests import current_request_id
from control_plane.rows import touch


async def close(session: AsyncSession, row: Subscription) -> None:
    """Close a subscription for good.

    The caller holds Lock.PLAN_SEQUENCE and the rows of its open moves and of itself.
    """
    drained = row.state == State.DRAINING
    newest = await plan_rows.newest(session)
    row.become(State.CLOSED)
    row.closed_at = datetime.now(UTC)
    if not drained:
        row.closed_in_plan = newest.number if newest else row.plan
    touch(row)
    await session.flush()
    if not drained and not await plan_rows.is_live(session, row.view_id):
        row.closed_in_plan = await plan_rows.compile_next(session, current_request_id())
        await plan_rows.retire_views(session, [row.view_id], row.closed_in_plan)
    await repository.note(session, EventType.SUBSCRIPTION_CLOSED, [row])


async def drain(session: AsyncSession, row: Subscription, *, seconds: float) -> None:
    """Let nothing new come for a subscription, and what came before be read for some seconds.

    One that pauses may read again. The caller holds what `close` needs.
    """
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    if row.paused_at is not None:
        # What its pause kept on topics that were left can be read as long.
        await drain_anew(session, row.id, drain_seconds=seconds)
    newest = await plan_rows.newest(session)
    row.become(State.DRAINING)
    row.paused_at = row.resumed_at = None
    row.closed_in_plan = UNKNOWN_PLAN
    touch(row)
    await session.flush()
    # A plan of its own, also where others have the view: its number says what is for whom.
    row.closed_in_plan = await plan_rows.compile_next(
        session, current_request_id(), above=newest.number if newest else 0
    )
    session.add(
        Move(
            subscription_id=row.id,
            view_id=row.view_id,
            subscription_name=row.subscription_name,
            plan=row.closed_in_plan,
            from_plan=row.from_plan,
            allowed=True,
            correlation_id=current_request_id(),
            drain_until=until,
        )
    )
    await session.flush()
    await plan_rows.retire_views(session, [row.view_id], row.closed_in_plan)
    await repository.note(
        session, EventType.SUBSCRIPTION_DRAINING, [row], until=until.isoformat(timespec="seconds")
    )


async def close_drained(session: AsyncSession) -> None:
    """Close the subscriptions whose Pulsar subscription on their topic is gone."""
    reading = exists().where(
        Move.subscription_id == Subscription.id,
        Move.view_id == Subscription.view_id,
        Move.ended_at.is_(None),
    )
    query = select(Subscription.id).where(Subscription.state == State.DRAINING, ~reading)
    ids = (await session.scalars(query)).all()
    if not ids:
        return
    await drain_no_longer(session, Subscription.id.in_(ids))
    rows = [row for row in await repository.locked(session, ids) if row.state == State.DRAINING]
    for row in rows:
        row.become(State.CLOSED)
        row.closed_at = row.cursor_removed_at = func.clock_timestamp()
        touch(row)
    await session.flush()
    await repository.note(session, EventType.SUBSCRIPTION_CLOSED, rows)


async def never_routed(session: AsyncSession, rows: Collection[Subscription]) -> set[str]:
    """Those (ids) of some subscriptions that drain for whose view no plan was ever published.

    They were moved to it and ended before the functions knew: the broker has no topic of it.
    """
    ids = [row.id for row in rows if row.state == State.DRAINING]
    if not ids:
        return set()
    published = exists().where(
        PlanRow.number >= Subscription.plan,
        PlanRow.number < Subscription.closed_in_plan,
        PlanRow.published_at.is_not(None),
    )
    query = select(Subscription.id).where(Subscription.id.in_(ids), ~published)
    return set((await session.scalars(query)).all())


async def stopped_at(session: AsyncSession, row: Subscription) -> datetime | None:
    """When nothing new came for a subscription any more: it was closed, or began to be drained."""
    query = select(Move.moved_at).where(
        Move.subscription_id == row.id,
        Move.view_id == row.view_id,
        Move.plan == row.closed_in_plan,
    )
    return await session.scalar(query) or row.closed_at
