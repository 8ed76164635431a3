"""Queries on tokens; each runs in the transaction of the session given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.tokens.models import IssuedToken, Revocation
from control_plane.security.revocation import Revoked
from control_plane.security.roles import Role
from control_plane.security.tokens import LEEWAY, MAX_LIFETIME

KEPT = timedelta(days=1)
PURGED_AT_ONCE = 100


async def page(
    session: AsyncSession, *, after: tuple[datetime, str] | None, limit: int, subject: str | None
) -> Sequence[IssuedToken]:
    """Up to `limit` tokens that have not expired after a place in the order (created_at, id)."""
    query = (
        select(IssuedToken)
        .where(IssuedToken.expires_at > func.now())
        .order_by(IssuedToken.created_at, IssuedToken.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(tuple_(IssuedToken.created_at, IssuedToken.id) > after)
    if subject is not None:
        query = query.where(IssuedToken.subject == subject)
    return (await session.scalars(query)).all()


async def find(session: AsyncSession, key: str) -> IssuedToken | None:
    """The token with this id, if it was issued over HTTP."""
    return await session.get(IssuedToken, key)


def revoke_token(session: AsyncSession, key: str, *, by: str) -> None:
    """Revoke a token, and so what was or will be renewed from it."""
    session.add(Revocation(token_id=key, revoked_by=by, forget_after=_no_longer_valid()))


def revoke_subject(session: AsyncSession, subject: str, *, by: str) -> datetime:
    """Revoke everything issued to a subject up to now; gives that moment.

    Tokens carry whole seconds: one that is issued within the same second is revoked too.
    """
    until = datetime.now(UTC)
    session.add(
        Revocation(
            subject=subject, issued_until=until, revoked_by=by, forget_after=_no_longer_valid()
        )
    )
    return until


async def revoked(session: AsyncSession) -> Revoked:
    """All that is revoked and might still be valid otherwise."""
    tree = (
        select(Revocation.token_id.label("id"))
        .where(Revocation.token_id.is_not(None), Revocation.forget_after > func.now())
        .cte("tree", recursive=True)
    )
    tree = tree.union(select(IssuedToken.id).join(tree, IssuedToken.renewed_from == tree.c.id))
    subjects = await session.execute(
        select(Revocation.subject, func.max(Revocation.issued_until))
        .where(Revocation.subject.is_not(None), Revocation.forget_after > func.now())
        .group_by(Revocation.subject)
    )
    return Revoked(
        frozenset((await session.scalars(select(tree.c.id))).all()),
        {subject: until for subject, until in subjects if subject and until},
    )


async def publishers(session: AsyncSession) -> set[str]:
    """The subjects of publishers' tokens that were issued over HTTP and are valid now."""
    rows = await session.scalars(
        select(IssuedToken).where(
            IssuedToken.role == Role.PUBLISHER.value, IssuedToken.expires_at > func.now()
        )
    )
    gone = await revoked(session)
    return {row.subject for row in rows if not gone.covers(row.id, row.subject, row.issued_at)}


async def purge(session: AsyncSession) -> None:
    """Forget some of what ended a while ago."""
    for table, moment in (
        (IssuedToken, IssuedToken.expires_at),
        (Revocation, Revocation.forget_after),
    ):
        old = (
            select(table.id)
            .where(moment < func.now() - KEPT)
            .limit(PURGED_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        await session.execute(
            delete(table)
            .where(table.id.in_(old.scalar_subquery()))
            .execution_options(synchronize_session=False)
        )


def _no_longer_valid() -> datetime:
    """When every token that exists now has expired."""
    return datetime.now(UTC) + MAX_LIFETIME + 2 * LEEWAY
