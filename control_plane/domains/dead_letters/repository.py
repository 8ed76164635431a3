"""Queries on resends; each runs in the transaction of the session given."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.dead_letters.models import DeadLetterResend


async def claim(session: AsyncSession, letter_id: str, topic: str) -> bool:
    """Enter a resend; False when there is one. Waits for another transaction that enters it."""
    query = (
        insert(DeadLetterResend)
        .values(letter_id=letter_id, topic=topic)
        .on_conflict_do_nothing()
        .returning(DeadLetterResend.letter_id)
    )
    return await session.scalar(query) is not None


async def resend_of(session: AsyncSession, letter_id: str) -> DeadLetterResend | None:
    """The resend of a letter; None before the first."""
    return await session.get(DeadLetterResend, letter_id)


async def resends_of(
    session: AsyncSession, letter_ids: Collection[str]
) -> dict[str, DeadLetterResend]:
    """The resends of letters, by the letter's id."""
    query = select(DeadLetterResend).where(DeadLetterResend.letter_id.in_(letter_ids))
    return {row.letter_id: row for row in await session.scalars(query)}
