"""The beginning and the end of what carries an operation out, under a lock.

Whoever has that lock is the only one who carries out such operations. So one that it finds
`running` was left by a control plane that ended: it is begun again, and is failed after
`MOST_ATTEMPTS`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func

from control_plane.database import Database
from control_plane.domains.events.repository import Change, record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.operations import repository
from control_plane.domains.operations.models import OperationRow, OperationState

MOST_ATTEMPTS = 3
INTERRUPTED = "Interrupted"
NOT_CARRIED_OUT = "Not carried out"


async def begin(database: Database, of: ColumnElement[bool]) -> OperationRow | None:
    """The next of these, which now runs; None for none, or when it was begun too often."""
    async with database.transaction() as session:
        row = await repository.due(session, of)
        if row is None:
            return None
        if row.attempts < MOST_ATTEMPTS:
            row.attempts += 1
            row.state = OperationState.RUNNING.value
            row.started_at = func.clock_timestamp()
            await session.flush()
            return row
    detail = f"The control plane ended {row.attempts} times while it carried this out."
    await end(database, row, result=row.result, problem={"title": INTERRUPTED, "detail": detail})
    return None


async def end(
    database: Database,
    row: OperationRow,
    *,
    result: dict[str, Any] | None = None,
    problem: dict[str, str] | None = None,
) -> None:
    """Note and tell that an operation is done, or, with a problem, that it failed."""
    what = EventType.OPERATION_FAILED if problem else EventType.OPERATION_DONE
    told = {"name": row.target, "id": row.id, "kind": row.kind}
    async with database.transaction() as session:
        await repository.end(session, row.id, result=result, problem=problem)
        await record(session, Change(what, told))
