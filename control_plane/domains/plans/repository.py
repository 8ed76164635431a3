"""Queries on plans and views; compilation of the next plan inside the caller's transaction."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import pyarrow as pa
from sqlalchemy import ColumnElement, exists, false, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from control_plane.database import Lock, lock
from control_plane.domains.events.repository import Change, record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.instrument_sets import repository as set_rows
from control_plane.domains.plans.models import PlanRow, ViewRow
from control_plane.domains.reference_tables import repository as table_rows
from control_plane.domains.subscriptions.models import LIVE, Move, Subscription
from control_plane.errors import ConflictError, NotFoundError
from control_plane.listing import Listing, PageRequest
from marketdata.plans import ViewSpec, compile_plan, encode_plan, sets_of, tables_of, view_of

ROOM_BYTES = 4 * 1024 * 1024
"""Of the 5 MiB that a message may have, compressed."""
LISTING = Listing(PlanRow, "-number", key="number")


async def newest(session: AsyncSession, *, with_document: bool = False) -> PlanRow | None:
    """The plan with the highest number."""
    query = select(PlanRow).order_by(PlanRow.number.desc()).limit(1)
    if with_document:
        query = query.options(undefer(PlanRow.document))
    return await session.scalar(query)


async def find(session: AsyncSession, number: int) -> PlanRow:
    """A plan with its document; NotFoundError for none."""
    # No `get`: it would answer with a row that the session has, without the document.
    query = select(PlanRow).where(PlanRow.number == number).options(undefer(PlanRow.document))
    row = await session.scalar(query)
    if row is None:
        raise NotFoundError("plan", number)
    return row


async def end_of(session: AsyncSession, number: int) -> datetime | None:
    """When the plan behind one was made; None for the newest."""
    query = select(PlanRow.created_at).where(PlanRow.number > number)
    return await session.scalar(query.order_by(PlanRow.number).limit(1))


async def page(session: AsyncSession, asked: PageRequest) -> Sequence[PlanRow]:
    """The plans of a page."""
    return (await session.scalars(asked.of(select(PlanRow)))).all()


async def newest_published(session: AsyncSession) -> int:
    """The number of the newest published plan; 0 before the first."""
    return int(
        await session.scalar(
            select(func.max(PlanRow.number)).where(PlanRow.published_at.is_not(None))
        )
        or 0
    )


async def ensure_view(session: AsyncSession, spec: ViewSpec) -> ViewRow:
    """The row of a view, made where there is none and no longer retired.

    Raises:
        ConflictError: another view has its name: the topic would be somebody else's.
    """
    view = view_of(spec)
    values = {"id": view.id, "topic": view.topic, "spec": spec_json(spec)}
    # The update also waits for a transaction that is removing the view's topic right now.
    statement = (
        insert(ViewRow)
        .values(**values)
        .on_conflict_do_update(index_elements=[ViewRow.id], set_={"retired_in_plan": None})
        .returning(ViewRow)
    )
    rows = await session.scalars(statement, execution_options={"populate_existing": True})
    row = rows.one()
    _require_same(row, spec)
    return row


async def joinable(
    session: AsyncSession, specs: Mapping[str, ViewSpec]
) -> tuple[dict[str, ViewRow], int]:
    """Those of some views that live subscriptions have, by id, and the newest plan, with them.

    For the others a plan has to be made, and so for all where there is none yet (0). The caller
    holds Lock.PLAN_SEQUENCE, shared or not, until its transaction ends: so long the views stay
    live.
    """
    latest = await session.scalar(select(func.max(PlanRow.number)))
    if latest is None:
        return {}, 0
    live = exists().where(Subscription.view_id == ViewRow.id, Subscription.state.in_(LIVE))
    query = select(ViewRow).where(ViewRow.id.in_(specs), live)
    found = {row.id: row for row in await session.scalars(query)}
    for key, row in found.items():
        _require_same(row, specs[key])
    return found, latest


async def views(session: AsyncSession, ids: Collection[str]) -> Sequence[ViewRow]:
    """Some views."""
    return (await session.scalars(select(ViewRow).where(ViewRow.id.in_(ids)))).all()


async def is_live(session: AsyncSession, view_id: str) -> bool:
    """Whether a live subscription points at a view."""
    return bool(
        await session.scalar(
            select(exists().where(Subscription.view_id == view_id, Subscription.state.in_(LIVE)))
        )
    )


async def live_specs(session: AsyncSession) -> list[ViewSpec]:
    """What the views are made of that a subscription has, or has left while they go on."""
    specs = await session.scalars(select(ViewRow.spec).where(_is_planned()))
    return [msgspec.convert(spec, ViewSpec) for spec in specs]


async def live_views_naming(session: AsyncSession, sets: Collection[str]) -> list[str]:
    """The ids of live views whose filters name one of some instrument sets."""
    text = ViewRow.spec["filter"].astext
    texts = (text.contains(f" IN SET '{name}'", autoescape=True) for name in sets)
    rows = await session.execute(
        select(ViewRow.id, ViewRow.spec).where(
            exists().where(Subscription.view_id == ViewRow.id, Subscription.state.in_(LIVE)),
            or_(false(), *texts),
        )
    )
    # The text may stand in a literal, too.
    naming = ((key, sets_of([msgspec.convert(spec, ViewSpec)])) for key, spec in rows)
    return [key for key, named in naming if not named.isdisjoint(sets)]


async def compile_next(
    session: AsyncSession,
    correlation_id: str,
    *,
    above: int | None = None,
    growing: bool = False,
) -> int:
    """Compile the live views with the sets and tables they name, store the plan, give its number.

    When nothing has changed since the newest plan, that one's number is given and nothing is
    stored. `above` forces a plan with a higher number than that, whatever its content. The caller
    holds Lock.PLAN_SEQUENCE, which this takes too, until its transaction ends.

    Raises:
        ConflictError: `growing`, for changes that ask for more, and the plan would be so large
            that little room is left in a message for changes that must not fail.
    """
    await lock(session, Lock.PLAN_SEQUENCE)
    specs = await live_specs(session)
    latest = await newest(session)
    number = max(latest.number if latest else 0, above or 0) + 1
    plan = compile_plan(
        number,
        specs,
        created_at_ns=time.time_ns(),
        correlation_id=correlation_id,
        sets=await set_rows.contents(session, sets_of(specs)),
        tables=await table_rows.refs(session, tables_of(specs)),
    )
    if latest is not None and above is None and latest.digest == plan.digest:
        return latest.number
    document = encode_plan(plan)
    if growing and _stored_bytes(document) > ROOM_BYTES:
        raise ConflictError(
            "The plan has no room for this: close subscriptions that nobody needs, or name many"
            " instruments by a set instead of in filters."
        )
    session.add(
        PlanRow(
            number=number,
            digest=plan.digest,
            document=document,
            view_count=len(plan.views),
            correlation_id=correlation_id,
        )
    )
    await session.flush()
    created = {"plan": number, "views": len(plan.views)}
    await record(session, Change(EventType.PLAN_CREATED, created))
    return number


async def mark_applied(session: AsyncSession, number: int, instances: int) -> None:
    """Note, once, that every distributor runs a plan or a later one."""
    first = await session.scalar(
        update(PlanRow)
        .where(PlanRow.number == number, PlanRow.applied_at.is_(None))
        .values(applied_at=func.clock_timestamp())
        .returning(PlanRow.number)
        .execution_options(synchronize_session=False)
    )
    if first is not None:
        applied = {"plan": number, "instances": instances}
        await record(session, Change(EventType.PLAN_APPLIED, applied))


async def applied_since(session: AsyncSession, number: int) -> datetime | None:
    """When every function was first seen to run a plan or a later one; None for not yet."""
    applied = select(func.min(PlanRow.applied_at)).where(PlanRow.number >= number)
    return await session.scalar(applied)


def _is_planned() -> ColumnElement[bool]:
    """Whether the next plan holds a view, as a condition on its row."""
    return or_(
        exists().where(Subscription.view_id == ViewRow.id, Subscription.state.in_(LIVE)),
        exists().where(Move.view_id == ViewRow.id, Move.goes_on),
    )


def _require_same(row: ViewRow, spec: ViewSpec) -> None:
    """Raise ConflictError unless a view of the same name is the same view."""
    there = msgspec.convert(row.spec, ViewSpec)
    # What the name is the digest of.
    named = ("filter", "transformation", "format", "delivery")
    if any(getattr(there, part) != getattr(spec, part) for part in named):
        raise ConflictError("The view cannot be made: change its filter or its columns a little.")


def _stored_bytes(document: bytes) -> int:
    """The size of a plan's message, which is compressed; at most, where it is small anyhow."""
    if len(document) <= ROOM_BYTES:
        return len(document)
    return len(pa.compress(document, codec="zstd", asbytes=True))


async def retire_views(session: AsyncSession, view_ids: Collection[str], number: int) -> None:
    """Note of those views that nobody has that a plan is the first without them."""
    await session.execute(
        update(ViewRow)
        .where(ViewRow.id.in_(view_ids), ~_is_planned())
        .values(retired_in_plan=number)
        .execution_options(synchronize_session=False)
    )


async def retired_views(session: AsyncSession, upto: int) -> Sequence[ViewRow]:
    """Views that no plan from `upto` on holds and whose topic is still there; rows are locked.

    Not those that a subscription which left them may still read.
    """
    drained = ~exists().where(Move.view_id == ViewRow.id, Move.ended_at.is_(None))
    query = (
        select(ViewRow)
        .where(ViewRow.retired_in_plan <= upto, drained)
        .order_by(ViewRow.retired_in_plan)
        .limit(100)
        .with_for_update(skip_locked=True)
    )
    return (await session.scalars(query)).all()


def spec_json(spec: ViewSpec) -> dict[str, Any]:
    """A spec as it is stored."""
    stored: dict[str, Any] = msgspec.to_builtins(spec)
    return stored
