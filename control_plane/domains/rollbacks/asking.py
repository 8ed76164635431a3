"""Puts back what subscriptions asked for; in the session's transaction.

The history of a subscription says of each change what was before. The oldest of those behind a plan
says what it asked for as of that plan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, exists, select, text
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, joinedload

from control_plane.domains.events.schemas import EventType
from control_plane.domains.instrument_sets import repository as set_rows
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.plans.models import PlanRow
from control_plane.domains.reference_tables import repository as table_rows
from control_plane.domains.rollbacks.outcome import MOST, Outcome
from control_plane.domains.rules.policy import Policy
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.changes import (
    VIEW_MEMBERS,
    asked,
    asked_before,
    difference,
    with_reference,
)
from control_plane.domains.subscriptions.followed import dependencies
from control_plane.domains.subscriptions.models import (
    CHANGED,
    ENDED,
    LIVE,
    HistoryEntry,
    Subscription,
)
from control_plane.domains.subscriptions.returning import stranded
from control_plane.domains.subscriptions.schemas import SubscriptionCreate
from control_plane.domains.subscriptions.view_check import (
    entitled_spec,
    named_tables,
    require_sets,
    view_spec,
)
from control_plane.domains.transformations import repository as transformation_rows
from control_plane.errors import ConflictError, InvalidRequestError, NotFoundError
from marketdata.plans import ViewSpec, sets_of, view_of
from marketdata.reference import TableSpec
from marketdata.transformations import Transformation

MOST_CHANGED = 5_000
"""So many subscriptions that have been changed are put back at most: all plans wait meanwhile."""

Befores = Mapping[str, Sequence[dict[str, Any]]]
"""Of subscriptions what was before each change since a plan, the oldest first."""


class _Was(NamedTuple):
    """A subscription, what it asked for, and how that differs from what it asks for now."""

    row: Subscription
    then: SubscriptionCreate
    told: dict[str, dict[str, Any]]


class _Again(NamedTuple):
    """What a subscription asks for again, and the name of its view."""

    was: _Was
    spec: ViewSpec
    view: str


class Restored(NamedTuple):
    """The subscriptions that ask for what they did, and what the history says of each, by id.

    Attributes:
        unmoved: those that have the same view by it.
    """

    rows: list[Subscription]
    told: dict[str, dict[str, Any]]
    unmoved: list[Subscription]


async def changed_since(session: AsyncSession, plan: int, since: datetime) -> Befores:
    """What live subscriptions asked for that a plan served, and that have been changed since.

    Args:
        since: when the plan behind it was made.

    Raises:
        ConflictError: they are too many.
    """
    before = HistoryEntry.data["before"]
    query = (
        select(HistoryEntry.subscription_id, before)
        .join(Subscription, Subscription.id == HistoryEntry.subscription_id)
        .where(
            text(CHANGED),
            HistoryEntry.at >= since,
            before.has_any(array(VIEW_MEMBERS)),
            Subscription.state.in_(LIVE),
            Subscription.created_at < since,
            ~_made_behind(plan),
        )
        .order_by(HistoryEntry.id)
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for key, was in await session.execute(query):
        found.setdefault(key, []).append(was)
    if len(found) > MOST_CHANGED:
        raise ConflictError(
            f"{len(found)} subscriptions have been changed since; at most {MOST_CHANGED} are put"
            " back at once. Choose a later plan, or leave `subscriptions` out of `parts`."
        )
    return found


async def consumers_of(session: AsyncSession, ids: Collection[str]) -> set[str]:
    """The consumers of some subscriptions."""
    query = select(Subscription.consumer_id).where(Subscription.id.in_(ids)).distinct()
    return set(await session.scalars(query))


async def put_back(
    session: AsyncSession,
    befores: Befores,
    outcome: Outcome,
    *,
    policy: Policy,
    lanes: Collection[str],
    unpublished: int,
) -> Restored:
    """Let subscriptions ask for what they did; their open moves are locked.

    What a request for it would be refused for is not put back.

    Args:
        policy: the routing rules that hold.
        lanes: those that functions have which have been seen running.
        unpublished: the first of the newest plans of which no function knows.
    """
    changed = await _changed(session, befores, outcome)
    tables = await table_rows.specs(
        session, {name for was in changed for name in named_tables(was.then.transformation)}
    )
    asking = await asyncio.to_thread(_asking, changed, tables, outcome)
    sets = await set_rows.contents(session, sets_of(spec for _, spec in asking))
    again = await asyncio.to_thread(_entitled, asking, sets, policy, lanes, outcome)
    wanted = {each.was.row.id: each.view for each in again}
    held_up = await stranded(session, wanted, unpublished=unpublished)
    known = await dependencies(session)
    restored = Restored([], {}, [])
    for was, spec, view in again:
        row, then, told = was
        move = held_up.get(row.id)
        if move is not None:
            detail = "it left that view and has not drained it yet, while others have it"
            outcome.keep_subscription(row, "draining", detail, move.drain_until)
            continue
        circle = known.problem(row.consumer.workflow, spec.delivery)
        if circle is not None:
            outcome.keep_subscription(row, "refused", circle.detail)
            continue
        row.filter, row.spec = then.filter, plan_rows.spec_json(spec)
        row.transformation_id = await _shared(session, then, spec)
        restored.rows.append(row)
        restored.told[row.id] = told
        if view == row.view_id:
            restored.unmoved.append(row)
        outcome.put("subscription", row.name, **told, id_=row.id, consumer=row.consumer_id)
    await session.flush()
    return restored


async def tell_others(session: AsyncSession, plan: int, since: datetime, outcome: Outcome) -> None:
    """Tell of subscriptions that were closed or made since a plan: they stay so."""
    query = select(Subscription).order_by(Subscription.id).limit(MOST + 1)
    closed = query.where(
        Subscription.state.in_(ENDED),
        Subscription.created_at < since,
        Subscription.closed_in_plan > plan,
        ~_made_behind(plan),
    )
    for row in await session.scalars(closed):
        outcome.keep_subscription(row, "closed_since", "its position is gone")
    begun = select(PlanRow.created_at).where(PlanRow.number == plan).scalar_subquery()
    made = query.where(
        Subscription.state.in_(LIVE), Subscription.created_at >= begun, _made_behind(plan)
    )
    for row in await session.scalars(made):
        outcome.keep_subscription(row, "made_since", "it goes on as it is")


def _made_behind(plan: int) -> ColumnElement[bool]:
    """Whether a subscription was made when a later plan was the newest, or made one itself.

    By the number: what makes a plan is written before that is.
    """
    made = aliased(HistoryEntry)
    return exists().where(
        made.subscription_id == Subscription.id,
        made.type == EventType.SUBSCRIPTION_CREATED.value,
        made.plan > plan,
    )


async def _changed(session: AsyncSession, befores: Befores, outcome: Outcome) -> list[_Was]:
    """The subscriptions that ask for something else than they did; rows are locked."""
    await repository.locked(session, befores)
    query = (
        select(Subscription)
        .where(Subscription.id.in_(befores))
        .options(joinedload(Subscription.consumer), joinedload(Subscription.shared_transformation))
        .order_by(Subscription.id)
        .execution_options(populate_existing=True)
    )
    changed = []
    for row in (await session.scalars(query)).all():
        now = with_reference(asked(row), row.shared_transformation)
        try:
            then = asked_before(now, befores[row.id])
        except msgspec.ValidationError as error:
            outcome.keep_subscription(row, "refused", f"its history cannot be read: {error}")
            continue
        told = difference(now, then, VIEW_MEMBERS)
        if not told["before"]:
            continue
        if row.consumer.suspended:
            outcome.keep_subscription(row, "suspended", "its consumer is suspended")
            continue
        changed.append(_Was(row, then, told))
    return changed


def _asking(
    changed: Sequence[_Was], tables: Mapping[str, TableSpec], outcome: Outcome
) -> list[tuple[_Was, ViewSpec]]:
    """What is asked for again, compiled once where many ask for the same."""
    made: dict[bytes, ViewSpec | InvalidRequestError] = {}
    asking = []
    for was in changed:
        members = msgspec.to_builtins(was.then)
        key = msgspec.json.encode([members.get(name) for name in VIEW_MEMBERS])
        if key not in made:
            try:
                made[key] = view_spec(was.then, tables)
            except InvalidRequestError as error:
                made[key] = error
        spec = made[key]
        if isinstance(spec, ViewSpec):
            asking.append((was, spec))
        else:
            outcome.keep_subscription(was.row, "refused", str(spec))
    return asking


def _entitled(
    asking: Sequence[tuple[_Was, ViewSpec]],
    sets: Collection[str],
    policy: Policy,
    lanes: Collection[str],
    outcome: Outcome,
) -> list[_Again]:
    """What consumers may have of that now."""
    again = []
    for was, spec in asking:
        consumer = was.row.consumer
        try:
            require_sets(was.then, spec, sets)
            left = entitled_spec(
                was.then, spec, consumer, policy, consumer.allowed, lanes, was.row.conflate_ms
            )
        except InvalidRequestError as error:
            outcome.keep_subscription(was.row, "refused", str(error))
        else:
            again.append(_Again(was, spec, view_of(left.spec).id))
    return again


async def _shared(session: AsyncSession, then: SubscriptionCreate, spec: ViewSpec) -> str | None:
    """The shared transformation that was referred to, if it is there still and holds that."""
    if not isinstance(then.shared_transformation, str):
        return None
    try:
        found = await transformation_rows.find(session, then.shared_transformation)
    except NotFoundError:
        return None
    same = msgspec.convert(found.transformation, Transformation) == spec.transformation
    return found.id if same else None
