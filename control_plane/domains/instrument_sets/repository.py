"""Queries on instrument sets; each runs in the transaction of the session given."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.instrument_sets.models import InstrumentSet, InstrumentSetVersion
from control_plane.errors import NotFoundError
from control_plane.listing import Listing, PageRequest, equal
from control_plane.requests import current_request_id
from control_plane.rows import find_row

LISTING = Listing(InstrumentSet, "created_at", "name")


def new_set_id() -> str:
    """A fresh id; all have one length."""
    return "i" + secrets.token_hex(8)


async def find(session: AsyncSession, key: str, *, for_update: bool = False) -> InstrumentSet:
    """The set with this id or name, its row locked on request; NotFoundError for none."""
    return await find_row(session, InstrumentSet, key, kind="instrument set", for_update=for_update)


async def version(session: AsyncSession, set_id: str, number: int) -> InstrumentSetVersion:
    """One version of a set; NotFoundError for none."""
    row = await session.get(InstrumentSetVersion, (set_id, number))
    if row is None:
        raise NotFoundError("version", number)
    return row


async def add_version(
    session: AsyncSession,
    row: InstrumentSet,
    *,
    before: Iterable[str],
    after: Iterable[str],
    description: str,
) -> InstrumentSetVersion:
    """Write what a set holds by its row's version, whose plan is to be told by the caller."""
    old, new = set(before), set(after)
    made = InstrumentSetVersion(
        set_id=row.id,
        version=row.version,
        description=description,
        instruments=sorted(new),
        added=sorted(new - old),
        removed=sorted(old - new),
        plan=0,
        correlation_id=current_request_id(),
    )
    session.add(made)
    await session.flush()
    return made


async def last_named(session: AsyncSession, name: str) -> InstrumentSet | None:
    """The set that has a name, or the last one that had it; its row is locked. None for none."""
    query = (
        select(InstrumentSet)
        .where(InstrumentSet.name == name)
        .order_by(InstrumentSet.deleted_at.desc().nulls_first())
        .limit(1)
        .with_for_update()
    )
    return await session.scalar(query)


async def page(
    session: AsyncSession, asked: PageRequest, *, name: str | None
) -> Sequence[tuple[InstrumentSet, InstrumentSetVersion]]:
    """The sets of a page, with their newest version."""
    query = (
        select(InstrumentSet, InstrumentSetVersion)
        .join(
            InstrumentSetVersion,
            (InstrumentSetVersion.set_id == InstrumentSet.id)
            & (InstrumentSetVersion.version == InstrumentSet.version),
        )
        .where(InstrumentSet.deleted_at.is_(None), *equal((InstrumentSet.name, name)))
    )
    return [(row, newest) for row, newest in await session.execute(asked.of(query))]


async def history(
    session: AsyncSession, set_id: str, *, before: int | None, limit: int
) -> Sequence[InstrumentSetVersion]:
    """Up to `limit` versions of a set below a number, newest first."""
    query = (
        select(InstrumentSetVersion)
        .where(InstrumentSetVersion.set_id == set_id)
        .order_by(InstrumentSetVersion.version.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(InstrumentSetVersion.version < before)
    return (await session.scalars(query)).all()


async def newest_versions(
    session: AsyncSession, names: Collection[str]
) -> dict[str, InstrumentSetVersion]:
    """The newest versions of those of the named sets that exist."""
    if not names:
        return {}
    rows = await session.execute(
        select(InstrumentSet.name, InstrumentSetVersion)
        .join(
            InstrumentSetVersion,
            (InstrumentSetVersion.set_id == InstrumentSet.id)
            & (InstrumentSetVersion.version == InstrumentSet.version),
        )
        .where(InstrumentSet.deleted_at.is_(None), InstrumentSet.name.in_(names))
    )
    return dict(rows.all())


async def contents(session: AsyncSession, names: Collection[str]) -> dict[str, list[str]]:
    """What those of the named sets that exist hold now."""
    newest = await newest_versions(session, names)
    return {name: list(version.instruments) for name, version in newest.items()}
