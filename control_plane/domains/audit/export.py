"""Exports the audit log: every sealed entry, in the order of the chain, to a topic as CloudEvents.

Guarantees:

- Entries of before are exported too, none is left out, and the log waits for nothing: what the
  broker does not take now is exported later, from PostgreSQL.
- One control plane exports at a time (advisory lock of a session), and the broker lets it alone
  write. The newest event on the topic says where it goes on, so an entry is there once, whenever
  the process dies. What is stored only after that was asked can be there twice, under one `id`.
- An entry that the broker refuses, as one that is too large for a message, holds up those behind
  it: the log says behind which place the export waits and why, and the metrics how many do.
- A topic that is empty gets the log from its first entry on. One whose newest event is no entry of
  this log (the database was restored, or changed by hand) is told, and gets what comes behind the
  place that PostgreSQL has: nothing is left out, and readers see where the chain divides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.broker import Broker
from control_plane.database import Database, Lock
from control_plane.domains.audit import repository
from control_plane.domains.audit.cloud_events import CONTENT_TYPE, cloud_event, link_of
from control_plane.errors import BrokerUnavailableError, UnavailableError
from control_plane.topic_writer import TopicWriter, writing
from marketdata.topics import AUDIT

AT_ONCE = 200
STANDBY_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 5.0
PROPERTIES = {"content-type": CONTENT_TYPE}

log = structlog.get_logger(__name__)


class AuditExporter:
    """One per control plane; `run` is its task. `on_divided` is called where a chain divides."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        *,
        poll_seconds: float,
        on_divided: Callable[[], None],
        topic: str = AUDIT,
    ) -> None:
        self._database = database
        self._broker = broker
        self._poll_seconds = poll_seconds
        self._on_divided = on_divided
        self._topic = topic
        self._failure: str | None = None
        self._at: int | None = None
        """The newest entry that is known to be on the topic."""

    async def run(self) -> None:
        """Export for ever; a failure is logged and tried again with a growing pause."""
        pause = self._poll_seconds
        while True:
            await asyncio.sleep(pause)
            try:
                async with self._database.held(Lock.AUDIT_EXPORT) as prove:
                    while prove is not None:
                        pause = await self._lead_while_there(prove, pause)
                        await asyncio.sleep(pause)
                        await prove()
                self._failure, pause = None, STANDBY_SECONDS
            except UnavailableError as error:
                pause = self._failed(str(error), pause)
            except Exception as error:
                log.exception("exporting the audit log failed")
                pause = self._failed(type(error).__name__, pause)

    async def _lead_while_there(self, prove: Callable[[], Awaitable[None]], pause: float) -> float:
        """Export until the broker is away, and give the pause; the lock is kept meanwhile."""
        try:
            await self._lead(prove)
        except BrokerUnavailableError as error:
            return self._failed(str(error), pause)

    async def _lead(self, prove: Callable[[], Awaitable[None]]) -> NoReturn:
        """Export what is sealed and what will be, until something fails."""
        async with writing(self._broker, self._topic) as writer:
            self._at = at = await self._place(writer)
            while True:
                await prove()
                at, more = await self.export(writer, at)
                self._at = at
                if self._failure is not None:
                    log.info("the audit log is exported again", sequence=at)
                self._failure = None
                if not more:
                    await asyncio.sleep(self._poll_seconds)

    async def export(self, writer: TopicWriter, after: int) -> tuple[int, bool]:
        """Export some entries behind a place; gives the place behind them, and if there are more.

        Raises:
            UnavailableError: it is not known which of them are on the topic.
        """
        async with self._database.transaction() as session:
            links = await repository.links(session, after=after, limit=AT_ONCE)
        if not links:
            return after, False
        await writer.append([cloud_event(link) for link in links], PROPERTIES)
        async with self._database.transaction() as session:
            await repository.set_exported(session, links[-1].sequence)
        return links[-1].sequence, len(links) == AT_ONCE

    async def _place(self, writer: TopicWriter) -> int:
        """Up to which entry the topic has them; PostgreSQL is told."""
        newest = await writer.newest()
        async with self._database.transaction() as session:
            place = await self._compare(session, newest) if newest else 0
            await repository.set_exported(session, place)
        return place

    async def _compare(self, session: AsyncSession, newest: bytes) -> int:
        try:
            told = link_of(newest)
        except (msgspec.MsgspecError, ValueError):
            there = "no entry of an audit log"
        else:
            if await repository.digest_at(session, told.sequence) == told.digest:
                return told.sequence
            there = f"{told.sequence}:{told.digest.hex()}"
        stored = await repository.exported(session)
        self._on_divided()
        log.error(
            "the newest event on the topic is no entry of this audit log: the database was restored"
            " or changed by hand, or somebody else has written; the export goes on",
            topic=self._topic,
            there=there,
            behind=stored,
        )
        return stored

    def _failed(self, reason: str, pause: float) -> float:
        again = self._failure is not None
        if reason != self._failure:
            log.warning("the export of the audit log waits", reason=reason, behind=self._at)
        self._failure = reason
        return min(pause * 2, MAX_BACKOFF_SECONDS) if again else STANDBY_SECONDS
