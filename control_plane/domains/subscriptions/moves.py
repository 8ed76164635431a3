"""Moves: a subscription's way to another view, when what is left to it of what it asks for changes.

What was asked for is kept; the view is what the entitlements, the routing rules and its backlog
leave of it. A move is a change like any other: rows and the plan that it makes commit together. A
move always makes a plan of its own, so that a number divides what was routed before from what is
after it. What happens to the topic that was left stands in `draining`.

Where the next view is of another lane, or the one that was left is conflated, that one goes on
until its lane has come to where the next begins (`lane_moves`), provided that the entitlements
allow it: else events would be lost between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.events.schemas import EventType
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.plans.models import ViewRow
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.diverted import diverted
from control_plane.domains.subscriptions.draining import lock_open, open_moves
from control_plane.domains.subscriptions.models import Move, State, Subscription
from control_plane.domains.subscriptions.returning import NEVER, come_back
from control_plane.errors import ConflictError
from control_plane.requests import current_request_id
from control_plane.rows import touch
from marketdata.entitlements import Bounds, bounded
from marketdata.lanes import delay_of, followed_by, lane_of
from marketdata.plans import ViewSpec, view_of


class Way(NamedTuple):
    """A subscription, the view that it gets, and what becomes of the one that it has now.

    Attributes:
        goes_on: whether that is routed on until its lane has come to where the next one begins.
        allowed: whether the subscription may see on what it gets.
        unconflated: the subscription was conflated because of its backlog, and can be no longer.
    """

    row: Subscription
    view: ViewRow
    goes_on: bool = False
    allowed: bool = True
    unconflated: bool = False


UNKNOWN_PLAN = 2**62
"""In place of a plan that is being made."""


async def follow_bounds(
    session: AsyncSession,
    bounds: Mapping[str, Bounds],
    *,
    reason: Literal["entitlements", "rules", "rollback"],
    drain_seconds: float,
    changed: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    unpublished: int = NEVER,
) -> int | None:
    """Give each live subscription of some consumers the view that is left of what it asks for.

    The caller holds Lock.PLAN_SEQUENCE.

    Args:
        bounds: id of a consumer -> what it may receive now.
        changed: by id what the history says of subscriptions that ask for something else now.
        unpublished: the first of the newest plans of which no function knows.

    Returns:
        The plan from which the new views hold; None when none is another one.

    Raises:
        InvalidRequestError, ConflictError: a condition becomes too expensive, or the plan too
            large. A change of entitlements is not refused for that, but where a subscription would
            be both delayed and conflated.
    """
    lost, ended = await _allow_no_longer(session, bounds)
    of_consumers = Subscription.consumer_id.in_(bounds)
    refusing = reason != "entitlements"
    ways = await _ways(session, of_consumers, bounds, checked=refusing)
    if not ways and not lost:
        return None
    number = await _move(
        session, ways, drain_seconds=drain_seconds, growing=refusing, unpublished=unpublished
    )
    until = datetime.now(UTC) + timedelta(seconds=drain_seconds)
    for move in ended:
        # Only now it is no more than drained: what it was when it was left may be long over.
        move.plan, move.drain_until = number, max(move.drain_until, until)
    await session.flush()
    await plan_rows.retire_views(session, {move.view_id for move in ended}, number)
    moved = [way.row for way in ways]
    await repository.note(session, EventType.SUBSCRIPTION_MOVED, moved, each=changed, reason=reason)
    unconflated = [way.row for way in ways if way.unconflated]
    await repository.note(session, EventType.SUBSCRIPTION_UNCONFLATED, unconflated, reason=reason)
    return number


async def follow_backlog(
    session: AsyncSession,
    ids: Collection[str],
    bounds: Mapping[str, Bounds],
    *,
    drain_seconds: float,
) -> None:
    """Give subscriptions the views that they have by their `conflate_ms`, which has just changed.

    What they have not read of the others when the time to drain these is over is told.

    The caller holds Lock.PLAN_SEQUENCE, and the rows of moves and subscriptions.

    Args:
        bounds: id of a consumer -> what it may receive.

    Raises:
        ConflictError: the plan is full.
    """
    ways = await _ways(session, Subscription.id.in_(ids), bounds, checked=False)
    if ways:
        await _move(session, ways, drain_seconds=drain_seconds, growing=True, tells_unread=True)
        rows = [way.row for way in ways]
        await repository.note(session, EventType.SUBSCRIPTION_MOVED, rows, reason="backlog")


async def change_view(
    session: AsyncSession, row: Subscription, view: ViewRow, *, drain_seconds: float
) -> None:
    """Give a subscription another view because it has been changed itself.

    The caller holds Lock.PLAN_SEQUENCE and the rows of consumer, moves and subscription.

    Raises:
        ConflictError: it came from that view, and has not drained it yet; or the plan is full.
    """
    left = await session.scalar(
        open_moves().where(Move.subscription_id == row.id, Move.view_id == view.id)
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


async def _move(
    session: AsyncSession,
    ways: Sequence[Way],
    *,
    drain_seconds: float,
    growing: bool,
    tells_unread: bool = False,
    unpublished: int = NEVER,
) -> int:
    """Let subscriptions have other views from a plan on that is made here; gives its number."""
    now = datetime.now(UTC)
    moves = []
    for row, view, goes_on, allowed, _ in ways:
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
                tells_unread=tells_unread,
                correlation_id=current_request_id(),
                drain_until=drain_until,
            )
        )
        row.view_id = view.id
        row.become(State.PENDING)
        touch(row)
    await session.flush()
    left = {move.view_id for move in moves}
    # Before the plan is compiled: what goes on is in it.
    for move in moves:
        move.plan = UNKNOWN_PLAN
    session.add_all(moves)
    await session.flush()
    rows = [way.row for way in ways]
    given = await come_back(session, rows, left, unpublished=unpublished)
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


def _falls_behind(left: ViewSpec, following: ViewSpec) -> bool:
    """Whether a view's lane may come only later to where the next one begins.

    A conflated view may hold at that moment what came before, also in the lane of the next one. A
    lane that is delayed more than the other begins before that; for how long one waits that follows
    a workflow nobody knows.
    """
    lane, other = lane_of(left.delivery), lane_of(following.delivery)
    behind = lane != other or left.delivery.conflates
    return behind and (bool(followed_by(lane)) or delay_of(lane) >= delay_of(other))


async def _allow_no_longer(
    session: AsyncSession, bounds: Mapping[str, Bounds]
) -> tuple[bool, list[Move]]:
    """Note which views that may be read on are allowed no longer.

    Returns:
        Whether there are, and the moves whose views went on: their `plan` is to be set to the one
        that is being made, since what was routed up to there was for them.
    """
    of_consumers = Subscription.consumer_id.in_(bounds)
    await lock_open(session, of_consumers)
    query = open_moves().join(Move.subscription).where(of_consumers, Move.allowed)
    lost, ended = False, []
    for move in (await session.scalars(query)).all():
        spec = msgspec.convert(move.view.spec, ViewSpec)
        if view_of(bounded(spec, bounds[move.subscription.consumer_id])).id != move.view_id:
            if move.goes_on:
                move.plan = UNKNOWN_PLAN
                ended.append(move)
            move.allowed, move.goes_on, lost = False, False, True
    await session.flush()
    return lost, ended


async def _ways(
    session: AsyncSession,
    of: ColumnElement[bool],
    bounds: Mapping[str, Bounds],
    *,
    checked: bool,
) -> list[Way]:
    """The ways of those live ones of some subscriptions that get another view: rows are locked.

    Their open moves are locked.

    Args:
        of: a condition on the subscriptions.
        bounds: what their consumers may receive.
    """
    asked = await repository.asked_by(session, of)
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
        unconflated = row.conflated_since is not None and not other.conflated
        if unconflated:
            row.conflated_since = row.conflate_ms = None
        ways.append(Way(row, view, goes_on, other.allowed, unconflated))
        if bounds[row.consumer_id].events.sets and row.activated_at is None:
            row.start, row.start_place = "latest", None  # as for a new one (`entitled_spec`)
    return ways
