"""Rules of reference tables: every change is a version, and with its plan it commits at once.

A change of a table that a live view's transformation names compiles the next plan, which names the
new version by its digest; the outbox publishes the version's content before that plan. A table that
a live view names cannot be deleted.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import pyarrow as pa
import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database, Lock, integrity_constraint, lock
from control_plane.domains.events.repository import Change, record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.reference_tables import repository
from control_plane.domains.reference_tables.models import (
    UNIQUE_NAME,
    ReferenceTableRow,
    ReferenceTableVersion,
)
from control_plane.domains.reference_tables.reading import read_rows, shown_rows
from control_plane.domains.reference_tables.schemas import (
    ColumnSpec,
    ReferenceTableCreate,
    ReferenceTableOut,
    RowOut,
    TableVersionOut,
)
from control_plane.domains.subscriptions.service import Publication
from control_plane.errors import ConflictError, FieldProblem, InvalidRequestError
from control_plane.pages import Page, check_match, decode_number
from control_plane.requests import current_request_id
from marketdata.plans import tables_of
from marketdata.reference import TableContent, TableError, TableSpec, content_of
from marketdata.reference.table import read_content, schema_of

MOST_MERGES = 5
"""So often rows are merged again with a version that came meanwhile."""

log = structlog.get_logger(__name__)


class _OvertakenError(Exception):
    """A table has changed since its rows were merged with new ones."""


class ReferenceTableService:
    """Make, describe, fill and delete reference tables."""

    def __init__(
        self, database: Database, publication: Publication, *, wait_seconds: float
    ) -> None:
        self._database = database
        self._publication = publication
        self._wait_seconds = wait_seconds

    async def create(self, data: ReferenceTableCreate) -> ReferenceTableOut:
        """Make a table without rows.

        Raises:
            InvalidRequestError: what it declares contradicts itself.
            ConflictError: the name is taken.
        """
        spec = _declared(data)
        content = content_of(spec, schema_of(spec).empty_table())
        row = ReferenceTableRow(
            id=repository.new_table_id(),
            name=data.name,
            description=data.description,
            columns=[[each.name, each.type] for each in data.columns],
            key=data.key,
            valid_from=data.valid_from,
            version=1,
        )
        try:
            async with self._database.transaction() as session:
                await lock(session, Lock.PLAN_SEQUENCE)
                session.add(row)
                await session.flush()
                await session.refresh(row)
                version = await _store(session, row, content)
                await record(session, told_of(EventType.TABLE_CREATED, row, version))
                made = _out(row, version)
        except IntegrityError as error:
            if integrity_constraint(error) == UNIQUE_NAME:
                raise ConflictError(
                    f"There is a reference table {data.name!r} already; "
                    "fill it or choose another name."
                ) from None
            raise
        log.info("reference table made", table=made.name)
        return made

    async def get(self, key: str) -> ReferenceTableOut:
        """The table with this id or name."""
        async with self._database.transaction() as session:
            row = await repository.find(session, key)
            return _out(row, await repository.newest(session, row))

    async def page(
        self, *, cursor: str | None, limit: int, sort: str | None = None, name: str | None = None
    ) -> Page[ReferenceTableOut]:
        """One page of tables."""
        asked = repository.LISTING.ask(sort, cursor, limit)
        async with self._database.transaction() as session:
            rows = await repository.page(session, asked, name=name)
        return asked.page([_out(row, version) for row, version in rows], [row for row, _ in rows])

    async def load(
        self, key: str, body: bytes, media_type: str, if_match: str | None, *, replace: bool
    ) -> ReferenceTableOut:
        """Replace the rows of a table, or add rows in the place of those with an equal key.

        What leaves the content as it is makes no version.

        Raises:
            PreconditionFailedError: If-Match does not hold.
            InvalidRequestError: the rows are refused.
            ConflictError: the plan has no room, or others change the table all the time.
        """
        async with self._database.reading() as session:
            row = await repository.find(session, key)
            check_match(if_match, row.version)
            spec = row.spec
        rows = await _refusing(read_rows, body, media_type, spec)
        if replace:
            content = await _refusing(content_of, spec, rows)
            changed = await self._change(row.id, content, if_match)
        else:
            changed = await self._add(row.id, rows, if_match)
        log.info("reference table filled", table=changed.name, version=changed.version)
        await self._publication.published(self._wait_seconds)
        return changed

    async def _add(self, key: str, rows: pa.Table, if_match: str | None) -> ReferenceTableOut:
        """Merge rows with those that are there: in a thread, before all plans have to wait."""
        for _ in range(MOST_MERGES):
            async with self._database.reading() as session:
                row = await repository.find(session, key)
                version = await repository.newest(session, row, with_content=True)
                spec, held = row.spec, version.content or b""
            content = await _refusing(_merged, spec, rows, held)
            with suppress(_OvertakenError):
                return await self._change(key, content, if_match, of=version.version)
        raise ConflictError(f"The reference table {row.name!r} is changed all the time; try again.")

    async def _change(
        self, key: str, content: TableContent, if_match: str | None, *, of: int | None = None
    ) -> ReferenceTableOut:
        """Make a version, unless the newest holds the same.

        Raises:
            _OvertakenError: the content was made of the version `of`, and that is not the newest.
        """
        async with self._database.transaction() as session:
            await lock(session, Lock.PLAN_SEQUENCE)
            row = await repository.find(session, key, for_update=True)
            check_match(if_match, row.version)
            if of not in (None, row.version):
                raise _OvertakenError  # so that the transaction leaves no Idempotency-Key
            version = await repository.newest(session, row)
            if content.digest != version.digest:
                row.version += 1
                version = await _store(session, row, content)
                await record(session, told_of(EventType.TABLE_CHANGED, row, version))
            return _out(row, version)

    async def delete(self, key: str, if_match: str | None) -> None:
        """Delete a table; ConflictError while the transformation of a live view names it."""
        async with self._database.transaction() as session:
            await lock(session, Lock.PLAN_SEQUENCE)
            row = await repository.find(session, key, for_update=True)
            check_match(if_match, row.version)
            if row.name in tables_of(await plan_rows.live_specs(session)):
                raise ConflictError(
                    f"Transformations of subscriptions name the reference table {row.name!r}; "
                    "close those subscriptions first."
                )
            row.deleted_at = datetime.now(UTC)
            deleted = {"name": row.name, "id": row.id}
            await record(session, Change(EventType.TABLE_DELETED, deleted))
        log.info("reference table deleted", table=deleted["name"])

    async def rows(self, key: str, *, cursor: str | None, limit: int) -> Page[RowOut]:
        """The rows that a table holds now, sorted by key; the cursor is how many were seen."""
        seen = decode_number(cursor, most_digits=9) if cursor is not None else 0
        async with self._database.transaction() as session:
            row = await repository.find(session, key)
            version = await repository.newest(session, row, with_content=True)
            spec, content = row.spec, version.content or b""
        shown = await asyncio.to_thread(_shown, content, spec, seen, limit)
        more = seen + limit < version.rows
        return Page([RowOut(values) for values in shown], str(seen + limit) if more else None)

    async def history(self, key: str, *, cursor: str | None, limit: int) -> Page[TableVersionOut]:
        """The changes of a table, newest first; the cursor is the last version seen."""
        before = decode_number(cursor, most_digits=9) if cursor is not None else None
        async with self._database.transaction() as session:
            row = await repository.find(session, key)
            rows = await repository.history(session, row.id, before=before, limit=limit + 1)
        return Page(
            [_version_out(each) for each in rows[:limit]],
            str(rows[limit - 1].version) if len(rows) > limit else None,
        )


def _declared(data: ReferenceTableCreate) -> TableSpec:
    types = {each.name: each.type for each in data.columns}
    problems = []
    if len(types) < len(data.columns):
        problems.append(FieldProblem("/columns", "two columns have one name"))
    problems += [
        FieldProblem("/key", f"{name!r} is no column of type text")
        for name in data.key
        if types.get(name) != "text"
    ]
    if len(set(data.key)) < len(data.key):
        problems.append(FieldProblem("/key", "a column is named twice"))
    if data.valid_from is not None and types.get(data.valid_from) != "time":
        problems.append(
            FieldProblem("/valid_from", f"{data.valid_from!r} is no column of type time")
        )
    if problems:
        raise InvalidRequestError("The table contradicts itself.", problems)
    return TableSpec(types, tuple(data.key), data.valid_from)


async def _refusing(function: Any, *arguments: Any) -> Any:
    """Run what may take a while in a thread; its TableError becomes the request's problem."""
    try:
        return await asyncio.to_thread(function, *arguments)
    except TableError as error:
        raise InvalidRequestError(str(error), [FieldProblem("", str(error))]) from error


def _merged(spec: TableSpec, rows: pa.Table, held: bytes) -> TableContent:
    return content_of(spec, rows, read_content(held))


async def _store(
    session: AsyncSession, row: ReferenceTableRow, content: TableContent
) -> ReferenceTableVersion:
    """Write the row's version, and the plan that it makes necessary."""
    version = await repository.add_version(session, row, content)
    version.plan = await plan_rows.compile_next(session, current_request_id())
    await session.flush()
    await session.refresh(version, ["created_at", "plan"])
    return version


def _shown(content: bytes, spec: TableSpec, seen: int, limit: int) -> list[dict[str, Any]]:
    return shown_rows(read_content(content).slice(seen, limit), spec)


def told_of(what: EventType, row: ReferenceTableRow, version: ReferenceTableVersion) -> Change:
    """The event of a table that is made or filled."""
    data = {
        "name": row.name,
        "id": row.id,
        "version": version.version,
        "rows": version.rows,
        "plan": version.plan,
    }
    return Change(what, data)


def _out(row: ReferenceTableRow, version: ReferenceTableVersion) -> ReferenceTableOut:
    return ReferenceTableOut(
        id=row.id,
        name=row.name,
        description=row.description,
        columns=[ColumnSpec(name, given) for name, given in row.spec.columns.items()],
        key=list(row.key),
        valid_from=row.valid_from,
        version=version.version,
        rows=version.rows,
        size_bytes=version.size_bytes,
        digest=version.digest,
        plan=version.plan,
        created_at=row.created_at,
        updated_at=version.created_at,
    )


def _version_out(version: ReferenceTableVersion) -> TableVersionOut:
    members = {name: getattr(version, name) for name in TableVersionOut.__struct_fields__}
    return msgspec.convert(members, TableVersionOut)
