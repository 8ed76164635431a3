"""Writing, numbering, reading and forgetting events; each in the transaction of the session given.

Events are written with the change that they tell of, so that one is never without the other. The
number by which readers go on is given afterwards, by whoever looks first, to what is committed by
then (decision 41).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.events.models import EventLog, EventRow
from control_plane.domains.events.schemas import EventType
from control_plane.requests import current_request_id

CHANNEL = "dds_events"
"""What PostgreSQL notifies on when events are committed."""
NUMBERED_AT_ONCE = 5_000
DELETE_CHUNK = 5_000


class Change(msgspec.Struct, frozen=True):
    """An event to write; `consumer` and `subscription` are ids."""

    type: EventType
    data: dict[str, Any]
    consumer: str | None = None
    subscription: str | None = None


class Extent(NamedTuple):
    """Events from `forgotten` (not included) to `newest` (included) are there, and numbered.

    `more`: they were too many to number at once.
    """

    newest: int
    forgotten: int
    more: bool = False


async def record(session: AsyncSession, *changes: Change) -> None:
    """Write events; they are told when the transaction is committed, and only then."""
    if not changes:
        return
    statement = text(
        "WITH written AS (INSERT INTO events"
        " (type, consumer_id, subscription_id, data, correlation_id)"
        " SELECT type, consumer, subscription, data, :correlation_id"
        " FROM json_to_recordset(CAST(:changes AS json))"
        " AS new(type text, consumer text, subscription text, data jsonb))"
        " SELECT pg_notify(:channel, '')"
    )
    values = {
        "changes": msgspec.json.encode(changes).decode(),
        "correlation_id": current_request_id(),
        "channel": CHANNEL,
    }
    await session.execute(statement, values)


async def number(session: AsyncSession) -> Extent:
    """Number what is committed and has no number yet; gives what is there then.

    Who numbers holds the row of `event_log` until its transaction ends, and the row tells the
    newest number only then: a number that somebody sees has all lower ones before it, for ever.
    """
    row = (
        await session.execute(
            text(
                "SELECT newest, forgotten,"
                " EXISTS (SELECT FROM events WHERE number IS NULL) AS more FROM event_log"
            )
        )
    ).one()
    if not row.more:
        return Extent(row.newest, row.forgotten)
    await _patience(session)
    locked = (
        await session.execute(text("SELECT newest, forgotten FROM event_log FOR UPDATE"))
    ).one()
    # A statement of its own: what was committed while the lock was waited for is seen by it.
    numbered = (
        await session.execute(
            text(
                "WITH fresh AS (SELECT id, row_number() OVER (ORDER BY id) AS step"
                " FROM (SELECT id FROM events WHERE number IS NULL ORDER BY id LIMIT :most) AS f)"
                " UPDATE events SET number = :newest + fresh.step FROM fresh"
                " WHERE events.id = fresh.id RETURNING events.id"
            ),
            {"most": NUMBERED_AT_ONCE, "newest": locked.newest},
        )
    ).all()
    newest = locked.newest + len(numbered)
    await session.execute(text("UPDATE event_log SET newest = :newest"), {"newest": newest})
    return Extent(newest, locked.forgotten, len(numbered) == NUMBERED_AT_ONCE)


async def page(
    session: AsyncSession,
    conditions: Sequence[ColumnElement[bool]],
    *,
    after: int,
    upto: int,
    limit: int,
) -> tuple[Sequence[EventRow], int]:
    """Up to `limit` events with numbers above `after`, up to `upto`, and what is forgotten.

    Nothing is missing among them when that is not above `after`: it is read after the events.
    """
    query = (
        select(EventRow)
        .where(EventRow.number > after, EventRow.number <= upto, *conditions)
        .order_by(EventRow.number)
        .limit(limit)
    )
    rows = (await session.scalars(query)).all()
    return rows, int(await session.scalar(select(EventLog.forgotten)) or 0)


async def forget(session: AsyncSession, *, days: int, rows: int) -> None:
    """Decide which events are too old or too many; `delete` takes them away."""
    await _patience(session)
    # First, so that none is numbered between the look at the events and the change.
    await session.execute(text("SELECT FROM event_log FOR UPDATE"))
    await session.execute(
        text(
            "UPDATE event_log SET forgotten = greatest(forgotten, newest - :rows, coalesce("
            "(SELECT number FROM events WHERE number IS NOT NULL"
            " AND at >= now() - make_interval(days => :days) ORDER BY number LIMIT 1) - 1,"
            " newest))"
        ),
        {"rows": rows, "days": days},
    )


async def delete(session: AsyncSession) -> int:
    """Delete some of what is forgotten; gives how many went, 0 at the end."""
    gone = await session.execute(
        text(
            "DELETE FROM events WHERE number <= (SELECT least(forgotten,"
            " (SELECT min(number) FROM events) + :chunk) FROM event_log) RETURNING id"
        ),
        {"chunk": DELETE_CHUNK},
    )
    return len(gone.all())


async def _patience(session: AsyncSession) -> None:
    """Rather fail and try again than wait without an end for, or be, a control plane that hangs."""
    await session.execute(
        text(
            "SELECT set_config('lock_timeout', '10s', true),"
            " set_config('idle_in_transaction_session_timeout', '10s', true)"
        )
    )
