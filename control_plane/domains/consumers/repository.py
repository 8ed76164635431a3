"""Queries on consumers; each runs in the transaction of the session given."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence

from sqlalchemy import Select, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.consumers.models import Consumer
from control_plane.domains.subscriptions.models import State, Subscription
from control_plane.errors import NotFoundError
from control_plane.listing import Listing, PageRequest, equal, labelled
from control_plane.rows import find_row

LISTING = Listing(Consumer, "created_at", "name")


def new_consumer_id() -> str:
    """A fresh id. All have one length, so that none is the beginning of another."""
    return "c" + secrets.token_hex(8)


async def find(
    session: AsyncSession,
    key: str,
    *,
    only: str | None = None,
    for_update: bool = False,
    for_share: bool = False,
) -> Consumer:
    """The consumer with this id or name, its row locked on request; NotFoundError for none.

    `only` is the id of the one consumer that there is as far as the caller is concerned.
    """
    own = () if only is None else (Consumer.id == only,)
    return await find_row(
        session,
        Consumer,
        key,
        *own,
        kind="consumer",
        for_update=for_update,
        for_share=for_share,
    )


async def named(
    session: AsyncSession, keys: Collection[str], *, only: str | None, for_share: bool = False
) -> dict[str, Consumer]:
    """The consumers with these ids or names, by that, as `find` gives each; NotFoundError."""
    query = (
        select(Consumer)
        .where(
            Consumer.deleted_at.is_(None),
            or_(Consumer.id.in_(keys), Consumer.name.in_(keys)),
            *equal((Consumer.id, only)),
        )
        .order_by(Consumer.id)
    )
    if for_share:
        query = query.with_for_update(read=True)
    rows = (await session.scalars(query)).all()
    found = {row.name: row for row in rows} | {row.id: row for row in rows}
    for key in sorted(keys):
        if key not in found:
            raise NotFoundError("consumer", key)
    return {key: found[key] for key in keys}


async def page(
    session: AsyncSession,
    asked: PageRequest,
    *,
    name: str | None = None,
    region: str | None = None,
    workflow: str | None = None,
    suspended: bool | None = None,
    labels: Sequence[str] | None = None,
    only: str | None = None,
) -> Sequence[Consumer]:
    """The consumers of a page; `only` as in `find`."""
    conditions = equal(
        (Consumer.name, name),
        (Consumer.region, region),
        (Consumer.workflow, workflow),
        (Consumer.suspended, suspended),
        (Consumer.id, only),
    ) + labelled(Consumer.labels, labels)
    query = asked.of(select(Consumer).where(Consumer.deleted_at.is_(None), *conditions))
    return (await session.scalars(query)).all()


async def all_of(session: AsyncSession) -> Sequence[Consumer]:
    """Every consumer that is not deleted."""
    return (await session.scalars(select(Consumer).where(Consumer.deleted_at.is_(None)))).all()


def ids_of(key: str) -> Select[str]:
    """The ids of the consumers, deleted or not, with this id or name."""
    return select(Consumer.id).where(or_(Consumer.id == key, Consumer.name == key))


async def has_live_subscriptions(session: AsyncSession, consumer_id: str) -> bool:
    """Whether a consumer still owns a subscription that is not closed."""
    return bool(
        await session.scalar(
            select(
                exists().where(
                    Subscription.consumer_id == consumer_id, Subscription.state != State.CLOSED
                )
            )
        )
    )


async def are_entitled_by(session: AsyncSession, set_name: str) -> bool:
    """Whether the entitlements of a consumer name an instrument set."""
    names = Consumer.entitlements["instrument_sets"]
    return bool(
        await session.scalar(
            select(exists().where(Consumer.deleted_at.is_(None), names.contains([set_name])))
        )
    )
