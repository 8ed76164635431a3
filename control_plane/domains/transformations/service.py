"""Rules of shared transformations: a version never changes, and stays while somebody refers to it.

A subscription takes a version's transformation over when it is made. So plans and functions know
nothing of names, and views are shared between those who refer to a version and those who spell it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
import structlog

from control_plane.database import Database, Lock, lock
from control_plane.domains.reference_tables import repository as table_rows
from control_plane.domains.subscriptions.view_check import checked_transformation, named_tables
from control_plane.domains.transformations import repository
from control_plane.domains.transformations.models import SharedTransformation
from control_plane.domains.transformations.schemas import TransformationCreate, TransformationOut
from control_plane.errors import ConflictError
from control_plane.pages import Page
from control_plane.requests import current_request_id
from marketdata.transformations import Transformation

log = structlog.get_logger(__name__)


class TransformationService:
    """Make, describe and delete versions of shared transformations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, data: TransformationCreate) -> TransformationOut:
        """Make the next version of a name.

        Raises:
            InvalidRequestError: the transformation is refused, as in a subscription.
        """
        named = named_tables(data.transformation)
        async with self._database.transaction() as session:
            tables = await table_rows.specs(session, named)
            transformation = await asyncio.to_thread(
                checked_transformation, data.transformation, tables
            )
            # Versions of a name are numbered one after the other.
            await lock(session, Lock.PLAN_SEQUENCE)
            row = SharedTransformation(
                id=repository.new_transformation_id(),
                name=data.name,
                version=await repository.next_version(session, data.name),
                description=data.description,
                transformation=msgspec.to_builtins(transformation),
                correlation_id=current_request_id(),
            )
            session.add(row)
            await session.flush()
            await session.refresh(row)
            made = _out(row)
        log.info("transformation made", transformation=made.reference)
        return made

    async def get(self, key: str) -> TransformationOut:
        """The version with this id or reference."""
        async with self._database.transaction() as session:
            return _out(await repository.find(session, key))

    async def page(
        self, *, cursor: str | None, limit: int, sort: str | None = None, name: str | None = None
    ) -> Page[TransformationOut]:
        """One page of versions."""
        asked = repository.LISTING.ask(sort, cursor, limit)
        async with self._database.transaction() as session:
            rows = await repository.page(session, asked, name=name)
        return asked.page([_out(row) for row in rows], rows)

    async def delete(self, key: str) -> None:
        """Delete a version; ConflictError while a live subscription refers to it."""
        async with self._database.transaction() as session:
            # Whoever makes a subscription holds it, too, and looks whether the version is there.
            await lock(session, Lock.PLAN_SEQUENCE)
            row = await repository.find(session, key)
            if await repository.is_used(session, row.id):
                raise ConflictError(
                    f"Subscriptions refer to the transformation {row.reference!r}; "
                    "close those subscriptions first."
                )
            row.deleted_at = datetime.now(UTC)
        log.info("transformation deleted", transformation=row.reference)


def _out(row: SharedTransformation) -> TransformationOut:
    return TransformationOut(
        id=row.id,
        name=row.name,
        version=row.version,
        reference=row.reference,
        description=row.description,
        transformation=msgspec.convert(row.transformation, Transformation),
        correlation_id=row.correlation_id,
        created_at=row.created_at,
    )
