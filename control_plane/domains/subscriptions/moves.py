"""Moves: a subscription's way to another view when its consumer's entitlements change.

What was asked for stays; the view is what the entitlements leave of it. A move is a change like any
other: rows and the plan that it makes commit together. A move always makes a plan of its own, so
that a number divides what was routed before it from what is routed after it.

What happens to the Pulsar subscription on the topic that was left:

- Nobody else has the view: from the move's plan on nothing is routed to it. What lies there was
  routed before, and can be read until `drain_until`.
- Somebody else has the view, now or later: its topic goes on with events that may no longer be the
  consumer's. The Pulsar subscription is removed before the plan that routes them is published.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, Select, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from control_plane.domains.consumers.models import Consumer
from control_plane.domains.events.repository import record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.plans.models import ViewRow
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.models import Move, State, Subscription
from control_plane.requests import current_request_id
from marketdata.entitlements import bounded
from marketdata.plans import ViewSpec, view_of


async def follow_entitlements(
    session: AsyncSession, consumer: Consumer, *, drain_seconds: float
) -> int | None:
    """Give each live subscription of a consumer the view that its entitlements leave.

    The caller holds Lock.PLAN_SEQUENCE and the consumer's row.

    Returns:
        The plan from which the new views hold; None when none is another one.
    """
    entitlements = consumer.allowed
    others: list[tuple[Subscription, ViewRow]] = []
    for row in await _live_of(session, consumer.id):
        spec = bounded(msgspec.convert(row.spec, ViewSpec), entitlements)
        if view_of(spec).id != row.view_id:
            others.append((row, await plan_rows.ensure_view(session, spec)))
    if not others:
        return None
    drain_until = datetime.now(UTC) + timedelta(seconds=drain_seconds)
    moves = []
    for row, view in others:
        moves.append(
            Move(
                subscription_id=row.id,
                view_id=row.view_id,
                subscription_name=row.subscription_name,
                correlation_id=current_request_id(),
                drain_until=drain_until,
            )
        )
        row.view_id = view.id
        if entitlements.instrument_sets and row.activated_at is None:
            row.start = "latest"  # as for a new one (`entitled_spec`)
        row.state = State.PENDING.value
        repository.touch(row)
    await session.flush()
    await _come_back(session, consumer.id)
    newest = await plan_rows.newest(session)
    number = await plan_rows.compile_next(
        session, current_request_id(), above=newest.number if newest else 0
    )
    for (row, _), move in zip(others, moves, strict=True):
        row.plan = move.plan = number
    session.add_all(moves)
    await session.flush()
    await plan_rows.retire_views(session, {move.view_id for move in moves}, number)
    told = (repository.change(EventType.SUBSCRIPTION_MOVED, row) for row, _ in others)
    await record(session, *told)
    return number


async def drain_no_longer(session: AsyncSession, of: ColumnElement[bool]) -> None:
    """Let what may still be read on topics that were left be taken away at once.

    Args:
        of: a condition on the subscriptions that left them.
    """
    await session.execute(
        update(Move)
        .where(Move.subscription_id == Subscription.id, Move.ended_at.is_(None), of)
        .values(drain_until=func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )


async def exposed(session: AsyncSession, plan: int) -> Sequence[Move]:
    """Open moves up to a plan whose view somebody has: its topic goes on. Rows are locked."""
    somebody = exists().where(Subscription.view_id == Move.view_id, _LIVE)
    query = _open().where(Move.plan <= plan, somebody).with_for_update(of=Move)
    return (await session.scalars(query)).all()


async def overdue(session: AsyncSession) -> Sequence[Move]:
    """Open moves whose time to be drained is over; rows are locked."""
    query = (
        _open()
        .where(Move.drain_until <= func.clock_timestamp())
        .limit(1000)
        .with_for_update(of=Move, skip_locked=True)
    )
    return (await session.scalars(query)).all()


async def grants(
    session: AsyncSession, *, without: Collection[object] = ()
) -> set[tuple[str, str]]:
    """Topic and consumer of every open move, but for those that are in `without`."""
    moves = (await session.scalars(_open())).all()
    return {move.grant for move in moves if move not in without}


async def end(session: AsyncSession, ids: Collection[int]) -> None:
    """Note that the Pulsar subscriptions of moves are gone."""
    if ids:
        await session.execute(
            update(Move)
            .where(Move.id.in_(ids))
            .values(ended_at=func.clock_timestamp())
            .execution_options(synchronize_session=False)
        )


_LIVE = Subscription.state != State.CLOSED


def _open() -> Select[Move]:
    query = select(Move).where(Move.ended_at.is_(None)).order_by(Move.id)
    return query.options(joinedload(Move.view), joinedload(Move.subscription))


async def _live_of(session: AsyncSession, consumer_id: str) -> Sequence[Subscription]:
    """The live subscriptions of a consumer, and the open moves of them: rows are locked."""
    of_consumer = (Subscription.consumer_id == consumer_id, _LIVE)
    ids = select(Subscription.id).where(*of_consumer)
    # Moves first, as the publisher locks them: neither can wait for the other.
    moves = select(Move.id).where(Move.subscription_id.in_(ids), Move.ended_at.is_(None))
    await session.execute(moves.with_for_update())
    query = (
        select(Subscription)
        .where(*of_consumer)
        .order_by(Subscription.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return (await session.scalars(query)).all()


async def _come_back(session: AsyncSession, consumer_id: str) -> None:
    """End the moves away from views that subscriptions have again: they read on where they were."""
    await session.execute(
        update(Move)
        .where(
            Move.subscription_id == Subscription.id,
            Move.view_id == Subscription.view_id,
            Move.ended_at.is_(None),
            Subscription.consumer_id == consumer_id,
        )
        .values(ended_at=func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )
