"""How subscriptions are read, asked of the broker at the moment of the question."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.domains.events.schemas import EventType
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.confirming import NOBODY, UNSERVED, ConfirmedBoard
from control_plane.domains.subscriptions.conflated import hindrance
from control_plane.domains.subscriptions.health import (
    CLOSED,
    NO_CURSOR,
    PAUSED,
    PAUSED_BY_BACKLOG,
    HealthOut,
    OwnThresholds,
    Thresholds,
    WaitsForOut,
    health,
    nobody,
)
from control_plane.domains.subscriptions.models import State, Subscription
from control_plane.domains.subscriptions.schemas import OnBacklog
from control_plane.domains.subscriptions.sequences import add_sequences
from control_plane.errors import BrokerUnavailableError
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin
from marketdata.confirmed import Confirmed
from marketdata.plans import ViewSpec

LATE = "subscriptions of the workflow have more to acknowledge"
"""In place of how many, for who may not know that."""


class ReadingService:
    """Health and acknowledgement of who reads.

    `only` is the id of the one consumer of whose subscriptions the caller may know.
    """

    def __init__(
        self,
        database: Database,
        admin: PulsarAdmin,
        thresholds: Thresholds,
        confirmed: ConfirmedBoard,
    ) -> None:
        self._database = database
        self._admin = admin
        self._thresholds = thresholds
        self._confirmed = confirmed

    async def health(
        self, key: str, *, sequences: bool = False, only: str | None = None
    ) -> HealthOut:
        """How a subscription is read now; `sequences`: and up to which event.

        Raises:
            NotFoundError: there is no such subscription.
            BrokerUnavailableError: the broker cannot be asked.
        """
        async with self._database.transaction() as session:
            row = await repository.find(session, key, only=only)
            topic, name = row.view.topic, row.subscription_name
            closed, told = row.state == State.CLOSED, await _told(session, row)
            thresholds = self._thresholds.of(msgspec.convert(row.thresholds, OwnThresholds))
            follows = msgspec.convert(row.view.spec, ViewSpec).delivery.follows
        if closed:
            return nobody(CLOSED)
        try:
            stats = await self._admin.partitioned_stats(topic, oldest=True)
            cursors = stats.cursors(name)
            if not cursors:
                return nobody(NO_CURSOR)
            found = health(cursors, time.time_ns() // 1_000_000, thresholds)
            if sequences:
                await add_sequences(self._admin, topic, name, cursors, found)
        except AdminNotFound:
            return nobody(NO_CURSOR)
        except AdminError as error:
            raise BrokerUnavailableError("The broker's admin API failed.") from error
        found.reason = " ".join([*told, found.reason])
        if follows:
            found.waits_for = _waits_for(self._confirmed.of(follows), counted=only is None)
        return found


async def _told(session: AsyncSession, row: Subscription) -> list[str]:
    """What was done to a subscription that its reader has to know."""
    told = []
    if row.state == State.DRAINING and row.draining:
        until = row.draining[-1].drain_until.isoformat(timespec="seconds")
        told.append(f"The subscription is drained until {until}: nothing new comes.")
    if row.paused_at is not None:
        paused = await repository.newest_of(session, row.id, EventType.SUBSCRIPTION_PAUSED)
        by_backlog = paused is not None and paused.data.get("reason") == "backlog"
        told.append(PAUSED_BY_BACKLOG if by_backlog else PAUSED)
    told += _conflation(row)
    dropped = await repository.newest_of(session, row.id, EventType.SUBSCRIPTION_DROPPED)
    if dropped is not None:
        at = dropped.data.get("until") or dropped.at.isoformat(timespec="seconds")
        told.append(f"{dropped.data['messages']} messages of its backlog were dropped at {at}.")
    return told


def _waits_for(confirmed: Confirmed, *, counted: bool) -> WaitsForOut:
    """What a subscription waits for that follows a workflow.

    Args:
        counted: whether who asks may know how many subscriptions the workflow has.
    """
    until = datetime.fromtimestamp(confirmed.as_of_ns / 1e9, UTC) if confirmed.as_of_ns else None
    behind = max(0.0, (datetime.now(UTC) - until).total_seconds()) if until else None
    reason = confirmed.waits
    if not counted and reason not in ("", NOBODY, UNSERVED):
        reason = LATE
    return WaitsForOut(confirmed.workflow, until, behind, reason)


def _conflation(row: Subscription) -> list[str]:
    """That a subscription is conflated because of its backlog, or why it cannot be."""
    if row.conflated_since is not None:
        since = row.conflated_since.isoformat(timespec="seconds")
        return [f"It is conflated every {row.conflate_ms} ms since {since}: its backlog was large."]
    asked = msgspec.convert(row.on_backlog, OnBacklog)
    spec = msgspec.convert(row.view.spec, ViewSpec)
    found = hindrance(spec, asked.every_ms) if asked.every_ms is not None else None
    return [f"A backlog is held, not conflated: {found.detail}."] if found else []
