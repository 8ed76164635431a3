"""Queries on the history of subscriptions' health; each runs in the session's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import case, func, insert, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.subscriptions.health import STATES, OwnThresholds
from control_plane.domains.subscriptions.models import HealthRow, State, Subscription

DELETE_CHUNK = 50_000
"""Rows that are deleted at most before a round, more than one round usually adds."""


async def add(session: AsyncSession, rows: Sequence[dict[str, Any]]) -> None:
    """Store what was seen at one time, in bulk."""
    await session.execute(insert(HealthRow), list(rows))


async def newest_states(session: AsyncSession, keys: Collection[str]) -> dict[str, str]:
    """The states in which some subscriptions were when they were looked at last."""
    newest = (
        select(HealthRow.state)
        .where(HealthRow.subscription_id == Subscription.id)
        .order_by(HealthRow.at.desc())
        .limit(1)
        .scalar_subquery()
    )
    rows = await session.execute(select(Subscription.id, newest).where(Subscription.id.in_(keys)))
    return {key: state for key, state in rows if state is not None}


async def own_thresholds(session: AsyncSession, views: Collection[str]) -> dict[str, OwnThresholds]:
    """The thresholds of those subscriptions to some views that have their own, by id."""
    query = select(Subscription.id, Subscription.thresholds).where(
        Subscription.view_id.in_(views),
        Subscription.state != State.CLOSED,
        text("thresholds <> '{}'::jsonb"),
    )
    rows = await session.execute(query)
    return {key: msgspec.convert(own, OwnThresholds) for key, own in rows}


async def forget(session: AsyncSession, *, days: int, rows: int) -> None:
    """Delete some of what is too old or too much, the oldest first.

    Rows have ids in the order of their times: what goes is at the beginning of the primary key.
    """
    await session.execute(
        text(
            "DELETE FROM subscription_health WHERE id < least("
            " (SELECT min(id) FROM subscription_health) + :chunk,"
            " greatest((SELECT max(id) FROM subscription_health) - :rows + 1, coalesce("
            "  (SELECT id FROM subscription_health"
            "   WHERE at >= now() - make_interval(days => :days) ORDER BY id LIMIT 1),"
            "  (SELECT max(id) + 1 FROM subscription_health))))"
        ),
        {"chunk": DELETE_CHUNK, "rows": rows, "days": days},
    )


async def points(
    session: AsyncSession, key: str, *, since: datetime, until: datetime, step: timedelta
) -> Sequence[Any]:
    """What was seen of a subscription, put together by steps from `since` on; oldest first.

    Of states the worst, of sizes the largest, of members the fewest, of rates the mean.
    """
    rank = case({state: n for n, state in enumerate(STATES)}, value=HealthRow.state)
    begin = func.date_bin(step, HealthRow.at, since)
    query = (
        select(
            begin.label("at"),
            func.count().label("samples"),
            func.max(rank).label("rank"),
            func.min(HealthRow.members).label("members"),
            func.max(HealthRow.backlog_messages).label("backlog_messages"),
            func.max(HealthRow.backlog_bytes).label("backlog_bytes"),
            func.max(HealthRow.backlog_age_seconds).label("backlog_age_seconds"),
            func.avg(HealthRow.rate).label("rate"),
            func.avg(HealthRow.redelivery_rate).label("redelivery_rate"),
            func.max(HealthRow.last_acknowledged_at).label("last_acknowledged_at"),
        )
        .where(HealthRow.subscription_id == key, HealthRow.at >= since, HealthRow.at < until)
        .group_by(literal_column("1"))
        .order_by(literal_column("1"))
    )
    return (await session.execute(query)).all()
