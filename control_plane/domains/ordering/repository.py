"""Queries on findings, gaps, counts and positions; each runs in the session's transaction.

Rows to store travel as one JSON document a statement: a single parameter, whatever their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    JSON,
    ColumnElement,
    Text,
    case,
    cast,
    column,
    delete,
    func,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.selectable import TableValuedAlias

from control_plane.domains.events.repository import Change, record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.ordering.intake import (
    FindingRow,
    Intake,
    Place,
    closings,
    tally,
    told_of_gaps,
)
from control_plane.domains.ordering.models import (
    Finding,
    FindingCount,
    Gap,
    GapState,
    Poison,
    StoredPosition,
)
from control_plane.errors import NotFoundError
from control_plane.listing import Listing, PageRequest

GAPS = Listing(Gap, "opened_at")
FINDINGS = Listing(Finding, "detected_at")

DELETE_CHUNK = 5_000
MAX_SOURCES = 50
OTHER_SOURCES = "(other)"


class Progress(NamedTuple):
    """Messages that are stored together: the newest of them and how many they are."""

    partition: int
    place: Place
    published_at: datetime
    messages: int


class SourceCount(NamedTuple):
    """Findings of one source, type and outcome since the first one ever."""

    source: str
    type: str
    outcome: str
    findings: int


class OpenGaps(NamedTuple):
    """The open gaps of one source, and how many events they miss together."""

    source: str
    gaps: int
    missing: int


class Totals(NamedTuple):
    """Everything that is counted in the database."""

    counts: Sequence[SourceCount]
    open_gaps: Sequence[OpenGaps]
    positions: Sequence[StoredPosition]


async def advance(
    session: AsyncSession, progress: Progress, expected: Place | None, intake: Intake
) -> bool:
    """Move a partition's position; False when it is not at `expected`: store nothing then.

    The position's row stays locked until the transaction ends, so that of several control planes
    one stores at a time.
    """
    new: dict[str, Any] = {**progress.place._asdict(), "published_at": progress.published_at}
    added = {"messages": progress.messages, "poison": len(intake.poison)}
    # Rather fail and try again than wait without an end for a control plane that hangs; and one
    # that hangs here may not keep the position locked.
    await session.execute(
        text(
            "SELECT set_config('lock_timeout', '10s', true),"
            " set_config('idle_in_transaction_session_timeout', '10s', true)"
        )
    )
    row = StoredPosition
    if expected is None:
        first = (
            insert(row)
            .values(partition=progress.partition, **new, **added)
            .on_conflict_do_nothing()
            .returning(row.partition)
        )
        return await session.scalar(first) is not None
    raised = {name: getattr(row, name) + count for name, count in added.items()}
    further = (
        update(row)
        .where(
            row.partition == progress.partition,
            tuple_(row.ledger_id, row.entry_id, row.batch_index) == tuple(expected),
        )
        .values(**new, **raised)
        .returning(row.partition)
        .execution_options(synchronize_session=False)
    )
    return await session.scalar(further) is not None


async def store(session: AsyncSession, intake: Intake) -> None:
    """Store findings that are not stored yet, bring their gaps and the counts up to date."""
    if intake.poison:
        statement = insert(Poison).on_conflict_do_nothing()
        await session.execute(statement, [asdict(row) for row in intake.poison])
    if not intake.findings:
        return
    new = set(
        await session.scalars(
            _insert_findings(intake.findings).on_conflict_do_nothing().returning(Finding.id)
        )
    )
    fresh = []
    for row in intake.findings:
        if row.id in new:
            fresh.append(row)
            new.discard(row.id)  # an id that stands twice among them counts once
    opened = [row for row in fresh if row.type == "gap_opened" and row.gap_id]
    last_closings = closings(fresh)
    await _open_gaps(session, opened)
    await _close_gaps(session, last_closings)
    await _count(session, fresh)
    closed = [row for row in last_closings if row.closes]
    await record(
        session,
        *(
            Change(what, data)
            for what, rows in ((EventType.GAPS_OPENED, opened), (EventType.GAPS_CLOSED, closed))
            for data in told_of_gaps(rows)
        ),
    )


async def position(session: AsyncSession, partition: int) -> StoredPosition | None:
    """Up to where a partition is stored; None when nothing is."""
    return await session.get(StoredPosition, partition)


async def find_gap(session: AsyncSession, key: str, *, for_update: bool = False) -> Gap:
    """The gap with this id; NotFoundError for none."""
    query = select(Gap).where(Gap.id == key)
    if for_update:
        query = query.with_for_update()
    row = await session.scalar(query)
    if row is None:
        raise NotFoundError("gap", key, hint="closed ones are deleted after a while")
    return row


async def closings_of(session: AsyncSession, gap_id: str) -> Sequence[tuple[int, int]]:
    """The ranges of a gap that came, as far as their findings are still kept."""
    rows = await session.execute(
        select(Finding.first, Finding.last).where(
            Finding.gap_id == gap_id, Finding.gap_id != "", Finding.type == "gap_closed"
        )
    )
    return [(first, last) for first, last in rows]


async def page_of_gaps(
    session: AsyncSession, asked: PageRequest, conditions: Sequence[ColumnElement[bool]]
) -> Sequence[Gap]:
    """The gaps of a page."""
    return (await session.scalars(asked.of(select(Gap).where(*conditions)))).all()


async def page_of_findings(
    session: AsyncSession, asked: PageRequest, conditions: Sequence[ColumnElement[bool]]
) -> Sequence[Finding]:
    """The findings of a page."""
    return (await session.scalars(asked.of(select(Finding).where(*conditions)))).all()


async def count_open(session: AsyncSession, instrument: str) -> int:
    """How many gaps of an instrument are open."""
    query = select(func.count()).where(Gap.instrument == instrument, Gap.state == GapState.OPEN)
    return int(await session.scalar(query) or 0)


async def totals(session: AsyncSession) -> Totals:
    """What `/metrics` tells; sources beyond the first `MAX_SOURCES` are told together."""
    known = (
        select(FindingCount.source)
        .group_by(FindingCount.source)
        .order_by(func.min(FindingCount.first_at), FindingCount.source)
        .limit(MAX_SOURCES)
    )
    label = case((FindingCount.source.in_(known), FindingCount.source), else_=OTHER_SOURCES)
    count = FindingCount
    counted = await session.execute(
        select(label.label("label"), count.type, count.outcome, func.sum(count.findings))
        .group_by(text("label"), count.type, count.outcome)
        .order_by(text("label"), count.type, count.outcome)
    )
    of_gap = case((Gap.source.in_(known), Gap.source), else_=OTHER_SOURCES)
    still_open = await session.execute(
        select(of_gap.label("label"), func.count(), func.sum(Gap.remaining))
        .where(Gap.state == GapState.OPEN)
        .group_by(text("label"))
        .order_by(text("label"))
    )
    positions = await session.scalars(select(StoredPosition).order_by(StoredPosition.partition))
    return Totals(
        [SourceCount(row[0], row[1], row[2], int(row[3])) for row in counted],
        [OpenGaps(row[0], row[1], int(row[2])) for row in still_open],
        positions.all(),
    )


async def delete_old(session: AsyncSession, *, days: int) -> int:
    """Delete some of what is older than some days; gives how many rows went, 0 at the end.

    Open gaps stay, and so do the counts.
    """
    cutoff = func.now() - func.make_interval(0, 0, 0, days)
    gone = 0
    for row, key, condition in (
        (Finding, Finding.id, Finding.detected_at < cutoff),
        (Gap, Gap.id, (Gap.state == GapState.CLOSED) & (Gap.closed_at < cutoff)),
        (Poison, Poison.id, Poison.seen_at < cutoff),
    ):
        chunk = select(key).where(condition).limit(DELETE_CHUNK)
        statement = delete(row).where(key.in_(chunk)).returning(key)
        statement = statement.execution_options(synchronize_session=False)
        gone += len((await session.scalars(statement)).all())
    return gone


async def _open_gaps(session: AsyncSession, openings: Sequence[FindingRow]) -> None:
    if not openings:
        return
    rows = _recordset(openings)
    given = rows.c
    taken = {
        "id": given.id,
        "partition": given.partition,
        "position": given.position,
        "instrument": given.instrument,
        "source": given.source,
        "first": given.first,
        "last": given.last,
        "missing": given.events,
        "remaining": given.events,
        "sequence": given.sequence,
        "epoch": given.epoch,
        "ts_event": given.ts_event,
        "opened_at": given.detected_at,
    }
    statement = insert(Gap).from_select(list(taken), select(*taken.values()).select_from(rows))
    await session.execute(statement.on_conflict_do_nothing())


async def _close_gaps(session: AsyncSession, last_closings: Sequence[FindingRow]) -> None:
    if not last_closings:
        return
    # One statement can update a gap once; the last closing speaks for those before it.
    given = _recordset(last_closings).c
    closes = (given.remaining == 0) | (given.closed_by == "reset")
    statement = (
        update(Gap)
        .where(Gap.id == given.gap_id)
        .values(
            remaining=given.remaining,
            state=case((closes, GapState.CLOSED.value), else_=GapState.OPEN.value),
            closed_at=case((closes, given.detected_at)),
            closed_by=case((closes, given.closed_by)),
        )
        .execution_options(synchronize_session=False)
    )
    await session.execute(statement)


async def _count(session: AsyncSession, fresh: Sequence[FindingRow]) -> None:
    if not fresh:
        return
    added = insert(FindingCount)
    statement = added.on_conflict_do_update(
        index_elements=[FindingCount.source, FindingCount.type, FindingCount.outcome],
        set_={"findings": FindingCount.findings + added.excluded.findings},
    )
    await session.execute(statement, tally(fresh))


def _insert_findings(findings: Sequence[FindingRow]) -> Insert:
    rows = _recordset(findings)
    names = FindingRow.__struct_fields__
    return insert(Finding).from_select(names, select(*(rows.c[name] for name in names)))


def _recordset(findings: Sequence[FindingRow]) -> TableValuedAlias:
    """Findings as a table, `new`, with the columns of `ordering_findings`."""
    columns = [column(c.name, c.type) for c in Finding.__table__.columns]
    document = literal(msgspec.json.encode(findings).decode(), Text())
    return (
        func.json_to_recordset(cast(document, JSON()))
        .table_valued(*columns, name="new")
        .render_derived(name="new", with_types=True)
    )
