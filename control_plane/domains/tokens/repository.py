"""Queries on tokens; each runs in the transaction of the session given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, exists, func, select, union
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.tokens.models import IssuedToken, Revocation
from control_plane.listing import Listing, PageRequest, equal
from control_plane.security.revocation import Revoked
from control_plane.security.roles import Role
from control_plane.security.tokens import LEEWAY, MAX_LIFETIME

LISTING = Listing(IssuedToken, "issued_at", "expires_at", "subject")

KEPT = timedelta(days=1)
"""How long what is over is kept; a token counts until nothing can be renewed from it any more."""
PURGED_AT_ONCE = 100


async def page(
    session: AsyncSession,
    asked: PageRequest,
    *,
    subject: str | None,
    issued_by: str | None,
    role: str | None,
) -> Sequence[IssuedToken]:
    """The tokens of a page that have not expired."""
    conditions = equal(
        (IssuedToken.subject, subject),
        (IssuedToken.issued_by, issued_by),
        (IssuedToken.role, role),
    )
    query = select(IssuedToken).where(IssuedToken.expires_at > func.now(), *conditions)
    return (await session.scalars(asked.of(query))).all()


async def find(session: AsyncSession, key: str) -> IssuedToken | None:
    """The token with this id, if it was issued over HTTP."""
    return await session.get(IssuedToken, key)


async def has_other_role(session: AsyncSession, subject: str, role: Role) -> bool:
    """Whether a token of the subject that is valid still was issued for another role."""
    other = exists().where(
        IssuedToken.subject == subject,
        IssuedToken.role != role.value,
        IssuedToken.expires_at > func.now(),
    )
    return bool(await session.scalar(select(other)))


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
    in_force = Revocation.forget_after > func.now()
    named = select(Revocation.token_id.label("id")).where(
        Revocation.token_id.is_not(None), in_force
    )
    # What was renewed meanwhile from a token of a revoked subject is revoked with it.
    of_subject = select(IssuedToken.id).join(
        Revocation,
        (IssuedToken.subject == Revocation.subject)
        & (IssuedToken.issued_at <= Revocation.issued_until),
    )
    roots = union(named, of_subject.where(in_force)).subquery()
    tree = select(roots.c.id).cte("tree", recursive=True)
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


async def purge(session: AsyncSession, *, renewal: timedelta) -> None:
    """Forget some of what ended a while ago.

    A token's row stays while what was renewed from it may live: it is what leads there.

    Args:
        renewal: for how long tokens are renewed after the first one.
    """
    for table, moment, kept in (
        (IssuedToken, IssuedToken.expires_at, KEPT + renewal),
        (Revocation, Revocation.forget_after, KEPT),
    ):
        old = (
            select(table.id)
            .where(moment < func.now() - kept)
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
