"""The feed of events: one reader of the table a control plane, any number of streams on it.

Guarantees:

- A stream gets every event behind its place that it selects, each once, in the order of their
  numbers, from whichever control plane it is served; or it is told that some are gone.
- The newest events are kept in memory and shared by all streams. A stream that is further behind
  reads pages from the table. Nothing is queued for a stream, so one that is slow costs nothing but
  its place; what it is slower than the retention for, it is told to have lost.
- A notification wakes the feed. Where none comes, it looks every `POLL_SECONDS`.
- A stream ends when the token that opened it expires or is revoked, after its longest time, and at
  shutdown; who reads it goes on with the `id` that came last, here or elsewhere.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

import msgspec
import structlog
from litestar.response import ServerSentEventMessage
from sqlalchemy import ColumnElement

from control_plane.database import Database
from control_plane.domains.events import repository
from control_plane.domains.events.models import EventRow
from control_plane.domains.events.schemas import LOST, EventOut, EventType, LostOut
from control_plane.errors import TooManyStreamsError, UnavailableError

KEPT_IN_MEMORY = 2_000
PAGE = 500
PAGES_AT_ONCE = 2
"""How many streams may read the table at a time: requests need the database's connections too."""
HEARTBEAT_SECONDS = 15.0
POLL_SECONDS = 1.0
PAUSE_SECONDS = 0.05
"""Between two looks, so that many changes cost few."""
SWEEP_SECONDS = 60.0
RETRY_MS = 2_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events a stream gets; None selects all. `consumer` and `subscription` are ids."""

    types: frozenset[EventType] | None = None
    consumer: str | None = None
    subscription: str | None = None

    def matches(self, event: Event) -> bool:
        """Whether an event is among them."""
        return (
            (self.types is None or event.type in self.types)
            and self.consumer in (None, event.consumer)
            and self.subscription in (None, event.subscription)
        )

    def conditions(self) -> list[ColumnElement[bool]]:
        """The same for the table."""
        found: list[ColumnElement[bool]] = []
        if self.types is not None:
            found.append(EventRow.type.in_(sorted(self.types)))
        if self.consumer is not None:
            found.append(EventRow.consumer_id == self.consumer)
        if self.subscription is not None:
            found.append(EventRow.subscription_id == self.subscription)
        return found


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it is kept in memory."""

    number: int
    type: str
    consumer: str | None
    subscription: str | None
    message: ServerSentEventMessage


@dataclass(frozen=True, slots=True)
class Limits:
    """What streams may take: how many at a time and of one caller, and how long each lives."""

    streams: int
    of_a_caller: int
    seconds: float


class EventFeed:
    """One per control plane; `run` is its task."""

    def __init__(
        self,
        database: Database,
        limits: Limits,
        *,
        retention_days: int,
        retention_rows: int,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        in_memory: int = KEPT_IN_MEMORY,
    ) -> None:
        self._database = database
        self._limits = limits
        self._retention_days = retention_days
        self._retention_rows = retention_rows
        self._heartbeat_seconds = heartbeat_seconds
        self._in_memory = in_memory
        self._looking = asyncio.Lock()
        self._paging = asyncio.Semaphore(PAGES_AT_ONCE)
        self._recent: list[Event] = []
        self._recent_after = 0
        self._newest = 0
        self._changed = asyncio.Event()
        self._term = asyncio.Event()
        self._open: Counter[str | None] = Counter()
        self._failure: str | None = None

    async def run(self) -> None:
        """Follow the table for ever; a failure is logged and tried again."""
        sweep_at = 0.0
        while True:
            try:
                async with self._database.listening(repository.CHANNEL) as heard:
                    while True:
                        await self.look()
                        if time.monotonic() >= sweep_at:
                            await self.sweep()
                            sweep_at = time.monotonic() + SWEEP_SECONDS
                        await heard(POLL_SECONDS)
                        await asyncio.sleep(PAUSE_SECONDS)
            except UnavailableError as error:
                self._failed(str(error))
            except Exception:
                log.exception("following events failed")
            # Without the session that listens the table may be there all the same.
            try:
                await self.look()
            except UnavailableError as error:
                self._failed(str(error))
            except Exception:
                log.exception("following events failed")
            await asyncio.sleep(POLL_SECONDS)

    async def look(self) -> None:
        """Number what is committed, take in what is new and wake the streams.

        Everything that was committed before the call is there after it. UnavailableError when the
        database is away.
        """
        async with self._looking:
            while await self._look_once():
                pass
            self._failed(None)

    async def sweep(self) -> None:
        """Forget what is too old or too much, in short transactions."""
        async with self._database.transaction() as session:
            await repository.forget(session, days=self._retention_days, rows=self._retention_rows)
        gone = 1
        while gone:
            async with self._database.transaction() as session:
                gone = await repository.delete(session)

    @property
    def streams(self) -> int:
        """How many streams there are."""
        return self._open.total()

    @contextlib.contextmanager
    def admitted(self, caller: str | None) -> Iterator[None]:
        """One stream, of a caller or of anybody; TooManyStreamsError when there are many."""
        if self.streams >= self._limits.streams:
            raise TooManyStreamsError("All streams of this control plane are in use.")
        if caller is not None and self._open[caller] >= self._limits.of_a_caller:
            raise TooManyStreamsError(
                f"A caller has {self._limits.of_a_caller} streams at most; end one."
            )
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]

    def close(self) -> None:
        """End all streams, and each that is opened from now on."""
        self._term.set()
        self._wake()

    async def stream(
        self,
        selection: Selection,
        after: int | None,
        still_allowed: Callable[[], Awaitable[bool]],
    ) -> AsyncIterator[ServerSentEventMessage]:
        """The events of a selection behind a number, or from now on; `look` comes before it.

        Ends by itself; never raises for what goes wrong, since the answer has begun.
        """
        term = self._term
        ends_at = time.monotonic() + self._limits.seconds
        place = self._newest if after is None else after
        if place > self._newest:  # of a database that was restored, or of another one
            yield _lost(place, self._newest)
            place = self._newest
        yield _alive(place, "connected", retry=RETRY_MS)
        sent_at = time.monotonic()
        while not term.is_set() and await still_allowed():
            changed = self._changed
            try:
                events, reached, forgotten = await self._behind(place, selection)
            except UnavailableError as error:
                log.info("a stream of events ends", reason=str(error))
                return
            if forgotten > place:
                yield _lost(place, forgotten)
                place = forgotten
                continue
            for event in events:
                yield event.message
                sent_at = time.monotonic()
            place = reached
            now = time.monotonic()
            if now - sent_at >= self._heartbeat_seconds:
                yield _alive(place, "heartbeat")
                sent_at = now
            if place < self._newest:
                continue
            if now >= ends_at:
                return
            until = min(ends_at, sent_at + self._heartbeat_seconds)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until - now):
                    await changed.wait()

    async def _look_once(self) -> bool:
        """One transaction of `look`; whether it takes another to have all."""
        async with self._database.transaction() as session:
            newest, _, more = await repository.number(session)
            if newest < self._newest:
                log.warning("the database knows fewer events than before: streams begin anew")
                self._begin_anew()
            if newest == self._newest:
                return more
            after = max(self._newest, newest - self._in_memory)
            rows, forgotten = await repository.page(
                session, (), after=after, upto=newest, limit=self._in_memory
            )
        known = self._recent if after == self._newest else []
        recent = [*known, *map(_event, rows)][-self._in_memory :]
        # Between this and the newest number there is no event but these.
        whole = [self._recent_after if known else after, forgotten]
        if len(known) + len(rows) > len(recent):
            whole.append(recent[0].number - 1)
        self._recent, self._recent_after, self._newest = recent, max(whole), newest
        self._wake()
        return more

    async def _behind(self, place: int, selection: Selection) -> tuple[Sequence[Event], int, int]:
        """Events behind a place, up to where they are all of them, and what is forgotten."""
        newest = self._newest
        if place >= self._recent_after:
            first = bisect.bisect_right(self._recent, place, key=attrgetter("number"))
            return [e for e in self._recent[first:] if selection.matches(e)], newest, 0
        async with self._paging, self._database.transaction() as session:
            rows, forgotten = await repository.page(
                session, selection.conditions(), after=place, upto=newest, limit=PAGE
            )
        events = [_event(row) for row in rows]
        return events, events[-1].number if len(events) == PAGE else newest, forgotten

    def _begin_anew(self) -> None:
        self._recent, self._recent_after, self._newest = [], 0, 0
        ended, self._term = self._term, asyncio.Event()
        if ended.is_set():  # at shutdown it stays so
            self._term.set()
        ended.set()
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _failed(self, reason: str | None) -> None:
        if reason != self._failure:
            log.info("feed of events", waits_for=reason)
        self._failure = reason


def _event(row: EventRow) -> Event:
    number = row.number or 0
    told = EventOut(
        number=number,
        type=row.type,
        at=row.at,
        consumer=row.consumer_id,
        subscription=row.subscription_id,
        request_id=row.correlation_id,
        data=row.data,
    )
    return Event(
        number, row.type, row.consumer_id, row.subscription_id, _message(number, row.type, told)
    )


def _message(number: int, name: str, told: EventOut | LostOut) -> ServerSentEventMessage:
    return ServerSentEventMessage(data=msgspec.json.encode(told), event=name, id=number)


def _lost(asked: int, place: int) -> ServerSentEventMessage:
    return _message(place, LOST, LostOut(asked=asked, next=place + 1))


def _alive(place: int, comment: str, *, retry: int | None = None) -> ServerSentEventMessage:
    """A comment that moves the reader's place: no event comes of it, only its `id`."""
    return ServerSentEventMessage(data=None, id=place, comment=comment, retry=retry)
