"""Queries on subscriptions; each runs in the transaction of the session given."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    case,
    cast,
    exists,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload, selectinload

from control_plane.domains.consumers import repository as consumer_rows
from control_plane.domains.consumers.models import Consumer
from control_plane.domains.events.repository import Change, record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.plans.models import ViewRow
from control_plane.domains.subscriptions.diverted import Asked
from control_plane.domains.subscriptions.models import (
    ENDED,
    IS_OPEN,
    LIMITED,
    LIVE,
    OPEN,
    PAUSED,
    ROUTED,
    HistoryEntry,
    Move,
    State,
    Subscription,
    pulsar_name,
)
from control_plane.errors import NotFoundError
from control_plane.listing import Listing, PageRequest, equal, labelled
from control_plane.requests import current_request_id
from control_plane.rows import touch

_TOLD = (
    joinedload(Subscription.consumer),
    joinedload(Subscription.view),
    joinedload(Subscription.shared_transformation),
    selectinload(Subscription.draining).joinedload(Move.view),
)
"""What is told of a subscription beside its own row."""
LISTING = Listing(Subscription, "created_at", "name")


def new_subscription_id() -> str:
    """A fresh id; all have one length."""
    return "s" + secrets.token_hex(8)


async def find(
    session: AsyncSession, key: str, *, only: str | None = None, for_update: bool = False
) -> Subscription:
    """The subscription with this id, closed or not, with what is told of it; NotFoundError.

    `only` is the id of the one consumer whose subscriptions the caller may know of.
    """
    query = (
        select(Subscription)
        .where(Subscription.id == key)
        .options(*_TOLD)
        .execution_options(populate_existing=True)
    )
    if only is not None:
        query = query.where(Subscription.consumer_id == only)
    if for_update:
        query = query.with_for_update(of=Subscription)
    row = await session.scalar(query)
    if row is None:
        raise NotFoundError("subscription", key)
    return row


async def has_older(session: AsyncSession, row: Subscription) -> bool:
    """Whether another subscription, closed or not, had the view of this one before it."""
    older = tuple_(Subscription.created_at, Subscription.id) < (row.created_at, row.id)
    return bool(
        await session.scalar(select(exists().where(Subscription.view_id == row.view_id, older)))
    )


async def page(
    session: AsyncSession,
    asked: PageRequest,
    *,
    states: Collection[str],
    consumer: str | None = None,
    name: str | None = None,
    format_: str | None = None,
    labels: Sequence[str] | None = None,
    only: str | None = None,
) -> Sequence[Subscription]:
    """The subscriptions of a page, in these states; `only` as in `find`."""
    conditions = equal(
        (Subscription.name, name),
        (Subscription.spec["format"].astext, format_),
        (Subscription.consumer_id, only),
    )
    conditions += labelled(Subscription.labels, labels)
    query = select(Subscription).options(*_TOLD).where(*conditions)
    # As the indexes have it: a parameter would hide it from the planner.
    every = set(states) == set(OPEN)
    query = query.where(text(IS_OPEN) if every else Subscription.state.in_(states))
    if consumer is not None:
        query = query.where(Subscription.consumer_id.in_(consumer_rows.ids_of(consumer)))
    return (await session.scalars(asked.of(query))).all()


async def names_taken(
    session: AsyncSession, asked: Collection[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Which of some names their consumers (id, name) have given to live subscriptions."""
    place = tuple_(Subscription.consumer_id, Subscription.name)
    query = select(Subscription.consumer_id, Subscription.name).where(
        place.in_(asked), Subscription.state.in_(LIVE)
    )
    return {(consumer, name) for consumer, name in await session.execute(query)}


async def count_live(session: AsyncSession, consumers: Collection[str]) -> Counter[str]:
    """How many live subscriptions consumers (ids) have."""
    rows = await session.execute(
        # As the index of live names has it: a parameter would hide it from the planner.
        text(
            "SELECT consumer_id, count(*) FROM subscriptions WHERE consumer_id = ANY(:ids)"
            " AND state NOT IN ('draining', 'closed') GROUP BY consumer_id"
        ),
        {"ids": list(consumers)},
    )
    return Counter({row[0]: row[1] for row in rows})


async def live_among(
    session: AsyncSession,
    *,
    consumers: Collection[str],
    views: Collection[str],
    limit: int,
) -> Sequence[Subscription]:
    """Up to `limit` live subscriptions of some consumers or to some views, by id."""
    query = (
        select(Subscription)
        .where(
            Subscription.state.in_(LIVE),
            or_(Subscription.consumer_id.in_(consumers), Subscription.view_id.in_(views)),
        )
        .options(joinedload(Subscription.view), joinedload(Subscription.consumer))
        .order_by(Subscription.id)
        .limit(limit)
    )
    return (await session.scalars(query)).all()


async def asked_by(session: AsyncSession, of: ColumnElement[bool]) -> list[Asked]:
    """What some live subscriptions ask for, and the views that they have.

    Args:
        of: a condition on them.
    """
    query = select(
        Subscription.id,
        Subscription.name,
        Subscription.consumer_id,
        Subscription.view_id,
        cast(Subscription.spec, Text),
        Subscription.conflate_ms,
    ).where(of, Subscription.state.in_(LIVE))
    return [Asked(*row) for row in await session.execute(query)]


async def receiving(session: AsyncSession) -> Sequence[Consumer]:
    """The consumers that have a live subscription, or may read on one that was left."""
    left = exists().where(Move.subscription_id == Subscription.id, Move.ended_at.is_(None))
    of_consumer = Subscription.consumer_id == Consumer.id
    query = select(Consumer).where(
        exists().where(of_consumer, or_(Subscription.state.in_(LIVE), left))
    )
    return (await session.scalars(query)).all()


async def locked(session: AsyncSession, ids: Collection[str]) -> Sequence[Subscription]:
    """Some subscriptions, whose open moves are locked: rows are locked."""
    query = (
        select(Subscription)
        .where(Subscription.id.in_(ids))
        .order_by(Subscription.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return (await session.scalars(query)).all()


async def pending(
    session: AsyncSession, *, above: int = -1, upto: int, limit: int | None = None
) -> Sequence[Subscription]:
    """Pending subscriptions that wait for one of some plans, the oldest `limit` of them."""
    query = (
        select(Subscription)
        .where(
            text("subscriptions.state = 'pending'"),
            Subscription.plan > above,
            Subscription.plan <= upto,
        )
        .options(joinedload(Subscription.view))
        .order_by(Subscription.created_at)
        .limit(limit)
    )
    return (await session.scalars(query)).all()


async def cursors_left(session: AsyncSession, plan: int, *, limit: int) -> Sequence[Subscription]:
    """Closed subscriptions without which a plan was made and whose Pulsar subscription remains."""
    query = (
        select(Subscription)
        .where(
            Subscription.state == State.CLOSED,
            Subscription.cursor_removed_at.is_(None),
            Subscription.closed_in_plan <= plan,
        )
        .options(joinedload(Subscription.view))
        .limit(limit)
    )
    return (await session.scalars(query)).all()


async def readers(
    session: AsyncSession, states: Collection[State], *, after: str, limit: int
) -> dict[str, tuple[str, dict[str, str]]]:
    """Of the next views after `after` that have subscriptions in these states, these.

    Returns:
        View id -> its topic, and the ids of the subscriptions by those of their Pulsar ones.
    """
    views = (
        select(Subscription.view_id)
        .where(Subscription.state.in_(states), Subscription.view_id > after)
        .distinct()
        .order_by(Subscription.view_id)
        .limit(limit)
    )
    query = (
        select(Subscription.view_id, ViewRow.topic, Subscription.id, Subscription.consumer_id)
        .join(ViewRow, Subscription.view_id == ViewRow.id)
        .where(Subscription.state.in_(states), Subscription.view_id.in_(views))
        .order_by(Subscription.view_id, Subscription.id)
    )
    found: dict[str, tuple[str, dict[str, str]]] = {}
    for view, topic, key, consumer in await session.execute(query):
        found.setdefault(view, (topic, {}))[1][pulsar_name(consumer, key)] = key
    return found


async def grants(
    session: AsyncSession,
    states: Collection[State],
    *,
    among: Collection[tuple[str, str]] | None = None,
) -> set[tuple[str, str]]:
    """Topic and consumer of every subscription in these states; `among`: only such of these."""
    query = (
        select(ViewRow.topic, Subscription.consumer_id)
        .join(ViewRow, Subscription.view_id == ViewRow.id)
        .where(Subscription.state.in_(states))
        .distinct()
    )
    if among is not None:
        query = query.where(tuple_(ViewRow.topic, Subscription.consumer_id).in_(among))
    return {(topic, consumer) for topic, consumer in await session.execute(query)}


async def still_routed(session: AsyncSession, ids: Collection[str]) -> Sequence[Subscription]:
    """Those of some subscriptions that are active or paused at this moment, with their views."""
    query = (
        select(Subscription)
        .where(Subscription.id.in_(ids), Subscription.state.in_(ROUTED))
        .options(joinedload(Subscription.view), joinedload(Subscription.consumer))
    )
    return (await session.scalars(query)).all()


async def activate(session: AsyncSession, ids: Collection[str], number: int) -> None:
    """Make those pending subscriptions active, or paused, that wait for a plan up to this number.

    Those closed in the meantime stay closed, and those moved to a later plan pending.
    """
    if ids:
        waiting = (
            (Subscription.state == State.PENDING)
            & (Subscription.plan <= number)
            & Subscription.id.in_(ids)
        )
        # In the order of all who lock several: none waits for another in a circle.
        locked = select(Subscription.id).where(waiting).order_by(Subscription.id).with_for_update()
        made = await session.scalars(
            update(Subscription)
            .where(Subscription.id.in_((await session.scalars(locked)).all()))
            .values(
                state=case(
                    (Subscription.paused_at.is_(None), State.ACTIVE.value),
                    else_=State.PAUSED.value,
                ),
                activated_at=func.clock_timestamp(),
                updated_at=func.clock_timestamp(),
                version=Subscription.version + 1,
            )
            .returning(Subscription)
            .execution_options(synchronize_session=False, populate_existing=True)
        )
        await note(session, EventType.SUBSCRIPTION_ACTIVE, made.all())


async def to_tell(session: AsyncSession) -> Sequence[Subscription]:
    """Subscriptions of whose pause, or its end, the broker was not told yet; rows are locked."""
    paused = Subscription.paused_at.is_not(None) & (Subscription.state != State.CLOSED)
    query = (
        select(Subscription)
        .where(text(PAUSED), paused != Subscription.blocked)
        .order_by(Subscription.id)
        .limit(1000)
        .with_for_update()
    )
    return (await session.scalars(query)).all()


async def blocked(session: AsyncSession) -> Sequence[str]:
    """The names of the Pulsar subscriptions that nobody may read under."""
    rows = await session.scalars(select(Subscription).where(text(PAUSED), Subscription.blocked))
    return [row.subscription_name for row in rows]


async def mark_cursors_removed(session: AsyncSession, ids: Collection[str]) -> None:
    """Note that the Pulsar subscriptions of closed ones are gone."""
    if ids:
        await session.execute(
            update(Subscription)
            .where(Subscription.id.in_(ids))
            .values(cursor_removed_at=func.clock_timestamp())
            .execution_options(synchronize_session=False)
        )


async def count_by_state(session: AsyncSession) -> dict[str, int]:
    """How many subscriptions are in each state."""
    rows = await session.execute(
        select(Subscription.state, func.count()).group_by(Subscription.state)
    )
    counts = dict.fromkeys(State, 0)
    counts.update({State(state): count for state, count in rows})
    return {state.value: count for state, count in counts.items()}


async def note(
    session: AsyncSession,
    what: EventType,
    rows: Iterable[Subscription],
    kept: Mapping[str, Any] | None = None,
    *,
    each: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **told: Any,
) -> None:
    """Tell of subscriptions as they are now: an event and an entry of the history of each.

    Args:
        kept: what only the history says: it may be large.
        each: by id the same of single ones.
        told: what both say.
    """
    rows = list(rows)
    changes = []
    for row in rows:
        changes.append(change_of(what, row, told))
        session.add(
            HistoryEntry(
                subscription_id=row.id,
                type=what.value,
                state=str(row.state),
                plan=row.closed_in_plan or row.plan,
                correlation_id=current_request_id(),
                data={**told, **(kept or {}), **each.get(row.id, {})},
            )
        )
    await record(session, *changes)


def change_of(what: EventType, row: Subscription, told: Mapping[str, Any]) -> Change:
    """The event that tells of a subscription as it is now."""
    plan = row.closed_in_plan or row.plan
    data = {"name": row.name, "state": str(row.state), "plan": plan, **told}
    return Change(what, data, consumer=row.consumer_id, subscription=row.id)


async def pause(session: AsyncSession, row: Subscription, **told: Any) -> bool:
    """Let a live subscription receive nothing, unless it is paused; whether. Its row is locked."""
    if row.paused_at is not None or row.state in ENDED:
        return False
    row.paused_at = func.clock_timestamp()
    if row.state == State.ACTIVE:
        row.become(State.PAUSED)
    touch(row)
    await note(session, EventType.SUBSCRIPTION_PAUSED, [row], **told)
    return True


async def limited(
    session: AsyncSession, *, after: tuple[str, str], limit: int
) -> Sequence[Subscription]:
    """Active subscriptions whose backlog has limits, or had, by view and id, from behind one."""
    place = tuple_(Subscription.view_id, Subscription.id)
    query = _limited().where(place > after).order_by(Subscription.view_id, Subscription.id)
    return (await session.scalars(query.limit(limit))).all()


async def limited_still(session: AsyncSession, key: str) -> Subscription | None:
    """The subscription, locked, if it is active and has limits; None while somebody has it."""
    query = _limited().where(Subscription.id == key)
    return await session.scalar(query.with_for_update(of=Subscription, skip_locked=True))


async def caught_up(session: AsyncSession, key: str, resumed_at: datetime) -> None:
    """Note that a backlog was within its limits since its subscription resumed."""
    await session.execute(
        update(Subscription)
        .where(Subscription.id == key, Subscription.resumed_at == resumed_at)
        .values(resumed_at=None)
        .execution_options(synchronize_session=False)
    )


def _limited() -> Select[Subscription]:
    query = select(Subscription).where(text(LIMITED), Subscription.state == State.ACTIVE)
    return query.options(joinedload(Subscription.view), selectinload(Subscription.draining))


async def newest_of(session: AsyncSession, key: str, what: EventType) -> HistoryEntry | None:
    """The newest entry of a kind in a subscription's history."""
    query = (
        select(HistoryEntry)
        .where(HistoryEntry.subscription_id == key, HistoryEntry.type == what.value)
        .order_by(HistoryEntry.id.desc())
        .limit(1)
    )
    return await session.scalar(query)


async def history(
    session: AsyncSession, key: str, *, before: int | None, limit: int
) -> Sequence[HistoryEntry]:
    """Up to `limit` entries of a subscription's history below a number, newest first."""
    query = (
        select(HistoryEntry)
        .where(HistoryEntry.subscription_id == key)
        .order_by(HistoryEntry.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(HistoryEntry.id < before)
    return (await session.scalars(query)).all()
