"""Queries on operations; each runs in the transaction of the session given."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.operations.models import OperationRow, OperationState
from control_plane.errors import NotFoundError


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
    session: AsyncSession,
    *,
    after: tuple[datetime, str] | None,
    limit: int,
    target: str | None,
    state: str | None,
) -> Sequence[OperationRow]:
    """Up to `limit` operations before a place in the order (created_at, id), newest first."""
    query = (
        select(OperationRow)
        .order_by(OperationRow.created_at.desc(), OperationRow.id.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(tuple_(OperationRow.created_at, OperationRow.id) < after)
    if target is not None:
        query = query.where(OperationRow.target == target)
    if state is not None:
        query = query.where(OperationRow.state == state)
    return (await session.scalars(query)).all()


async def due(session: AsyncSession) -> OperationRow | None:
    """The operation to carry out: one that was interrupted, or that has waited longest."""
    live = (OperationState.WAITING, OperationState.RUNNING)
    query = (
        select(OperationRow)
        .where(OperationRow.state.in_(live))
        .order_by(OperationRow.state != OperationState.RUNNING, OperationRow.created_at)
        .limit(1)
    )
    return await session.scalar(query)


async def tell(session: AsyncSession, key: str, progress: str) -> None:
    """Note what happened last in an operation that runs."""
    running = (OperationRow.id == key) & (OperationRow.state == OperationState.RUNNING)
    await session.execute(update(OperationRow).where(running).values(progress=progress))


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
