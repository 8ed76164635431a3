"""Moves: a subscription's way to another view, when what it may receive or asks for changes.

What was asked for is kept; the view is what the entitlements and the routing rules leave of it. A
move is a change like any other: rows and the plan that it makes commit together. A move always
makes a plan of its own, so that a number divides what was routed before from what is after it.

What happens to the Pulsar subscription on the topic that was left:

- Nobody else has the view: from the move's plan on nothing is routed to it. What lies there was
  routed before, and can be read until `drain_until`.
- Somebody else has the view, now or later, and the consumer may see that: its topic goes on, and
  the plan of a message says whether it is for the subscription. It can be read until `drain_until`.
- Somebody else has the view, and its topic goes on with events that may no longer be the
  consumer's. The Pulsar subscription is removed before the plan that routes them is published.

Where the next view is of another lane, or the one that was left is conflated, that one goes on
until its lane has come to where the next begins (`lane_moves`), provided that the entitlements
allow it: else events would be lost between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Select, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from control_plane.domains.consumers.models import Consumer
from control_plane.domains.events.schemas import EventType
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.plans.models import ViewRow
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.diverted import diverted
from control_plane.domains.subscriptions.models import LIVE, Move, State, Subscription
from control_plane.errors import ConflictError
from control_plane.requests import current_request_id
from control_plane.rows import touch
from marketdata.entitlements import Bounds, bounded
from marketdata.lanes import delay_of, lane_of
from marketdata.plans import ViewSpec, view_of


class Way(NamedTuple):
    """A subscription, the view that it gets, and what becomes of the one that it has now.

    Attributes:
        goes_on: whether that is routed on until its lane has come to where the next one begins.
        allowed: whether the subscription may see on what it gets.
    """

    row: Subscription
    view: ViewRow
    goes_on: bool = False
    allowed: bool = True


UNKNOWN_PLAN = 2**62
"""In place of a plan that is being made."""


async def follow_bounds(
    session: AsyncSession,
    bounds: Mapping[str, Bounds],
    *,
    reason: Literal["entitlements", "rules"],
    drain_seconds: float,
) -> int | None:
    """Give each live subscription of some consumers the view that is left of what it asks for.

    The caller holds Lock.PLAN_SEQUENCE.

    Args:
        bounds: id of a consumer -> what it may receive now.

    Returns:
        The plan from which the new views hold; None when none is another one.

    Raises:
        InvalidRequestError, ConflictError: rules make a condition too expensive, or a plan too
            large. A change of entitlements is not refused for that, but where a subscription would
            be both delayed and conflated.
    """
    lost = await _allow_no_longer(session, bounds)
    ways = await _ways(session, bounds, checked=reason == "rules")
    if not ways and not lost:
        return None
    number = await _move(session, ways, drain_seconds=drain_seconds, growing=reason == "rules")
    await repository.note(
        session, EventType.SUBSCRIPTION_MOVED, [way.row for way in ways], reason=reason
    )
    return number


async def change_view(
    session: AsyncSession, row: Subscription, view: ViewRow, *, drain_seconds: float
) -> None:
    """Give a subscription another view because it has been changed itself.

    The caller holds Lock.PLAN_SEQUENCE and the rows of consumer, moves and subscription.

    Raises:
        ConflictError: it came from that view, and has not drained it yet; or the plan is full.
    """
    left = await session.scalar(
        _open().where(Move.subscription_id == row.id, Move.view_id == view.id)
    )
    if left is not None:
        # One Pulsar subscription cannot be drained and read on at a time.
        raise ConflictError(
            "The subscription had what this asks for before, and drains it until"
            f" {left.drain_until.isoformat(timespec='seconds')}: change it after that."
        )
    specs = (msgspec.convert(each.spec, ViewSpec) for each in (row.view, view))
    goes_on = _falls_behind(*specs) and row.activated_at is not None
    await _move(
        session, [Way(row, view, goes_on=goes_on)], drain_seconds=drain_seconds, growing=True
    )


async def lock_open(session: AsyncSession, of: ColumnElement[bool]) -> None:
    """Lock the open moves of some subscriptions.

    Before their rows, as the publisher locks them: neither can wait for the other.
    """
    ids = select(Subscription.id).where(of)
    moves = select(Move.id).where(Move.subscription_id.in_(ids), Move.ended_at.is_(None))
    await session.execute(moves.order_by(Move.id).with_for_update())


async def _move(
    session: AsyncSession,
    ways: Sequence[Way],
    *,
    drain_seconds: float,
    growing: bool,
) -> int:
    """Let subscriptions have other views from a plan on that is made here; gives its number."""
    now = datetime.now(UTC)
    moves = []
    for row, view, goes_on, allowed in ways:
        # Who was never active has read nothing, and begins on the new view as it would have here.
        drain_until = now + timedelta(seconds=drain_seconds) if row.activated_at else now
        moves.append(
            Move(
                subscription_id=row.id,
                view_id=row.view_id,
                subscription_name=row.subscription_name,
                from_plan=row.from_plan,
                allowed=allowed,
                goes_on=goes_on,
                correlation_id=current_request_id(),
                drain_until=drain_until,
            )
        )
        row.view_id = view.id
        row.state = State.PENDING.value
        touch(row)
    await session.flush()
    left = {move.view_id for move in moves}
    # Before the plan is compiled: what goes on is in it.
    for move in moves:
        move.plan = UNKNOWN_PLAN
    session.add_all(moves)
    await session.flush()
    rows = [way.row for way in ways]
    given = await _come_back(session, rows, left)
    newest = await plan_rows.newest(session)
    number = await plan_rows.compile_next(
        session, current_request_id(), above=newest.number if newest else 0, growing=growing
    )
    for row, move in zip(rows, moves, strict=True):
        row.plan = move.plan = number
        if row.activated_at:
            row.from_plan = given.get(row.id, number)
    await session.flush()
    await plan_rows.retire_views(session, left, number)
    return number


async def drain_no_longer(session: AsyncSession, of: ColumnElement[bool]) -> None:
    """Let what may still be read on topics that were left be taken away at once.

    Args:
        of: a condition on the subscriptions that left them.
    """
    await lock_open(session, of)
    await session.execute(
        update(Move)
        .where(Move.subscription_id == Subscription.id, Move.ended_at.is_(None), of)
        .values(drain_until=func.clock_timestamp())
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
    somebody = exists().where(Subscription.view_id == Move.view_id, _LIVE)
    query = _open().where(Move.plan <= plan, ~Move.allowed, somebody).with_for_update(of=Move)
    return (await session.scalars(query)).all()


async def overdue(session: AsyncSession, published: int) -> Sequence[Move]:
    """Open moves whose time to be drained is over; rows are locked.

    For who pauses no time passes, where it is the subscription that changed. Nor before the plan is
    published with which it gets something else, but for who is to get nothing.
    """
    over = (
        (Move.plan <= published)
        | (Subscription.state == State.CLOSED)
        | Subscription.consumer.has(Consumer.suspended)
    )
    waits = Subscription.paused_at.is_not(None) & _LIVE & Move.allowed
    query = (
        _open()
        .join(Move.subscription)
        .where(Move.drain_until <= func.clock_timestamp(), over, ~waits, ~Move.goes_on)
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


def _falls_behind(left: ViewSpec, following: ViewSpec) -> bool:
    """Whether a view's lane may come only later to where the next one begins.

    A conflated view may hold at that moment what came before, also in the lane of the next one. A
    lane that is delayed more than the other begins before that.
    """
    lane, other = lane_of(left.delivery), lane_of(following.delivery)
    behind = lane != other or left.delivery.conflates
    return behind and delay_of(lane) >= delay_of(other)


_LIVE = Subscription.state.in_(LIVE)


def _open() -> Select[Move]:
    query = select(Move).where(Move.ended_at.is_(None)).order_by(Move.id)
    return query.options(joinedload(Move.view), joinedload(Move.subscription))


async def _allow_no_longer(session: AsyncSession, bounds: Mapping[str, Bounds]) -> bool:
    """Note which views that may be read on are allowed no longer; whether there are."""
    of_consumers = Subscription.consumer_id.in_(bounds)
    await lock_open(session, of_consumers)
    query = _open().join(Move.subscription).where(of_consumers, Move.allowed)
    lost = False
    for move in (await session.scalars(query)).all():
        spec = msgspec.convert(move.view.spec, ViewSpec)
        if view_of(bounded(spec, bounds[move.subscription.consumer_id])).id != move.view_id:
            move.allowed, move.goes_on, lost = False, False, True
    await session.flush()
    return lost


async def _ways(session: AsyncSession, bounds: Mapping[str, Bounds], *, checked: bool) -> list[Way]:
    """The ways of those live subscriptions of consumers that get another view: rows are locked.

    Their open moves are locked.
    """
    asked = await repository.asked_by(session, bounds)
    views = {row.id: row.spec for row in await plan_rows.views(session, {a.view for a in asked})}
    # In a thread: there may be many, and they must not hold up other requests.
    others = await asyncio.to_thread(diverted, asked, bounds, views, checked=checked)
    there = {
        view_of(spec).id: await plan_rows.ensure_view(session, spec)
        for spec in {view_of(other.spec).id: other.spec for other in others.values()}.values()
    }
    ways = []
    for row in await repository.locked(session, others):
        other = others[row.id]
        left = msgspec.convert(views[row.view_id], ViewSpec)
        goes_on = other.allowed and _falls_behind(left, other.spec) and row.activated_at is not None
        view = there[view_of(other.spec).id]
        ways.append(Way(row, view, goes_on=goes_on, allowed=other.allowed))
        if bounds[row.consumer_id].events.sets and row.activated_at is None:
            row.start, row.start_place = "latest", None  # as for a new one (`entitled_spec`)
    return ways


async def _come_back(
    session: AsyncSession, rows: Collection[Subscription], left: Collection[str]
) -> dict[str, int]:
    """End the moves away from views that subscriptions have again: they read on where they were.

    Args:
        rows: what moves, with its new views.
        left: the views that they leave.

    Returns:
        By id the plan from which on all that the topic holds is for the subscription: where what it
        holds from before may still be read, and nothing was routed there meanwhile. One plan cannot
        tell what is on both sides of something that is for others.
    """
    ids = {row.id for row in rows}
    query = _open().join(Move.subscription).where(Subscription.id.in_(ids))
    back = (await session.scalars(query.where(Move.view_id == Subscription.view_id))).all()
    await end(session, [move.id for move in back])
    now = datetime.now(UTC)
    given = {}
    for move in back:
        # The time to drain it has not begun, or does not pass.
        waits = move.goes_on or (move.allowed and move.subscription.paused_at is not None)
        foreign = move.view_id in left or await _had_since(session, move, without=ids)
        if (waits or move.drain_until > now) and not foreign:
            given[move.subscription_id] = move.from_plan
    return given


async def _had_since(session: AsyncSession, move: Move, *, without: Collection[str]) -> bool:
    """Whether somebody has, or had since a move, the view that it left: a plan may have routed it.

    Args:
        without: ids of subscriptions that have it only from now on, or not at all.
    """
    moved = exists().where(Move.view_id == move.view_id, Move.plan > move.plan)
    there = exists().where(
        Subscription.view_id == move.view_id,
        Subscription.id.not_in(without),
        or_(_LIVE, Subscription.closed_in_plan > move.plan),
    )
    return bool(await session.scalar(select(or_(moved, there))))
