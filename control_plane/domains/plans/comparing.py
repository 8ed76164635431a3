"""The difference of two stored plans: their documents, and the subscriptions that they serve.

A plan's document holds views. Which subscriptions a plan served is told as it stood when the next
plan came: some share a view that was there, and join or leave between two plans.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.domains.plans import repository
from control_plane.domains.plans.differences import PlanDifference, difference, parts_of
from control_plane.domains.plans.models import PlanRow
from control_plane.domains.plans.schemas import (
    PlanDifferenceOut,
    SetDifferenceOut,
    SubscriptionDifferenceOut,
    SubscriptionDifferencesOut,
    TableDifferenceOut,
    ViewDifferencesOut,
    ViewOut,
)
from control_plane.domains.subscriptions.models import Move, Subscription
from marketdata.plans import Plan, View, decode_plan

MOST = 1_000
"""Longest list of an answer, and most subscriptions that are looked at."""


@dataclass(frozen=True, slots=True)
class _Stood:
    """A plan as it stood when the next one came; `until` is None for the newest."""

    plan: Plan
    views: dict[str, View]
    until: datetime | None


class PlanComparison:
    """Says what changes from one plan to another."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def difference(self, before: int, after: int) -> PlanDifferenceOut:
        """What changes from one plan to another, whichever is older; NotFoundError for none."""
        async with self._database.transaction() as session:
            return await compared(session, before, after)


async def compared(session: AsyncSession, before: int, after: int) -> PlanDifferenceOut:
    """What changes from one plan to another, whichever is older; NotFoundError for none."""
    rows = [await repository.find(session, number) for number in (before, after)]
    ends = [await repository.end_of(session, row.number) for row in rows]
    # Documents may have megabytes.
    plans = await asyncio.to_thread(lambda: [decode_plan(row.document) for row in rows])
    found = await asyncio.to_thread(difference, *plans)
    low, high = sorted(rows, key=lambda row: row.number)
    candidates = await _candidates(session, low, high)
    moves = await _moves(session, [row.id for row in candidates[:MOST]])
    sides = [
        _Stood(plan, {view.id: view for view in plan.views}, until)
        for plan, until in zip(plans, ends, strict=True)
    ]
    subscriptions = _subscriptions(candidates[:MOST], moves, *sides)
    return _out(before, after, found, subscriptions, cut=len(candidates) > MOST)


async def _candidates(session: AsyncSession, low: PlanRow, high: PlanRow) -> Sequence[Subscription]:
    """Subscriptions that were made, closed or moved from one plan to a later one, and others."""
    moved = exists().where(
        Move.subscription_id == Subscription.id, Move.plan > low.number, Move.plan <= high.number
    )
    query = (
        select(Subscription)
        .where(
            or_(Subscription.closed_in_plan.is_(None), Subscription.closed_in_plan > low.number),
            or_(
                Subscription.created_at >= low.created_at,
                Subscription.closed_in_plan <= high.number,
                moved,
            ),
        )
        .order_by(Subscription.id)
        .limit(MOST + 1)
    )
    until = await repository.end_of(session, high.number)
    if until is not None:
        query = query.where(Subscription.created_at < until)
    return (await session.scalars(query)).all()


async def _moves(session: AsyncSession, ids: Collection[str]) -> dict[str, list[Move]]:
    """The moves of subscriptions, in their order."""
    moves: dict[str, list[Move]] = {}
    for move in await session.scalars(
        select(Move).where(Move.subscription_id.in_(ids)).order_by(Move.plan, Move.id)
    ):
        moves.setdefault(move.subscription_id, []).append(move)
    return moves


def _subscriptions(
    rows: Sequence[Subscription], moves: dict[str, list[Move]], before: _Stood, after: _Stood
) -> SubscriptionDifferencesOut:
    told = SubscriptionDifferencesOut([], [], [])
    for row in rows:
        old, new = (_view_in(side, row, moves.get(row.id, ())) for side in (before, after))
        if (old and old.id) == (new and new.id):
            continue
        fate = told.added if old is None else told.removed if new is None else told.changed
        fate.append(
            SubscriptionDifferenceOut(
                subscription=row.id,
                consumer=row.consumer_id,
                name=row.name,
                view_before=old.id if old else None,
                view_after=new.id if new else None,
                parts=parts_of(old, new),
            )
        )
    return told


def _view_in(stood: _Stood, row: Subscription, moves: Sequence[Move]) -> View | None:
    """The view that a subscription had by a plan; None where the plan does not serve it."""
    number = stood.plan.number
    if row.closed_in_plan is not None and row.closed_in_plan <= number:
        return None
    if stood.until is not None and row.created_at >= stood.until:
        return None
    left = next((move for move in moves if move.plan > number), None)
    # What made the next plan was stored just before it: its view is not in this one.
    return stood.views.get(left.view_id if left else row.view_id)


def _out(
    before: int,
    after: int,
    found: PlanDifference,
    subscriptions: SubscriptionDifferencesOut,
    *,
    cut: bool,
) -> PlanDifferenceOut:
    views = (found.added, found.removed, found.changed)
    sets = [
        SetDifferenceOut(name, added[:MOST], removed[:MOST])
        for name, (added, removed) in found.sets.items()
    ]
    tables = [
        TableDifferenceOut(name, *(each.version if each else None for each in versions))
        for name, versions in found.tables.items()
    ]
    lengths = [len(sets), len(tables), *(len(each) for each in views)]
    lengths += [len(each) for changes in found.sets.values() for each in changes]
    return PlanDifferenceOut(
        before=before,
        after=after,
        views=ViewDifferencesOut(*([_view_out(view) for view in each[:MOST]] for each in views)),
        subscriptions=subscriptions,
        sets=sets[:MOST],
        tables=tables[:MOST],
        cut=cut or max(lengths) > MOST,
    )


def _view_out(view: View) -> ViewOut:
    return ViewOut(view.id, view.filter, view.transformation, view.format, view.delivery)
