"""Queries on operations; each runs in the transaction of the session given."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.operations.models import OperationRow, OperationState
from control_plane.errors import NotFoundError
from control_plane.listing import Listing, PageRequest, equal

LISTING = Listing(OperationRow, "-created_at")
DELETE_CHUNK = 1_000


def new_id() -> str:
    """A fresh id; all have one length."""
    return "o" + secrets.token_hex(8)


async def find(session: AsyncSession, key: str) -> OperationRow:
    """The operation with this id; NotFoundError."""
    row = await session.get(OperationRow, key)
    if row is None:
        raise NotFoundError("operation", key)
    return row


async def page(
    session: AsyncSession, asked: PageRequest, *, target: str | None, state: str | None
) -> Sequence[OperationRow]:
    """The operations of a page."""
    conditions = equal((OperationRow.target, target), (OperationRow.state, state))
    return (await session.scalars(asked.of(select(OperationRow).where(*conditions)))).all()


async def due(session: AsyncSession, of: ColumnElement[bool]) -> OperationRow | None:
    """The one of these to carry out: one that was interrupted, or that has waited longest."""
    live = (OperationState.WAITING, OperationState.RUNNING)
    query = (
        select(OperationRow)
        .where(OperationRow.state.in_(live), of)
        .order_by(OperationRow.state != OperationState.RUNNING, OperationRow.created_at)
        .limit(1)
    )
    return await session.scalar(query)


async def forget(session: AsyncSession, *, days: int) -> int:
    """Delete operations that ended longer ago, the oldest first; gives how many, 0 at the end."""
    old = (
        select(OperationRow.id)
        .where(OperationRow.ended_at < func.now() - timedelta(days=days))
        .order_by(OperationRow.created_at)
        .limit(DELETE_CHUNK)
    )
    gone = await session.execute(
        delete(OperationRow).where(OperationRow.id.in_(old)).returning(OperationRow.id)
    )
    return len(gone.all())


async def tell(session: AsyncSession, key: str, progress: str) -> None:
    """Note what happened last in an operation that runs."""
    running = (OperationRow.id == key) & (OperationRow.state == OperationState.RUNNING)
    await session.execute(update(OperationRow).where(running).values(progress=progress))


async def reach(
    session: AsyncSession, key: str, place: str | None, result: dict[str, Any], progress: str
) -> None:
    """Note up to where an operation that runs is done, and with what result so far."""
    running = (OperationRow.id == key) & (OperationRow.state == OperationState.RUNNING)
    reached = {"place": place, "result": result, "progress": progress}
    await session.execute(update(OperationRow).where(running).values(reached))


async def end(
    session: AsyncSession,
    key: str,
    *,
    result: dict[str, Any] | None = None,
    problem: dict[str, Any] | None = None,
) -> OperationRow:
    """Note that an operation is done, or, with a problem, that it failed."""
    row = await find(session, key)
    row.state = (OperationState.FAILED if problem else OperationState.DONE).value
    row.result, row.problem = result, problem
    row.ended_at = func.clock_timestamp()
    await session.flush()
    return row
