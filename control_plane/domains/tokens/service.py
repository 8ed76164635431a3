"""Rules of tokens: the platform team issues them, everybody else renews only what is its own.

A token that was renewed is revoked with the one it came from, so that a stolen one leads nowhere.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import cast

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.broker_grants import PUBLISHING, BrokerGrants, publisher
from control_plane.database import Database
from control_plane.domains.consumers import repository as consumer_rows
from control_plane.domains.publishers import repository as publisher_rows
from control_plane.domains.tokens import repository
from control_plane.domains.tokens.models import IssuedToken
from control_plane.domains.tokens.schemas import (
    Issuable,
    RevokedOut,
    RevokeRequest,
    TokenCreate,
    TokenMade,
    TokenOut,
)
from control_plane.errors import (
    ConflictError,
    FieldProblem,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
)
from control_plane.pages import Page
from control_plane.pulsar_admin import AdminError
from control_plane.security.callers import Caller
from control_plane.security.keys import KeyDirectoryError
from control_plane.security.revocation import Revocations, Revoked
from control_plane.security.roles import Role
from control_plane.security.tokens import Claims, KeyRing

SHORTEST = timedelta(seconds=1)
"""No token lives shorter."""

log = structlog.get_logger(__name__)


class TokenService:
    """Issue, renew, list and revoke tokens."""

    def __init__(
        self,
        database: Database,
        ring: KeyRing | None,
        revocations: Revocations,
        grants: BrokerGrants,
        *,
        lifetime_seconds: int,
        renewal: timedelta,
    ) -> None:
        self._database = database
        self._ring = ring
        self._revocations = revocations
        self._grants = grants
        self._lifetime_seconds = lifetime_seconds
        self._renewal = renewal

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys of tokens issued here as a JSON Web Key Set."""
        return self._ring.jwks() if self._ring else {"keys": []}

    async def create(self, data: TokenCreate, caller: Caller) -> TokenMade:
        """A new token: the caller's own renewed, or one for whom the request names.

        Raises:
            ForbiddenError: only the platform team issues such a token, or the time in which the
                caller's own can be renewed is over.
            NotFoundError: there is no such consumer.
            InvalidRequestError: the request names nobody clearly, or a subject unfit for its role.
            ConflictError: the control plane has no signing keys.
        """
        if self._ring is None:
            raise ConflictError("No tokens are issued here: DDS_SIGNING_KEYS_DIR is not set.")
        lifetime = timedelta(seconds=data.lifetime_seconds or self._lifetime_seconds)
        async with self._database.transaction() as session:
            role, subject = await _wanted(session, data, caller)
            own: Claims | None = None
            if caller.role is not Role.PLATFORM or not (data.consumer or data.role):
                own = self._renewable(role, subject, caller)
                lifetime = min(lifetime, own.authenticated_at + self._renewal - datetime.now(UTC))
            token, claims = _issue(self._ring, role, subject, lifetime, own)
            session.add(
                IssuedToken(
                    id=claims.token_id,
                    subject=subject,
                    role=role.value,
                    issued_by=caller.subject,
                    renewed_from=own.token_id if own else None,
                    issued_at=claims.issued_at,
                    expires_at=claims.expires_at,
                )
            )
            await repository.purge(session, renewal=self._renewal)
        log.info("token issued", token_id=claims.token_id, subject=subject, token_role=role.value)
        if role is Role.PUBLISHER:
            await self._let_publish(subject)
        return TokenMade(
            token=token,
            id=claims.token_id,
            subject=subject,
            role=cast(Issuable, role.value),
            expires_at=claims.expires_at,
            renewable_until=claims.authenticated_at + self._renewal,
        )

    async def _let_publish(self, subject: str) -> None:
        try:
            await self._grants.give(PUBLISHING, [publisher(subject)])
        except AdminError as error:
            log.warning("the reconciler has to let it publish", subject=subject, error=str(error))

    def _renewable(self, role: Role, subject: str, caller: Caller) -> Claims:
        """What the caller's own token says; ForbiddenError when that is not to be renewed."""
        own = caller.claims
        if own is None or (role, subject) != (own.role, own.subject):
            raise ForbiddenError("Only your own token can be renewed; the platform issues others.")
        # Whom another issuer no longer knows must not go on here.
        if self._ring is None or own.issuer != self._ring.trust.issuer:
            raise ForbiddenError("This token is renewed by who issued it.")
        if own.authenticated_at + self._renewal < datetime.now(UTC) + SHORTEST:
            raise ForbiddenError("The token can no longer be renewed; ask the platform team.")
        return own

    async def page(
        self,
        *,
        cursor: str | None,
        limit: int,
        caller: Caller,
        sort: str | None = None,
        subject: str | None = None,
        issued_by: str | None = None,
    ) -> Page[TokenOut]:
        """One page of tokens that have not expired."""
        asked = repository.LISTING.ask(sort, cursor, limit)
        if caller.only_subject is not None and subject not in (None, caller.only_subject):
            return Page([], None)
        async with self._database.transaction() as session:
            rows = await repository.page(
                session,
                asked,
                subject=caller.only_subject or subject,
                issued_by=issued_by,
                role=None if caller.only_subject is None else caller.role.value,
            )
            revoked = await repository.revoked(session)
        return asked.page([_out(row, revoked) for row in rows], rows)

    async def revoke(self, key: str, caller: Caller) -> None:
        """Revoke a token and what it was renewed to; NotFoundError when it is not the caller's.

        The platform team may revoke one that is not known here: tokens are issued by command too.
        """
        async with self._database.transaction() as session:
            row = await repository.find(session, key)
            if caller.only_subject is not None and (
                row is None or (row.subject, row.role) != (caller.subject, caller.role)
            ):
                raise NotFoundError("token", key)
            repository.revoke_token(session, key, by=caller.subject)
        log.info("token revoked", token_id=key)
        await self._revocations.renew()

    async def revoke_all(self, data: RevokeRequest, caller: Caller) -> RevokedOut:
        """Revoke every token of a subject; answers when a new one can be issued.

        Raises:
            NotFoundError: the subject is not the caller's.
            ForbiddenError: it is, but somebody with another role has the same name.
        """
        if caller.only_subject not in (None, data.subject):
            raise NotFoundError("subject", data.subject)
        async with self._database.transaction() as session:
            if caller.only_subject is not None and await repository.has_other_role(
                session, data.subject, caller.role
            ):
                raise ForbiddenError("Others use the same name; revoke your tokens one by one.")
            until = repository.revoke_subject(session, data.subject, by=caller.subject)
        log.info("tokens revoked", subject=data.subject)
        await self._revocations.renew()
        # Tokens carry whole seconds: one issued within this one would be revoked too.
        await asyncio.sleep(1 - until.microsecond / 1e6)
        return RevokedOut(data.subject, until)


async def _wanted(session: AsyncSession, data: TokenCreate, caller: Caller) -> tuple[Role, str]:
    """Whom a token is for; a consumer's row stays locked, for deleting it revokes its tokens."""
    if data.consumer is not None and (data.role is not None or data.subject is not None):
        raise _refused("/consumer", "name a consumer, or role and subject, not both")
    if (data.role is None) != (data.subject is None):
        raise _refused("/role", "name both role and subject, or neither to renew your own token")
    if data.role is not None and data.subject is not None:
        if Role(data.role) is Role.PUBLISHER and caller.role is Role.PLATFORM:
            await _require_publishing(session, data.subject)
        return Role(data.role), data.subject
    if data.consumer is not None and caller.role not in (Role.PLATFORM, Role.CONSUMER):
        raise ForbiddenError("Only your own token can be renewed; the platform issues others.")
    key = data.consumer or caller.consumer
    if key is None:
        return caller.role, caller.subject
    consumer = await consumer_rows.find(session, key, only=caller.consumer, for_update=True)
    return Role.CONSUMER, consumer.id


async def _require_publishing(session: AsyncSession, subject: str) -> None:
    """Refuse a token for a publisher that is suspended; who is not registered may have one."""
    found = await publisher_rows.named(session, subject)
    if found is not None and found.suspended:
        raise ConflictError(f"The publisher {subject!r} is suspended; let it go on first.")


def _issue(
    ring: KeyRing, role: Role, subject: str, lifetime: timedelta, renewed: Claims | None
) -> tuple[str, Claims]:
    try:
        return ring.issue(
            subject=subject,
            role=role,
            lifetime=lifetime,
            authenticated_at=renewed.authenticated_at if renewed else None,
        )
    except KeyDirectoryError as error:
        raise ConflictError(str(error)) from None
    except ValueError as error:
        raise _refused("/subject", str(error)) from None


def _refused(pointer: str, detail: str) -> InvalidRequestError:
    return InvalidRequestError("No such token is issued.", [FieldProblem(pointer, detail)])


def _out(row: IssuedToken, revoked: Revoked) -> TokenOut:
    return TokenOut(
        id=row.id,
        subject=row.subject,
        role=cast(Issuable, row.role),
        issued_by=row.issued_by,
        renewed_from=row.renewed_from,
        issued_at=row.issued_at,
        expires_at=row.expires_at,
        revoked=revoked.covers(row.id, row.subject, row.issued_at),
    )
