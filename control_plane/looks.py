"""Looking at something again and again, by whichever control plane has its lock."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database, Lock, try_lock
from control_plane.domains.system.metrics import Metrics
from control_plane.errors import UnavailableError
from control_plane.pulsar_admin import AdminError

log = structlog.get_logger(__name__)


class Looks(ABC):
    """`run` is a task that looks at every interval, and at once when it is woken.

    A failure is counted, logged when it is another one than before, and the next look comes.
    """

    under: Lock
    """Held during a look: other control planes leave it to who has it."""

    def __init__(self, database: Database, metrics: Metrics, *, interval_seconds: float) -> None:
        self._database = database
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._wake = asyncio.Event()
        self._failure: str | None = None
        self._locked: AsyncSession | None = None

    @abstractmethod
    async def look(self) -> None:
        """One look, under the lock; UnavailableError or AdminError: the next one repeats all."""

    def wake(self) -> None:
        """Look now rather than at the next interval."""
        self._wake.set()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self._look_safely()
            try:
                async with asyncio.timeout(self._interval_seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def look_once(self) -> bool:
        """One look, unless another control plane looks; whether this one did.

        Raises:
            UnavailableError, AdminError: something is down or refused.
        """
        async with self._database.transaction() as session:
            if not await try_lock(session, self.under):
                return False
            self._locked = session
            try:
                await self.look()
            finally:
                self._locked = None
        return True

    async def prove(self) -> None:
        """Show PostgreSQL that a look goes on, and this control plane that it has its lock.

        For looks that may take long. PostgreSQL ends sessions that are idle within a transaction
        for too long, and their locks are free: then this raises, and with it the look ends.
        """
        if self._locked is not None:
            await self._locked.execute(text("SELECT 1"))

    async def _look_safely(self) -> None:
        try:
            await self.look_once()
        except UnavailableError as error:
            self._failed(error.dependency, error.reason)
        except AdminError as error:
            self._failed("broker", str(error))
        except Exception:
            self._metrics.reconcile_errors.labels("none").inc()
            log.exception("a look failed", of=self.under.name)
        else:
            if self._failure is not None:
                log.info("looks work again", of=self.under.name)
            self._failure = None

    def _failed(self, dependency: str, reason: str) -> None:
        self._metrics.reconcile_errors.labels(dependency).inc()
        if self._failure != dependency:
            log.warning(
                "a look has to wait", of=self.under.name, dependency=dependency, reason=reason
            )
        self._failure = dependency
