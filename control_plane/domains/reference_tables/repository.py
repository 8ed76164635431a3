"""Queries on reference tables; each runs in the transaction of the session given."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Sequence

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from control_plane.domains.reference_tables.models import (
    ReferenceTableRow,
    ReferenceTableVersion,
)
from control_plane.errors import NotFoundError
from control_plane.listing import Listing, PageRequest, equal
from control_plane.requests import current_request_id
from control_plane.rows import find_row
from marketdata.reference import ReferenceTable, TableContent, TableRef, TableSpec
from marketdata.reference.table import read_content

LISTING = Listing(ReferenceTableRow, "created_at", "name")
_NEWEST = (ReferenceTableVersion.table_id == ReferenceTableRow.id) & (
    ReferenceTableVersion.version == ReferenceTableRow.version
)

KEPT_VERSIONS = 4
"""So many newest versions of each table keep their content: a rollback may need it."""
MOST_READY = 4
"""Tables that a process keeps ready to join: half a million rows take a while and much memory."""
_ready: dict[str, ReferenceTable] = {}
"""By digest, in the order in which they were asked for."""


def new_table_id() -> str:
    """A fresh id; all have one length."""
    return "r" + secrets.token_hex(8)


async def find(session: AsyncSession, key: str, *, for_update: bool = False) -> ReferenceTableRow:
    """The table with this id or name, its row locked on request; NotFoundError for none."""
    return await find_row(
        session, ReferenceTableRow, key, kind="reference table", for_update=for_update
    )


async def newest(
    session: AsyncSession, row: ReferenceTableRow, *, with_content: bool = False
) -> ReferenceTableVersion:
    """The newest version of a table."""
    query = select(ReferenceTableVersion).where(
        ReferenceTableVersion.table_id == row.id, ReferenceTableVersion.version == row.version
    )
    if with_content:
        query = query.options(undefer(ReferenceTableVersion.content))
    found = await session.scalar(query)
    if found is None:
        raise NotFoundError("version", row.version)
    return found


async def page(
    session: AsyncSession, asked: PageRequest, *, name: str | None
) -> Sequence[tuple[ReferenceTableRow, ReferenceTableVersion]]:
    """The tables of a page, with their newest version."""
    query = (
        select(ReferenceTableRow, ReferenceTableVersion)
        .join(ReferenceTableVersion, _NEWEST)
        .where(ReferenceTableRow.deleted_at.is_(None), *equal((ReferenceTableRow.name, name)))
    )
    return [(row, version) for row, version in await session.execute(asked.of(query))]


async def history(
    session: AsyncSession, table_id: str, *, before: int | None, limit: int
) -> Sequence[ReferenceTableVersion]:
    """Up to `limit` versions of a table below a number, newest first."""
    query = (
        select(ReferenceTableVersion)
        .where(ReferenceTableVersion.table_id == table_id)
        .order_by(ReferenceTableVersion.version.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(ReferenceTableVersion.version < before)
    return (await session.scalars(query)).all()


async def last_with(
    session: AsyncSession, row: ReferenceTableRow, digest: str
) -> ReferenceTableVersion | None:
    """The last version of a table that had some content, with it; None where it is not kept."""
    query = (
        select(ReferenceTableVersion)
        .where(
            ReferenceTableVersion.table_id == row.id,
            ReferenceTableVersion.digest == digest,
            ReferenceTableVersion.content.is_not(None),
        )
        .order_by(ReferenceTableVersion.version.desc())
        .limit(1)
        .options(undefer(ReferenceTableVersion.content))
    )
    return await session.scalar(query)


async def add_version(
    session: AsyncSession, row: ReferenceTableRow, content: TableContent
) -> ReferenceTableVersion:
    """Write what a table holds by its row's version, whose plan is to be told by the caller."""
    made = ReferenceTableVersion(
        table_id=row.id,
        version=row.version,
        digest=content.digest,
        rows=content.rows,
        size_bytes=len(content.data),
        pieces=content.pieces,
        content=content.data,
        plan=0,
        correlation_id=current_request_id(),
    )
    session.add(made)
    await session.flush()
    return made


async def specs(session: AsyncSession, names: Collection[str]) -> dict[str, TableSpec]:
    """What those of the named tables that exist declare."""
    query = select(ReferenceTableRow).where(
        ReferenceTableRow.deleted_at.is_(None), ReferenceTableRow.name.in_(names)
    )
    return {row.name: row.spec for row in await session.scalars(query)} if names else {}


async def refs(session: AsyncSession, names: Collection[str]) -> dict[str, TableRef]:
    """The newest versions of those of the named tables that exist."""
    if not names:
        return {}
    rows = await session.execute(
        select(ReferenceTableRow.name, ReferenceTableVersion)
        .join(ReferenceTableVersion, _NEWEST)
        .where(ReferenceTableRow.deleted_at.is_(None), ReferenceTableRow.name.in_(names))
    )
    return {name: version.ref for name, version in rows}


async def contents(session: AsyncSession, digests: Collection[str]) -> dict[str, bytes]:
    """The contents with these digests, as far as they are still kept."""
    if not digests:
        return {}
    rows = await session.execute(
        select(ReferenceTableVersion.digest, ReferenceTableVersion.content).where(
            ReferenceTableVersion.digest.in_(digests), ReferenceTableVersion.content.is_not(None)
        )
    )
    return {digest: content for digest, content in rows if content is not None}


async def tables(session: AsyncSession, names: Collection[str]) -> dict[str, ReferenceTable]:
    """Those of the named tables that exist, as they are now, made ready to join."""
    found = await refs(session, names)
    wanted = {one.digest for one in found.values()}
    ready = {digest: _ready[digest] for digest in wanted & _ready.keys()}
    for digest, content in (await contents(session, wanted - ready.keys())).items():
        ready[digest] = await asyncio.to_thread(_made_ready, content)
    for digest in sorted(wanted):
        # Those asked for last stay.
        _ready.pop(digest, None)
        _ready[digest] = ready[digest]
    while len(_ready) > MOST_READY:
        del _ready[next(iter(_ready))]
    return {name: ready[one.digest] for name, one in found.items()}


def _made_ready(content: bytes) -> ReferenceTable:
    return ReferenceTable(read_content(content))


async def unpublished(session: AsyncSession, digests: Collection[str]) -> list[str]:
    """Those of the digests that do not stand on the topic."""
    there = await session.scalars(
        select(ReferenceTableVersion.digest).where(
            ReferenceTableVersion.digest.in_(digests),
            ReferenceTableVersion.published_at.is_not(None),
        )
    )
    return sorted(set(digests) - set(there))


async def mark_published(session: AsyncSession, digests: Collection[str]) -> None:
    """Note that contents stand on the topic."""
    await session.execute(
        update(ReferenceTableVersion)
        .where(
            ReferenceTableVersion.digest.in_(digests), ReferenceTableVersion.content.is_not(None)
        )
        .values(published_at=func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )


async def on_topic(session: AsyncSession) -> dict[str, ReferenceTableVersion]:
    """Digest -> a version of what stands on the topic, as far as is known here."""
    rows = await session.scalars(
        select(ReferenceTableVersion).where(ReferenceTableVersion.published_at.is_not(None))
    )
    return {row.digest: row for row in rows}


async def mark_withdrawn(session: AsyncSession, digests: Collection[str]) -> None:
    """Note that contents stand on the topic no more."""
    await session.execute(
        update(ReferenceTableVersion)
        .where(ReferenceTableVersion.digest.in_(digests))
        .values(published_at=None)
        .execution_options(synchronize_session=False)
    )


async def forget_contents(session: AsyncSession) -> None:
    """Drop what versions held that are neither on the topic nor among the newest of a table."""
    is_kept = (
        select(ReferenceTableRow.id)
        .where(
            ReferenceTableVersion.table_id == ReferenceTableRow.id,
            ReferenceTableVersion.version > ReferenceTableRow.version - KEPT_VERSIONS,
            ReferenceTableRow.deleted_at.is_(None),
        )
        .correlate(ReferenceTableVersion)
        .exists()
    )
    await session.execute(
        update(ReferenceTableVersion)
        .where(
            ReferenceTableVersion.content.is_not(None),
            ReferenceTableVersion.published_at.is_(None),
            ~is_kept,
        )
        .values(content=None)
        .execution_options(synchronize_session=False)
    )
