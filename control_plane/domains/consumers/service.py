"""Rules of consumers: names are unique among those not deleted; none goes while subscribed."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog
from msgspec import UNSET
from sqlalchemy.exc import IntegrityError

from control_plane.database import Database, integrity_constraint
from control_plane.domains.consumers import repository
from control_plane.domains.consumers.models import UNIQUE_NAME, Consumer
from control_plane.domains.consumers.schemas import (
    OWN_FIELDS,
    ConsumerCreate,
    ConsumerOut,
    ConsumerUpdate,
)
from control_plane.domains.tokens.repository import revoke_subject
from control_plane.errors import ConflictError, ForbiddenError
from control_plane.pages import Page, check_match, decode_cursor, page_of

log = structlog.get_logger(__name__)


def consumer_out(row: Consumer) -> ConsumerOut:
    """A row as it travels."""
    return ConsumerOut(
        id=row.id,
        name=row.name,
        owner=row.owner,
        contact=row.contact,
        region=row.region,
        labels=row.labels,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


class ConsumerService:
    """Register, describe, change and delete consumers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, data: ConsumerCreate) -> tuple[ConsumerOut, int]:
        """Register a consumer; ConflictError when the name is taken. Gives its version too."""
        row = Consumer(
            id=repository.new_consumer_id(),
            name=data.name,
            owner=data.owner,
            contact=data.contact,
            region=data.region,
            labels=data.labels,
        )
        try:
            async with self._database.transaction() as session:
                session.add(row)
                await session.flush()
                await session.refresh(row)
        except IntegrityError as error:
            if integrity_constraint(error) == UNIQUE_NAME:
                raise ConflictError(
                    f"There is a consumer {data.name!r} already; use it or choose another name."
                ) from None
            raise
        log.info("consumer registered", consumer=row.id, name=row.name)
        return consumer_out(row), row.version

    async def get(self, key: str, *, only: str | None = None) -> tuple[ConsumerOut, int]:
        """The consumer with this id or name, and its version."""
        async with self._database.transaction() as session:
            row = await repository.find(session, key, only=only)
            return consumer_out(row), row.version

    async def page(
        self, *, cursor: str | None, limit: int, name: str | None, only: str | None = None
    ) -> Page[ConsumerOut]:
        """One page of consumers."""
        after = decode_cursor(cursor) if cursor else None
        async with self._database.transaction() as session:
            rows = await repository.page(
                session, after=after, limit=limit + 1, name=name, only=only
            )
            return page_of(
                [consumer_out(row) for row in rows], limit, [(r.created_at, r.id) for r in rows]
            )

    async def update(
        self, key: str, data: ConsumerUpdate, if_match: str | None, *, only: str | None = None
    ) -> tuple[ConsumerOut, int]:
        """Change what `data` names; PreconditionFailedError when If-Match does not hold.

        ForbiddenError when the caller is a consumer (`only`) and the field the platform team's.
        """
        async with self._database.transaction() as session:
            row = await repository.find(session, key, only=only, for_update=True)
            if only is not None:
                _require_own_fields(data)
            check_match(if_match, row.version)
            if data.owner is not UNSET:
                row.owner = data.owner
            if data.contact is not UNSET:
                row.contact = data.contact
            if data.region is not UNSET:
                row.region = data.region
            if data.labels is not UNSET:
                row.labels = data.labels
            if session.is_modified(row):
                repository.touch(row)
            await session.flush()
            await session.refresh(row)
            return consumer_out(row), row.version

    async def delete(self, key: str, if_match: str | None, *, by: str) -> None:
        """Delete a consumer and revoke its tokens.

        ConflictError while it has subscriptions that are not closed.
        """
        async with self._database.transaction() as session:
            row = await repository.find(session, key, for_update=True)
            check_match(if_match, row.version)
            if await repository.has_live_subscriptions(session, row.id):
                raise ConflictError(
                    f"Consumer {row.name!r} has subscriptions; delete those first "
                    f"(GET /v1/subscriptions?consumer={row.id})."
                )
            row.deleted_at = datetime.now(UTC)
            repository.touch(row)
            revoke_subject(session, row.id, by=by)
        log.info("consumer deleted", consumer=row.id)


def _require_own_fields(data: ConsumerUpdate) -> None:
    given = (name for name in data.__struct_fields__ if getattr(data, name) is not UNSET)
    foreign = sorted(set(given) - OWN_FIELDS)
    if foreign:
        raise ForbiddenError(f"Only the platform team changes {', '.join(foreign)}.")
