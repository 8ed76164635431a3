"""Queries on the audit log; each runs in the transaction of the session given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    LargeBinary,
    Text,
    bindparam,
    cast,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.acting import Actor
from control_plane.domains.audit.chain import Head, Link, seal
from control_plane.domains.audit.models import AuditEntry, AuditExport, AuditHead
from control_plane.listing import Listing, PageRequest, equal

LISTING = Listing(AuditEntry, "-id")

# Times as microseconds, JSON as PostgreSQL writes it: neither depends on a session's settings.
_VALUES = (
    cast(AuditEntry.id, Text).label("id_text"),
    cast(cast(func.extract("epoch", AuditEntry.recorded_at) * 1_000_000, BigInteger), Text).label(
        "recorded_at_us"
    ),
    AuditEntry.actor,
    AuditEntry.role,
    AuditEntry.token_id,
    AuditEntry.operation,
    AuditEntry.request_id,
    AuditEntry.address,
    AuditEntry.database_user,
    AuditEntry.action,
    AuditEntry.resource,
    AuditEntry.resource_id,
    AuditEntry.outcome,
    cast(AuditEntry.before, Text).label("before_text"),
    cast(AuditEntry.after, Text).label("after_text"),
    cast(AuditEntry.detail, Text).label("detail_text"),
)
"""What an entry says, in the order in which its digest covers it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a list is limited to; None does not limit."""

    actor: str | None = None
    operation: str | None = None
    action: str | None = None
    resource: str | None = None
    resource_id: str | None = None
    outcome: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class ExportProgress(NamedTuple):
    """Up to which place entries are exported and sealed, and of when the first is that waits."""

    exported: int
    sealed: int
    waiting_since: datetime | None


async def page(session: AsyncSession, asked: PageRequest, wanted: Wanted) -> Sequence[AuditEntry]:
    """The entries of a page."""
    limits = asdict(wanted)
    since, until = limits.pop("since"), limits.pop("until")
    fields = ((getattr(AuditEntry, name), value) for name, value in limits.items())
    query = select(AuditEntry).where(*equal(*fields))
    if since is not None:
        query = query.where(AuditEntry.recorded_at >= since)
    if until is not None:
        query = query.where(AuditEntry.recorded_at < until)
    return (await session.scalars(asked.of(query))).all()


async def add(session: AsyncSession, entries: Sequence[tuple[Actor, dict[str, Any]]]) -> None:
    """Write entries of what is no change of a row."""
    await session.execute(
        insert(AuditEntry), [{**asdict(actor), **entry} for actor, entry in entries]
    )


async def head(session: AsyncSession) -> Head:
    """The end of the chain."""
    row = (await session.execute(select(AuditHead.sequence, AuditHead.digest))).one_or_none()
    return Head() if row is None else Head(row.sequence, row.digest)


async def seal_some(session: AsyncSession, limit: int) -> tuple[int, Head]:
    """Chain up to `limit` entries that are not; the caller holds Lock.AUDIT.

    Returns:
        How many, and the head of the chain behind them.
    """
    at = await head(session)
    rows = (
        await session.execute(
            select(AuditEntry.id, *_VALUES)
            .where(AuditEntry.sequence.is_(None))
            .order_by(AuditEntry.id)
            .limit(limit)
        )
    ).all()
    if not rows:
        return 0, at
    ids, sequences, digests = [], [], []
    for entry, *values in rows:
        at = seal(at, values)
        ids.append(entry)
        sequences.append(at.sequence)
        digests.append(at.digest)
    sealed = (
        func.unnest(
            bindparam("ids", ids, ARRAY(BigInteger)),
            bindparam("sequences", sequences, ARRAY(BigInteger)),
            bindparam("digests", digests, ARRAY(LargeBinary)),
        )
        .table_valued("id", "sequence", "digest")
        .render_derived()
    )
    await session.execute(
        update(AuditEntry)
        .where(AuditEntry.id == sealed.c.id)
        .values(sequence=sealed.c.sequence, digest=sealed.c.digest)
        .execution_options(synchronize_session=False)
    )
    await session.execute(
        update(AuditHead)
        .values(sequence=at.sequence, digest=at.digest)
        .execution_options(synchronize_session=False)
    )
    return len(rows), at


async def links(session: AsyncSession, *, after: int, limit: int) -> list[Link]:
    """Up to `limit` sealed entries behind a place, in the order of the chain."""
    rows = await session.execute(
        select(AuditEntry.sequence, AuditEntry.digest, *_VALUES)
        .where(AuditEntry.sequence > after)
        .order_by(AuditEntry.sequence)
        .limit(limit)
    )
    return [Link(sequence or 0, tuple(values), digest or b"") for sequence, digest, *values in rows]


async def exported(session: AsyncSession) -> int:
    """The place up to which entries are exported; 0 for none."""
    return await session.scalar(select(AuditExport.sequence)) or 0


async def set_exported(session: AsyncSession, sequence: int) -> None:
    """Note up to which place entries are exported."""
    await session.execute(
        update(AuditExport).where(AuditExport.sequence != sequence).values(sequence=sequence)
    )


async def export_progress(session: AsyncSession) -> ExportProgress:
    """How far the export has come, and what waits for it."""
    first = select(AuditEntry.recorded_at).where(AuditEntry.sequence == AuditExport.sequence + 1)
    query = select(AuditExport.sequence, AuditHead.sequence, first.scalar_subquery())
    row = await session.execute(query.join(AuditHead, AuditExport.one == AuditHead.one))
    return ExportProgress(*row.one())


async def digest_at(session: AsyncSession, sequence: int) -> bytes | None:
    """The digest of the entry at a place; None where there is none."""
    return await session.scalar(select(AuditEntry.digest).where(AuditEntry.sequence == sequence))


async def unsealed(session: AsyncSession) -> tuple[int, datetime | None]:
    """How many entries are not sealed yet, and since when the oldest waits."""
    row = await session.execute(
        select(func.count(), func.min(AuditEntry.recorded_at)).where(AuditEntry.sequence.is_(None))
    )
    count, oldest = row.one()
    return count, oldest


async def silenced(session: AsyncSession) -> list[str]:
    """Tables on which a trigger of the log is switched off."""
    rows = await session.scalars(
        text(
            "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger"
            " WHERE tgname LIKE 'audit\\_%' AND tgenabled NOT IN ('O', 'A') ORDER BY 1"
        )
    )
    return list(rows)
