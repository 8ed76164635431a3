"""Which tokens are revoked: a copy of what PostgreSQL knows, never older than a stated time.

A copy of half that age is renewed while requests go on with it; an older one is waited for. When
PostgreSQL does not answer for longer, nobody is certain any more, and the caller decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from control_plane.errors import UnavailableError

RETRY_SECONDS = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Revoked:
    """Ids of tokens that are revoked, and per subject until when all that were issued are."""

    token_ids: frozenset[str] = frozenset()
    issued_until: Mapping[str, datetime] = field(default_factory=dict)

    def covers(self, token_id: str, subject: str, issued_at: datetime) -> bool:
        """Whether a token is among them."""
        until = self.issued_until.get(subject)
        return token_id in self.token_ids or (until is not None and issued_at <= until)


class Revocations:
    """The copy; `load` reads it from PostgreSQL."""

    def __init__(
        self,
        load: Callable[[], Awaitable[Revoked]],
        *,
        known_within_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._limit = known_within_seconds
        self._monotonic = monotonic
        self._revoked = Revoked()
        self._as_of = self._failed_at = float("-inf")
        self._renewal: asyncio.Task[None] | None = None

    async def current(self) -> tuple[Revoked, bool]:
        """What is revoked, and whether that is certain.

        It is when it was read at most the stated time before this call, or later.
        """
        asked_at = self._monotonic()
        while asked_at - self._as_of > self._limit and self._may_ask():
            await asyncio.shield(self._renew_once())
        if asked_at - self._as_of > self._limit / 2 and self._may_ask():
            self._renew_once()
        return self._revoked, asked_at - self._as_of <= self._limit

    async def renew(self) -> None:
        """Read anew, as after a change made here; failures are told by `current`."""
        while self._renewal is not None:  # it may have begun before the change
            await asyncio.shield(self._renewal)
        await asyncio.shield(self._renew_once())

    async def close(self) -> None:
        """End what is under way."""
        if self._renewal is not None:
            self._renewal.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewal

    def _may_ask(self) -> bool:
        return self._monotonic() - self._failed_at >= RETRY_SECONDS

    def _renew_once(self) -> asyncio.Task[None]:
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._renew(), name="revocations")
        return self._renewal

    async def _renew(self) -> None:
        as_of = self._monotonic()
        try:
            self._revoked = await self._load()
            self._as_of = as_of
            self._failed_at = float("-inf")
        except UnavailableError as error:
            self._failed_at = self._monotonic()
            log.warning("revocations not read", error=str(error))
        finally:
            self._renewal = None
