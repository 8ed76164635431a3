"""Queries on alerts; each runs in the transaction of the session given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.alerts.models import AlertKind, AlertRow
from control_plane.domains.events.repository import Change, record


async def settle(
    session: AsyncSession,
    kind: AlertKind,
    standing: Mapping[str, Change],
    *,
    among: Collection[str] | None = None,
) -> list[str]:
    """Make the alerts of a kind those that stand, and tell those that begin.

    Args:
        standing: what each is about -> the event that tells it.
        among: what was looked at; alerts about anything else stay. None: everything was.

    Returns:
        What begins.
    """
    over = delete(AlertRow).where(AlertRow.kind == kind, AlertRow.about.not_in(standing))
    if among is not None:
        over = over.where(AlertRow.about.in_(among))
    await session.execute(over)
    if not standing:
        return []
    rows = [{"kind": kind.value, "about": about} for about in standing]
    new = insert(AlertRow).values(rows).on_conflict_do_nothing().returning(AlertRow.about)
    begins = list((await session.scalars(new)).all())
    await record(session, *(standing[about] for about in begins))
    return begins


async def standing(session: AsyncSession, kind: AlertKind) -> set[str]:
    """What stands of a kind."""
    query = select(AlertRow.about).where(AlertRow.kind == kind)
    return set((await session.scalars(query)).all())


async def forget_ended(session: AsyncSession) -> None:
    """End the alerts about the consumption of subscriptions that nobody reads any more."""
    await session.execute(
        text(
            "DELETE FROM alerts AS a WHERE a.kind = :kind AND NOT EXISTS (SELECT FROM"
            " subscriptions AS s WHERE s.id = a.about AND s.state <> 'closed')"
        ),
        {"kind": AlertKind.CONSUMPTION.value},
    )


async def count_by_kind(session: AsyncSession) -> dict[str, int]:
    """How many stand of each kind."""
    counts = dict.fromkeys((kind.value for kind in AlertKind), 0)
    query = select(AlertRow.kind, func.count()).group_by(AlertRow.kind)
    rows = (await session.execute(query)).all()
    return counts | {row[0]: row[1] for row in rows}


async def expiring_tokens(session: AsyncSession) -> list[Any]:
    """The last valid token of each subject whose life is nearly over: its last tenth.

    Tokens that nobody renews are told, those that were renewed are not. `id`, `subject`, `role`,
    `expires_at`.
    """
    rows = await session.execute(
        text(
            "SELECT id, subject, role, expires_at FROM ("
            " SELECT DISTINCT ON (subject) * FROM tokens AS t WHERE expires_at > now()"
            " AND NOT EXISTS (SELECT FROM token_revocations AS r WHERE r.token_id = t.id"
            "  OR r.subject = t.subject AND t.issued_at <= r.issued_until)"
            " ORDER BY subject, expires_at DESC) AS last"
            " WHERE now() >= expires_at - (expires_at - issued_at) / 10 ORDER BY subject"
        )
    )
    return list(rows.all())
