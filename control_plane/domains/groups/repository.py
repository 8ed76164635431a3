"""Queries on groups; each runs in the transaction of the session given."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import delete, exists, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from control_plane.domains.consumers import repository as consumer_rows
from control_plane.domains.groups.membership import Departed, Member
from control_plane.domains.groups.models import GroupRow
from control_plane.domains.plans.models import ViewRow
from control_plane.domains.subscriptions.models import IS_OPEN, READ, State, Subscription
from control_plane.listing import Listing, PageRequest

LISTING = Listing(Subscription, "created_at")

_EMPTY: list[Any] = []


async def read_views(session: AsyncSession, *, after: str, limit: int) -> Sequence[ViewRow]:
    """Views that somebody reads, or may again, by id, from behind one."""
    read = exists().where(Subscription.view_id == ViewRow.id, Subscription.state.in_(READ))
    query = select(ViewRow).where(ViewRow.id > after, read).order_by(ViewRow.id).limit(limit)
    return (await session.scalars(query)).all()


async def occupied(session: AsyncSession, views: Collection[str]) -> dict[str, GroupRow]:
    """Those groups of some views that had members when they were last seen, by subscription."""
    query = (
        select(GroupRow)
        .join(Subscription, Subscription.id == GroupRow.subscription_id)
        .where(Subscription.view_id.in_(views), GroupRow.members != _EMPTY)
    )
    return {row.subscription_id: row for row in await session.scalars(query)}


async def still_of(
    session: AsyncSession, view: str, ids: Collection[str]
) -> Sequence[tuple[Subscription, GroupRow | None]]:
    """Those of some subscriptions that have a view at this moment, with their groups."""
    query = (
        select(Subscription, GroupRow)
        .outerjoin(GroupRow, GroupRow.subscription_id == Subscription.id)
        .where(
            Subscription.id.in_(ids),
            Subscription.view_id == view,
            Subscription.state.in_(READ),
        )
        .order_by(Subscription.id)
    )
    return [(row, group) for row, group in await session.execute(query)]


async def keep(
    session: AsyncSession, key: str, members: Sequence[Member], departed: Sequence[Departed]
) -> None:
    """Keep who reads under a subscription, and who did, in place of what was kept before."""
    values = {
        "members": msgspec.to_builtins(members),
        "departed": msgspec.to_builtins(departed),
        "changed_at": func.clock_timestamp(),
    }
    await session.execute(
        insert(GroupRow)
        .values(subscription_id=key, **values)
        .on_conflict_do_update(index_elements=[GroupRow.subscription_id], set_=values)
    )


async def forget_closed(session: AsyncSession) -> None:
    """Delete the groups of subscriptions that are closed."""
    closed = exists().where(
        Subscription.id == GroupRow.subscription_id, Subscription.state == State.CLOSED
    )
    await session.execute(delete(GroupRow).where(closed))


async def of(session: AsyncSession, key: str) -> GroupRow | None:
    """The group of a subscription; None before a member was seen."""
    return await session.get(GroupRow, key)


async def page(
    session: AsyncSession,
    asked: PageRequest,
    *,
    consumer: str | None,
    name: str | None,
    occupied: bool | None,
    only: str | None,
) -> Sequence[tuple[Subscription, GroupRow | None]]:
    """The subscriptions of a page that are not closed, with their groups.

    `occupied`: only such that had members when they were last seen, or none.
    `only` is the id of the one consumer whose subscriptions the caller may know of.
    """
    query = (
        select(Subscription, GroupRow)
        .outerjoin(GroupRow, GroupRow.subscription_id == Subscription.id)
        .where(text(IS_OPEN))
        .options(joinedload(Subscription.consumer))
    )
    if consumer is not None:
        query = query.where(Subscription.consumer_id.in_(consumer_rows.ids_of(consumer)))
    if name is not None:
        query = query.where(func.coalesce(Subscription.group, Subscription.name) == name)
    if occupied is not None:
        empty = func.jsonb_build_array()
        there = func.coalesce(GroupRow.members, empty) != empty
        query = query.where(there if occupied else ~there)
    if only is not None:
        query = query.where(Subscription.consumer_id == only)
    return [(row, group) for row, group in await session.execute(asked.of(query))]
