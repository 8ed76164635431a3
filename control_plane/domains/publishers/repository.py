"""Queries on publishers; each runs in the transaction of the session given."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.publishers.models import Publisher
from control_plane.listing import Listing, PageRequest, equal, labelled
from control_plane.rows import find_row

LISTING = Listing(Publisher, "created_at", "name")

_LIVE = Publisher.deleted_at.is_(None)


def new_publisher_id() -> str:
    """A fresh id; all have one length."""
    return "p" + secrets.token_hex(8)


async def find(
    session: AsyncSession, key: str, *, only: str | None = None, for_update: bool = False
) -> Publisher:
    """The publisher with this id or name, its row locked on request; NotFoundError for none.

    `only` is the name of the one publisher that there is as far as the caller is concerned.
    """
    own = () if only is None else (Publisher.name == only,)
    return await find_row(session, Publisher, key, *own, kind="publisher", for_update=for_update)


async def named(session: AsyncSession, name: str) -> Publisher | None:
    """The publisher of a name, its row locked against changes; None for none."""
    query = select(Publisher).where(_LIVE, Publisher.name == name)
    return await session.scalar(query.with_for_update(read=True))


async def page(
    session: AsyncSession,
    asked: PageRequest,
    *,
    name: str | None,
    region: str | None,
    suspended: bool | None,
    labels: Sequence[str] | None,
) -> Sequence[Publisher]:
    """The publishers of a page."""
    conditions = equal(
        (Publisher.name, name), (Publisher.region, region), (Publisher.suspended, suspended)
    )
    conditions += labelled(Publisher.labels, labels)
    query = asked.of(select(Publisher).where(_LIVE, *conditions))
    return (await session.scalars(query)).all()


async def owners(
    session: AsyncSession, sources: Collection[str], *, but: str
) -> Sequence[tuple[str, str]]:
    """Those of some sources that another publisher has, each with that one's name."""
    query = select(Publisher.sources, Publisher.name).where(
        _LIVE, Publisher.id != but, Publisher.sources.overlap(list(sources))
    )
    found = [(held, name) for held, name in await session.execute(query)]
    return sorted((source, name) for held, name in found for source in set(held) & set(sources))


async def origins(session: AsyncSession) -> dict[str, frozenset[str]]:
    """Region -> the sources of the publishers that are registered there, suspended or not."""
    query = select(Publisher.region, Publisher.sources).where(_LIVE, Publisher.region != "")
    found: dict[str, set[str]] = {}
    for region, sources in await session.execute(query):
        found.setdefault(region, set()).update(sources)
    return {region: frozenset(sources) for region, sources in found.items()}
