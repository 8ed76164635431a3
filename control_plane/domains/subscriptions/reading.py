"""How subscriptions are read, asked of the broker at the moment of the question."""

from __future__ import annotations

import time

from control_plane.database import Database
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.health import (
    CLOSED,
    NO_CURSOR,
    PAUSED,
    HealthOut,
    Thresholds,
    health,
    nobody,
)
from control_plane.domains.subscriptions.models import State
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
            closed, paused = row.state == State.CLOSED, row.paused_at is not None
        if closed:
            return nobody(CLOSED)
        try:
            stats = await self._admin.partitioned_stats(topic, oldest=True)
        except AdminNotFound:
            return nobody(NO_CURSOR)
        except AdminError as error:
            raise BrokerUnavailableError(f"The broker's admin API failed: {error}") from error
        cursors = {
            number: partition.subscriptions[name]
            for number, partition in stats.partitions.items()
            if name in partition.subscriptions
        }
        if not cursors:
            return nobody(NO_CURSOR)
        found = health(cursors, time.time_ns() // 1_000_000, self._thresholds)
        if paused:
            found.reason = f"{PAUSED} {found.reason}"
        return found
