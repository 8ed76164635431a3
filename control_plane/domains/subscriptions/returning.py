"""Subscriptions that come back to a view which they have left, and may still read there.

One Pulsar subscription cannot be drained and read on at a time: what its topic got meanwhile, for
others, cannot be told by one number from what is on both sides of that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from sqlalchemy import exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.subscriptions.draining import IS_LIVE, end, open_moves
from control_plane.domains.subscriptions.models import Move, Subscription

NEVER = 2**62
"""Above every plan."""


async def come_back(
    session: AsyncSession,
    rows: Collection[Subscription],
    left: Collection[str],
    *,
    unpublished: int = NEVER,
) -> dict[str, int]:
    """End the moves away from views that subscriptions have again: they read on where they were.

    Args:
        rows: what moves, with its new views.
        left: the views that they leave.
        unpublished: the first of the newest plans of which no function knows.

    Returns:
        By id the plan from which on all that the topic holds is for the subscription: where what it
        holds from before may still be read, and nothing was routed there meanwhile but for it, as
        on a view that goes on. One plan cannot tell what is on both sides of something that is for
        others.
    """
    ids = {row.id for row in rows}
    query = open_moves().join(Move.subscription).where(Subscription.id.in_(ids))
    back = (await session.scalars(query.where(Move.view_id == Subscription.view_id))).all()
    given = {}
    for move in back:
        foreign = not move.goes_on and (
            move.view_id in left or await _had_since(session, move, without=ids)
        )
        if _never_routed(move, unpublished) or (_readable(move) and not foreign):
            given[move.subscription_id] = move.from_plan
    # Only now: what went on until now was routed for all of them, and may have been for another.
    for move in back:
        move.goes_on = False
    await session.flush()
    await end(session, [move.id for move in back])
    return given


async def stranded(
    session: AsyncSession, wanted: Mapping[str, str], *, unpublished: int
) -> dict[str, Move]:
    """Subscriptions that would lose what they have not read yet, if they came back now.

    Args:
        wanted: subscription -> the view that it is to have.
        unpublished: as in `come_back`.

    Returns:
        By id the move that has to end before.
    """
    query = open_moves().join(Move.subscription)
    query = query.where(Subscription.id.in_(wanted), Subscription.activated_at.is_not(None))
    return {
        move.subscription_id: move
        for move in (await session.scalars(query)).all()
        if wanted[move.subscription_id] == move.view_id
        and _readable(move)
        and not _never_routed(move, unpublished)
        and not move.goes_on
        and await _had_since(session, move, without=())
    }


def _readable(move: Move) -> bool:
    """Whether the time to drain a view has not begun, does not pass, or is not over."""
    waits = move.goes_on or (move.allowed and move.subscription.paused_at is not None)
    return waits or move.drain_until > datetime.now(UTC)


def _never_routed(move: Move, unpublished: int) -> bool:
    """Whether no function has routed by a plan with which the subscription had another view.

    What its topic got since was for others, and would have been for it. It may see it.
    """
    return move.allowed and move.plan >= unpublished


async def _had_since(session: AsyncSession, move: Move, *, without: Collection[str]) -> bool:
    """Whether somebody has, or had since a move, the view that it left: a plan may have routed it.

    Not asked of a view that goes on: that is allowed, and what it gets is for who left it, too,
    whoever else has it. Of others it is asked also where they have ended, as plans hold them still.

    Args:
        without: ids of subscriptions that have it only from now on, or not at all.
    """
    moved = exists().where(Move.view_id == move.view_id, Move.plan > move.plan)
    there = exists().where(
        Subscription.view_id == move.view_id,
        Subscription.id.not_in(without),
        or_(IS_LIVE, Subscription.closed_in_plan > move.plan),
    )
    going = exists().where(Move.view_id == move.view_id, Move.goes_on, Move.id != move.id)
    return bool(await session.scalar(select(or_(moved, there, going))))
