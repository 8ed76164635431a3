"""Sends again all dead letters that an operation asks for, each as a single one is (decision 34).

In the order in which they stand in each partition. What was sent before is not sent again, so an
operation that is begun again doubles nothing. What a frame that is refused again becomes is a new
letter, and not among those that were asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import msgspec
import structlog

from control_plane.database import Database, Lock
from control_plane.domains.dead_letters.reading import Wanted
from control_plane.domains.dead_letters.schemas import LetterOut, LetterResendOut, LettersResend
from control_plane.domains.operations import repository
from control_plane.domains.operations.carrying_out import NOT_CARRIED_OUT, begin, end
from control_plane.domains.operations.models import OF_DEAD_LETTERS, OperationRow
from control_plane.domains.system.metrics import Metrics
from control_plane.errors import BrokerUnavailableError, ConflictError, NotFoundError
from control_plane.looks import Looks
from control_plane.pages import Page

AT_ONCE = 100
"""Letters after which it is noted up to where they are sent."""
OUTCOMES = ("sent", "sent_before", "refused", "gone")
PAUSE_SECONDS = 2.0
PATIENCE_SECONDS = 300.0
"""A broker that has answered nothing for longer ends the operation."""

log = structlog.get_logger(__name__)


class Letters(Protocol):
    """The part of DeadLetterService that is needed."""

    async def letters(self, wanted: Wanted, *, cursor: str | None, limit: int) -> Page[LetterOut]:
        """A page of letters."""

    async def resend(self, key: str) -> LetterResendOut:
        """Send the frame of a letter, once."""


class LetterResends(Looks):
    """One per control plane; `run` is its task."""

    under = Lock.DEAD_LETTERS

    def __init__(
        self,
        database: Database,
        letters: Letters,
        metrics: Metrics,
        *,
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(database, metrics, interval_seconds=interval_seconds)
        self._letters = letters
        self._clock = clock

    async def look(self) -> None:
        """Carry the next operation out, to its end.

        Raises:
            UnavailableError: the database is down; the operation is begun again.
        """
        row = await begin(self._database, OF_DEAD_LETTERS)
        if row is None:
            return
        counts = Counter(dict.fromkeys(OUTCOMES, 0) | (row.result or {}))
        log.info("sending dead letters again", operation=row.id, asked=row.asked)
        try:
            await self._send_all(row, counts)
        except BrokerUnavailableError as error:
            detail = f"{error} Ask again: what was sent is not sent twice."
            problem = {"title": NOT_CARRIED_OUT, "detail": detail}
            await end(self._database, row, result=dict(counts), problem=problem)
        else:
            await end(self._database, row, result=dict(counts))
        log.info("dead letters were sent again", operation=row.id, **counts)

    async def _send_all(self, row: OperationRow, counts: Counter[str]) -> None:
        """Send what is asked for from its place on; `counts` and the place follow."""
        asked = msgspec.convert(row.asked or {}, LettersResend)
        until = min(asked.until or row.created_at, row.created_at)
        wanted = Wanted("sequencer", asked.code, asked.partition, asked.since, until)
        more, answered_at = True, self._clock()
        while more:
            await self.prove()
            try:
                page = await self._letters.letters(wanted, cursor=row.place, limit=AT_ONCE)
                for letter in page.items:
                    await self.prove()
                    counts[await self._outcome(letter)] += 1
                    row.place, answered_at = letter.id, self._clock()
            except BrokerUnavailableError:
                if self._clock() - answered_at > PATIENCE_SECONDS:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                more, answered_at = page.next_cursor is not None, self._clock()
                row.place = page.next_cursor or row.place
            await self._note(row, counts)

    async def _outcome(self, letter: LetterOut) -> str:
        if letter.state == "resent":
            return "sent_before"
        try:
            return "sent_before" if (await self._letters.resend(letter.id)).repeated else "sent"
        except ConflictError:
            return "refused"
        except NotFoundError:
            return "gone"

    async def _note(self, row: OperationRow, counts: Counter[str]) -> None:
        told = f"{counts['sent']} sent, {counts['sent_before']} sent before"
        async with self._database.transaction() as session:
            await repository.reach(session, row.id, row.place, dict(counts), told)
