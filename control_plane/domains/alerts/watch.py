"""Tells what will end soon: certificates of this control plane, and tokens that nobody renewed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.domains.alerts import repository
from control_plane.domains.alerts.certificates import Certificate, Certificates
from control_plane.domains.alerts.models import AlertKind
from control_plane.domains.events.repository import Change
from control_plane.domains.events.schemas import EventType
from control_plane.security.roles import Role

LOOK_SECONDS = 60.0


class ExpiryWatch:
    """One per reconciler, which has it look."""

    def __init__(
        self,
        database: Database,
        certificates: Certificates,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._certificates = certificates
        self._clock = clock
        self._next = clock()

    async def look(self) -> None:
        """Tell what has come near its end since, once a minute.

        Raises:
            UnavailableError: the database is down.
        """
        if self._clock() < self._next:
            return
        certificates = self._ending(await asyncio.to_thread(self._certificates.read))
        async with self._database.transaction() as session:
            await self._settle(session, certificates)
            tokens = {
                row.id: Change(
                    EventType.TOKEN_EXPIRING,
                    {
                        "name": row.subject,
                        "role": row.role,
                        "id": row.id,
                        "expires_at": row.expires_at.isoformat(),
                    },
                    consumer=row.subject if row.role == Role.CONSUMER else None,
                )
                for row in await repository.expiring_tokens(session)
            }
            await repository.settle(session, AlertKind.TOKEN, tokens)
        self._next = self._clock() + LOOK_SECONDS

    async def _settle(self, session: AsyncSession, ending: dict[str, Change]) -> None:
        """What was told of a certificate that cannot be read now is not over: nobody knows."""
        there = await repository.standing(session, AlertKind.CERTIFICATE)
        unreadable = self._certificates.unreadable
        known = [about for about in there if about.partition(" ")[0] not in unreadable]
        await repository.settle(session, AlertKind.CERTIFICATE, ending, among=known)

    @staticmethod
    def _ending(found: list[Certificate]) -> dict[str, Change]:
        now = datetime.now(UTC)
        return {
            f"{each.use} {each.serial} {days}": Change(
                EventType.CERTIFICATE_EXPIRING,
                {"name": each.use, "expires_at": each.expires_at.isoformat(), "days": days},
            )
            for each in found
            if (days := each.notice(now)) is not None
        }
