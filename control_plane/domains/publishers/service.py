"""Rules of publishers: names and sources are of one publisher; who is suspended may not publish.

What a publisher is registered for is told, and its sources decide what routing rules take for its
region's. The broker lets a publisher write while it has a token; it does not look into what it
writes, and nobody who reads its frames can know who wrote them (decision 58).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import structlog
from msgspec import UNSET
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.broker_grants import BrokerGrants
from control_plane.broker_grants import publisher as grant_of
from control_plane.database import Database, Lock, integrity_constraint, lock
from control_plane.domains.events.repository import Change, record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.publishers import repository
from control_plane.domains.publishers.models import UNIQUE_NAME, Publisher
from control_plane.domains.publishers.schemas import (
    ORIGIN_FIELDS,
    PublisherCreate,
    PublisherOut,
    PublisherUpdate,
)
from control_plane.domains.rules import repository as rule_rows
from control_plane.domains.rules.following import follow_policy
from control_plane.domains.rules.policy import Policy
from control_plane.domains.subscriptions.service import Publication
from control_plane.domains.tokens.repository import revoke_subject
from control_plane.errors import ConflictError, FieldProblem, InvalidRequestError
from control_plane.pages import Page, check_match
from control_plane.pulsar_admin import AdminError
from control_plane.rows import touch
from control_plane.security.revocation import Revocations
from control_plane.security.roles import Role, fits

log = structlog.get_logger(__name__)


class PublisherService:
    """Register, describe, change and delete publishers."""

    def __init__(
        self,
        database: Database,
        publication: Publication,
        revocations: Revocations,
        grants: BrokerGrants,
        *,
        drain_seconds: float,
        wait_seconds: float,
    ) -> None:
        self._database = database
        self._publication = publication
        self._revocations = revocations
        self._grants = grants
        self._drain_seconds = drain_seconds
        self._wait_seconds = wait_seconds

    async def create(self, data: PublisherCreate) -> tuple[PublisherOut, int]:
        """Register a publisher; gives its version too.

        Raises:
            InvalidRequestError: nobody can publish under the name.
            ConflictError: the name is taken, or a source another publisher's.
        """
        if not fits(Role.PUBLISHER, data.name):
            detail = "no publisher can have a token with this name"
            raise InvalidRequestError(f"Refused: {detail}.", [FieldProblem("/name", detail)])
        row = Publisher(id=repository.new_publisher_id())
        for name in data.__struct_fields__:
            _set(row, name, getattr(data, name))
        try:
            async with self._database.transaction() as session:
                await lock(session, Lock.PLAN_SEQUENCE)
                await _require_own(session, row)
                before = await rule_rows.policy(session)
                session.add(row)
                await self._follow(session, before)
                await record(session, Change(EventType.PUBLISHER_CREATED, {"name": row.name}))
                await session.refresh(row)
        except IntegrityError as error:
            if integrity_constraint(error) == UNIQUE_NAME:
                raise ConflictError(
                    f"There is a publisher {data.name!r} already; choose another name."
                ) from None
            raise
        log.info("publisher registered", publisher=row.id, name=row.name)
        await self._publication.published(self._wait_seconds)
        return publisher_out(row), row.version

    async def get(self, key: str) -> tuple[PublisherOut, int]:
        """The publisher with this id or name, and its version."""
        async with self._database.transaction() as session:
            row = await repository.find(session, key)
            return publisher_out(row), row.version

    async def page(
        self,
        *,
        cursor: str | None,
        limit: int,
        sort: str | None = None,
        name: str | None = None,
        region: str | None = None,
        suspended: bool | None = None,
        labels: Sequence[str] | None = None,
    ) -> Page[PublisherOut]:
        """One page of publishers."""
        asked = repository.LISTING.ask(sort, cursor, limit)
        async with self._database.transaction() as session:
            rows = await repository.page(
                session, asked, name=name, region=region, suspended=suspended, labels=labels
            )
        return asked.page([publisher_out(row) for row in rows], rows)

    async def update(
        self, key: str, data: PublisherUpdate, if_match: str | None, *, by: str
    ) -> tuple[PublisherOut, int]:
        """Change what `data` names; gives the new version too.

        Suspending waits for no plan that is being made: that may take minutes.

        Raises:
            PreconditionFailedError: If-Match does not hold.
            ConflictError: a source is another publisher's.
        """
        async with self._database.transaction() as session:
            before = None
            if any(getattr(data, name) is not UNSET for name in ORIGIN_FIELDS):
                await lock(session, Lock.PLAN_SEQUENCE)
                before = await rule_rows.policy(session)
            row = await repository.find(session, key, for_update=True)
            check_match(if_match, row.version)
            fields = {name: getattr(row, name) for name in data.__struct_fields__}
            for name in data.__struct_fields__:
                if getattr(data, name) is not UNSET:
                    _set(row, name, getattr(data, name))
            changed = [name for name, value in fields.items() if getattr(row, name) != value]
            if changed:
                touch(row)
                if before is not None:
                    await _require_own(session, row)
                    await self._follow(session, before)
                if "suspended" in changed and row.suspended:
                    revoke_subject(session, row.name, by=by)
                told = {"name": row.name, "changed": changed}
                await record(session, Change(EventType.PUBLISHER_CHANGED, told))
                await session.refresh(row)
        if "suspended" in changed and row.suspended:
            await self._end(row.name)
        await self._publication.published(self._wait_seconds)
        return publisher_out(row), row.version

    async def delete(self, key: str, if_match: str | None, *, by: str) -> None:
        """Delete a publisher and revoke its tokens; what it published stays.

        ConflictError while routing rules go by its region: they would let go what they keep there.
        """
        async with self._database.transaction() as session:
            await lock(session, Lock.PLAN_SEQUENCE)
            row = await repository.find(session, key, for_update=True)
            check_match(if_match, row.version)
            before = await rule_rows.policy(session)
            named = next((rule for rule in before.rules if row.region in rule.regions), None)
            if named is not None and row.sources:
                raise ConflictError(
                    f"The routing rule {named.name!r} goes by the region of origin {row.region!r}:"
                    " change that, or give the publisher another region first."
                )
            row.deleted_at = datetime.now(UTC)
            touch(row)
            await self._follow(session, before)
            revoke_subject(session, row.name, by=by)
            await record(session, Change(EventType.PUBLISHER_DELETED, {"name": row.name}))
        log.info("publisher deleted", publisher=row.id)
        await self._end(row.name)
        await self._publication.published(self._wait_seconds)

    async def _follow(self, session: AsyncSession, before: Policy) -> None:
        """Let subscriptions follow what rules say by the publishers as they are now."""
        await session.flush()
        after = await rule_rows.policy(session)
        await follow_policy(session, before, after, drain_seconds=self._drain_seconds)

    async def _end(self, name: str) -> None:
        """Let a publisher write no more, now; the reconciler does what fails here."""
        await self._revocations.renew()
        try:
            await self._grants.take([grant_of(name)])
        except AdminError as error:
            log.warning("the reconciler has to stop it", publisher=name, error=str(error))


def publisher_out(row: Publisher) -> PublisherOut:
    """A row as it travels."""
    return PublisherOut(**{name: getattr(row, name) for name in PublisherOut.__struct_fields__})


def _set(row: Publisher, name: str, value: object) -> None:
    setattr(row, name, sorted(set(value)) if isinstance(value, tuple) else value)


async def _require_own(session: AsyncSession, row: Publisher) -> None:
    """Refuse sources that another publisher has."""
    for source, owner in await repository.owners(session, row.sources, but=row.id):
        raise ConflictError(f"The source {source!r} is the publisher {owner!r}'s.")
