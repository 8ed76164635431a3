"""Queries on the code of functions; each runs in the transaction of the session given."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.functions.models import FunctionCode


async def digests(session: AsyncSession) -> dict[str, str]:
    """The digest of the code that is kept, by function."""
    rows = await session.execute(select(FunctionCode.function, FunctionCode.digest))
    return {row.function: row.digest for row in rows}


async def keep(session: AsyncSession, function: str, digest: str, content: bytes) -> None:
    """Keep a function's code in place of what was kept before."""
    values = {"digest": digest, "content": content}
    await session.execute(
        insert(FunctionCode)
        .values(function=function, **values)
        .on_conflict_do_update(
            index_elements=[FunctionCode.function],
            set_={**values, "seen_at": func.clock_timestamp()},
        )
    )


async def kept(session: AsyncSession, function: str) -> FunctionCode | None:
    """A function's code; None for one that was never seen deployed."""
    return await session.get(FunctionCode, function)
