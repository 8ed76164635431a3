"""How subscriptions are read, asked of the broker at the moment of the question."""

from __future__ import annotations

import time

from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.domains.events.schemas import EventType
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.health import (
    CLOSED,
    NO_CURSOR,
    PAUSED,
    PAUSED_BY_BACKLOG,
    HealthOut,
    Thresholds,
    health,
    nobody,
)
from control_plane.domains.subscriptions.models import State, Subscription
from control_plane.errors import BrokerUnavailableError
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin


class ReadingService:
    """Health and acknowledgement of who reads.

    `only` is the id of the one consumer of whose subscriptions the caller may know.
    """

    def __init__(self, database: Database, admin: PulsarAdmin, thresholds: Thresholds) -> None:
        self._database = database
        self._admin = admin
        self._thresholds = thresholds

    async def health(self, key: str, *, only: str | None = None) -> HealthOut:
        """How a subscription is read now.

        Raises:
            NotFoundError: there is no such subscription.
            BrokerUnavailableError: the broker cannot be asked.
        """
        async with self._database.transaction() as session:
            row = await repository.find(session, key, only=only)
            topic, name = row.view.topic, row.subscription_name
            closed, told = row.state == State.CLOSED, await _told(session, row)
        if closed:
            return nobody(CLOSED)
        try:
            stats = await self._admin.partitioned_stats(topic, oldest=True)
        except AdminNotFound:
            return nobody(NO_CURSOR)
        except AdminError as error:
            raise BrokerUnavailableError("The broker's admin API failed.") from error
        cursors = {
            number: partition.subscriptions[name]
            for number, partition in stats.partitions.items()
            if name in partition.subscriptions
        }
        if not cursors:
            return nobody(NO_CURSOR)
        found = health(cursors, time.time_ns() // 1_000_000, self._thresholds)
        found.reason = " ".join([*told, found.reason])
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
    dropped = await repository.newest_of(session, row.id, EventType.SUBSCRIPTION_DROPPED)
    if dropped is not None:
        at = dropped.data.get("until") or dropped.at.isoformat(timespec="seconds")
        told.append(f"{dropped.data['messages']} messages of its backlog were dropped at {at}.")
    return told
