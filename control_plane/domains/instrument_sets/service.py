"""Rules of instrument sets: every change is a version, and with its plan it commits at once.

A change of a set that a live view's filter names compiles the next plan, which carries what the
sets hold: the functions switch to it between two frames, and no subscription is touched. A set
that a live view names cannot be deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import structlog
from msgspec import UNSET
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database, Lock, integrity_constraint, lock
from control_plane.domains.consumers import repository as consumer_rows
from control_plane.domains.events.repository import Change, record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.instrument_sets import repository
from control_plane.domains.instrument_sets.models import (
    UNIQUE_NAME,
    InstrumentSet,
    InstrumentSetVersion,
)
from control_plane.domains.instrument_sets.schemas import (
    InstrumentSetCreate,
    InstrumentSetOut,
    InstrumentSetSummary,
    InstrumentSetUpdate,
    VersionOut,
    VersionSummary,
)
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.rules import repository as rule_rows
from control_plane.domains.subscriptions.service import Publication
from control_plane.errors import ConflictError
from control_plane.pages import Page, check_match, decode_number
from control_plane.requests import current_request_id
from marketdata.plans import sets_of

log = structlog.get_logger(__name__)


class InstrumentSetService:
    """Make, describe, change and delete instrument sets."""

    def __init__(
        self, database: Database, publication: Publication, *, wait_seconds: float
    ) -> None:
        self._database = database
        self._publication = publication
        self._wait_seconds = wait_seconds

    async def create(self, data: InstrumentSetCreate) -> InstrumentSetOut:
        """Make a set; ConflictError when the name is taken."""
        row = InstrumentSet(id=repository.new_set_id(), name=data.name, version=1)
        try:
            async with self._database.transaction() as session:
                await lock(session, Lock.PLAN_SEQUENCE)
                session.add(row)
                await session.flush()
                await session.refresh(row)
                newest = await self._store(
                    session, row, before=(), after=data.instruments, description=data.description
                )
                await record(session, told_of(EventType.SET_CREATED, row, newest))
        except IntegrityError as error:
            if integrity_constraint(error) == UNIQUE_NAME:
                raise ConflictError(
                    f"There is an instrument set {data.name!r} already; "
                    "change it or choose another name."
                ) from None
            raise
        log.info("instrument set made", set=row.name, instruments=len(newest.instruments))
        return _out(row, newest)

    async def get(self, key: str) -> InstrumentSetOut:
        """The set with this id or name."""
        async with self._database.transaction() as session:
            row = await repository.find(session, key)
            return _out(row, await repository.version(session, row.id, row.version))

    async def page(
        self, *, cursor: str | None, limit: int, sort: str | None = None, name: str | None = None
    ) -> Page[InstrumentSetSummary]:
        """One page of sets, without what they hold."""
        asked = repository.LISTING.ask(sort, cursor, limit)
        async with self._database.transaction() as session:
            rows = await repository.page(session, asked, name=name)
        return asked.page([_summary(row, newest) for row, newest in rows], [row for row, _ in rows])

    async def update(
        self, key: str, data: InstrumentSetUpdate, if_match: str | None
    ) -> InstrumentSetOut:
        """Change what `data` names; a change that changes nothing makes no version.

        Raises:
            PreconditionFailedError: If-Match does not hold.
            InvalidRequestError: the set would grow beyond what a set may hold.
        """
        async with self._database.transaction() as session:
            await lock(session, Lock.PLAN_SEQUENCE)
            row = await repository.find(session, key, for_update=True)
            check_match(if_match, row.version)
            newest = await repository.version(session, row.id, row.version)
            after = data.applied_to(newest.instruments)
            description = newest.description if data.description is UNSET else data.description
            if after != set(newest.instruments) or description != newest.description:
                row.version += 1
                newest = await self._store(
                    session,
                    row,
                    before=newest.instruments,
                    after=after,
                    description=description,
                )
                await record(session, told_of(EventType.SET_CHANGED, row, newest))
        log.info("instrument set changed", set=row.name, version=row.version, plan=newest.plan)
        await self._publication.published(self._wait_seconds)
        return _out(row, newest)

    async def delete(self, key: str, if_match: str | None) -> None:
        """Delete a set; ConflictError while a live view, entitlements or rules name it."""
        async with self._database.transaction() as session:
            await lock(session, Lock.PLAN_SEQUENCE)
            row = await repository.find(session, key, for_update=True)
            check_match(if_match, row.version)
            if row.name in sets_of(await plan_rows.live_specs(session)):
                raise ConflictError(
                    f"Filters of subscriptions name the instrument set {row.name!r}; "
                    "close those subscriptions first."
                )
            if await consumer_rows.are_entitled_by(session, row.name):
                raise ConflictError(
                    f"Entitlements of consumers name the instrument set {row.name!r}; "
                    "change those first."
                )
            if await rule_rows.are_naming(session, row.name):
                raise ConflictError(
                    f"Routing rules name the instrument set {row.name!r}; change those first."
                )
            row.deleted_at = datetime.now(UTC)
            deleted = {"name": row.name, "id": row.id}
            await record(session, Change(EventType.SET_DELETED, deleted))
        log.info("instrument set deleted", set=row.name)

    async def history(self, key: str, *, cursor: str | None, limit: int) -> Page[VersionSummary]:
        """The changes of a set, newest first; the cursor is the last version seen."""
        before = decode_number(cursor, most_digits=9) if cursor is not None else None
        async with self._database.transaction() as session:
            row = await repository.find(session, key)
            rows = await repository.history(session, row.id, before=before, limit=limit + 1)
        return Page(
            [VersionSummary(**_change(each)) for each in rows[:limit]],
            str(rows[limit - 1].version) if len(rows) > limit else None,
        )

    async def version(self, key: str, number: int) -> VersionOut:
        """One change of a set, and what the set held after it."""
        async with self._database.transaction() as session:
            row = await repository.find(session, key)
            found = await repository.version(session, row.id, number)
        return VersionOut(instruments=list(found.instruments), **_change(found))

    @staticmethod
    async def _store(
        session: AsyncSession,
        row: InstrumentSet,
        *,
        before: Iterable[str],
        after: Iterable[str],
        description: str,
    ) -> InstrumentSetVersion:
        """Write the row's version, and the plan that it makes necessary."""
        newest = await repository.add_version(
            session, row, before=before, after=after, description=description
        )
        newest.plan = await plan_rows.compile_next(
            session, current_request_id(), growing=len(newest.added) > len(newest.removed)
        )
        await session.flush()
        await session.refresh(newest)
        return newest


def told_of(what: EventType, row: InstrumentSet, newest: InstrumentSetVersion) -> Change:
    """The event of a set that is made or changed."""
    data = {
        "name": row.name,
        "id": row.id,
        "version": newest.version,
        "instruments": len(newest.instruments),
        "plan": newest.plan,
    }
    return Change(what, data)


def _summary(row: InstrumentSet, newest: InstrumentSetVersion) -> InstrumentSetSummary:
    return InstrumentSetSummary(**_fields(row, newest))


def _out(row: InstrumentSet, newest: InstrumentSetVersion) -> InstrumentSetOut:
    return InstrumentSetOut(instruments=list(newest.instruments), **_fields(row, newest))


def _fields(row: InstrumentSet, newest: InstrumentSetVersion) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "description": newest.description,
        "version": row.version,
        "instrument_count": len(newest.instruments),
        "plan": newest.plan,
        "created_at": row.created_at,
        "updated_at": newest.created_at,
    }


def _change(row: InstrumentSetVersion) -> dict[str, Any]:
    return {
        "version": row.version,
        "description": row.description,
        "instrument_count": len(row.instruments),
        "added": list(row.added),
        "removed": list(row.removed),
        "plan": row.plan,
        "correlation_id": row.correlation_id,
        "created_at": row.created_at,
    }
