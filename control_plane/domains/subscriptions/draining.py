"""Topics that subscriptions have left and may still read: for how long, and what is taken away.

What happens to the Pulsar subscription on the topic that was left:

- Nobody else has the view: from the move's plan on nothing is routed to it. What lies there was
  routed before, and can be read until `drain_until`.
- Somebody else has the view, now or later, and the consumer may see that: its topic goes on, and
  the plan of a message says whether it is for the subscription. It can be read until `drain_until`.
- Somebody else has the view, and its topic goes on with events that may no longer be the
  consumer's. The Pulsar subscription is removed before the plan that routes them is published.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Select, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, joinedload

from control_plane.domains.consumers.models import Consumer
from control_plane.domains.subscriptions.models import LIVE, Move, State, Subscription

IS_LIVE = Subscription.state.in_(LIVE)
"""Subscriptions that plans are made for."""


def open_moves() -> Select[Move]:
    """Moves whose Pulsar subscription is there, in their order, with view and subscription."""
    query = select(Move).where(Move.ended_at.is_(None)).order_by(Move.id)
    return query.options(joinedload(Move.view), joinedload(Move.subscription))


async def lock_open(session: AsyncSession, of: ColumnElement[bool]) -> None:
    """Lock the open moves of some subscriptions.

    Before their rows, as the publisher locks them: neither can wait for the other.
    """
    ids = select(Subscription.id).where(of)
    moves = select(Move.id).where(Move.subscription_id.in_(ids), Move.ended_at.is_(None))
    await session.execute(moves.order_by(Move.id).with_for_update())


async def drain_no_longer(session: AsyncSession, of: ColumnElement[bool]) -> None:
    """Let what may still be read on topics that were left be taken away at once, untold.

    Args:
        of: a condition on the subscriptions that left them.
    """
    await lock_open(session, of)
    await session.execute(
        update(Move)
        .where(Move.subscription_id == Subscription.id, Move.ended_at.is_(None), of)
        .values(drain_until=func.clock_timestamp(), tells_unread=False)
        .execution_options(synchronize_session=False)
    )


async def drain_anew(session: AsyncSession, key: str, *, drain_seconds: float) -> None:
    """Give a subscription that resumes time to drain what its pause kept; moves are locked."""
    until = datetime.now(UTC) + timedelta(seconds=drain_seconds)
    await session.execute(
        update(Move)
        .where(Move.subscription_id == key, Move.ended_at.is_(None), Move.allowed)
        .values(drain_until=func.greatest(Move.drain_until, until))
        .execution_options(synchronize_session=False)
    )


async def exposed(session: AsyncSession, plan: int) -> Sequence[Move]:
    """Open moves up to a plan whose view somebody has and they may not see; rows are locked."""
    somebody = exists().where(Subscription.view_id == Move.view_id, IS_LIVE)
    routed = or_(somebody, goes_on_for_another())
    query = open_moves().where(Move.plan <= plan, ~Move.allowed, routed).with_for_update(of=Move)
    return (await session.scalars(query)).all()


def goes_on_for_another() -> ColumnElement[bool]:
    """Whether the view of a move is still routed for somebody else who has left it."""
    other = aliased(Move)
    return exists().where(other.view_id == Move.view_id, other.goes_on, other.id != Move.id)


async def overdue(session: AsyncSession, published: int) -> Sequence[Move]:
    """Open moves whose time to be drained is over, with nothing to tell; rows are locked.

    For who pauses no time passes, where it is the subscription that changed. Nor before the plan is
    published with which it gets something else, but for who is to get nothing.
    """
    over = (
        (Move.plan <= published)
        | (Subscription.state == State.CLOSED)
        | Subscription.consumer.has(Consumer.suspended)
    )
    query = _over().where(over, ~Move.tells_unread).limit(1000)
    query = query.with_for_update(of=Move, skip_locked=True)
    return (await session.scalars(query)).all()


async def untold(session: AsyncSession) -> Sequence[int]:
    """The ids of some moves of which has to be told what was not read in time, in their order."""
    query = _over().where(Move.tells_unread).limit(1000)
    return [move.id for move in (await session.scalars(query)).all()]


async def untold_still(session: AsyncSession, key: int, *, lock: bool = False) -> Move | None:
    """The move, if it is still one of these; to be locked, None while somebody has it."""
    query = _over().where(Move.tells_unread, Move.id == key)
    if lock:
        query = query.with_for_update(of=Move, skip_locked=True)
    return await session.scalar(query)


async def grants(
    session: AsyncSession, *, without: Collection[object] = ()
) -> set[tuple[str, str]]:
    """Topic and consumer of every open move, but for those that are in `without`."""
    moves = (await session.scalars(open_moves())).all()
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


def _over() -> Select[Move]:
    """Open moves whose time to be drained is over; it does not pass for who pauses."""
    waits = Subscription.paused_at.is_not(None) & IS_LIVE & Move.allowed
    over = Move.drain_until <= func.clock_timestamp()
    return open_moves().join(Move.subscription).where(over, ~waits, ~Move.goes_on)
