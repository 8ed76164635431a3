"""What rows of resources have in common: they are found by id or name, and have a version."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Base
from control_plane.errors import NotFoundError

R = TypeVar("R", bound=Base)


async def find_row(
    session: AsyncSession,
    model: type[R],
    key: str,
    *only: ColumnElement[bool],
    kind: str,
    for_update: bool = False,
    for_share: bool = False,
) -> R:
    """The row that is not deleted and has this id or name, an id first; locked on request.

    Args:
        model: has `id`, `name` and `deleted_at`.
        only: conditions that it has to meet, too.
        kind: what it is, for people.

    Raises:
        NotFoundError: there is none.
    """
    columns: Any = model
    query = (
        select(model)
        .where(columns.deleted_at.is_(None), or_(columns.id == key, columns.name == key), *only)
        .order_by((columns.id == key).desc())
        .limit(1)
    )
    if for_update or for_share:
        query = query.with_for_update(read=for_share)
    row = await session.scalar(query)
    if row is None:
        raise NotFoundError(kind, key)
    return row


def touch(row: Base) -> None:
    """Mark a change of a row with `version` and `updated_at`: the version, and its ETag, rises."""
    changed: Any = row
    changed.version += 1
    changed.updated_at = func.clock_timestamp()
