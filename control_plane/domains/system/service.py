"""Readiness: probes of every dependency, each bounded in time and shared by concurrent callers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

import structlog

from control_plane.broker import Broker
from control_plane.database import SCHEMA_REVISION, Database
from control_plane.domains.ordering.follower import FollowerState
from control_plane.domains.system.schemas import DependencyHealth, FollowerHealth, Readiness
from control_plane.errors import BrokerUnavailableError, DatabaseUnavailableError, UnavailableError
from control_plane.pulsar_admin import AdminError, PulsarAdmin
from marketdata.topics import PLANS

PROBE_TIMEOUT_SECONDS = 3.0
PROBE_KEPT_SECONDS = 1.0

log = structlog.get_logger(__name__)

Check = Callable[[], Awaitable[None]]


class Probe:
    """One check whose result is kept for a moment; at most one runs at a time."""

    def __init__(self, check: Check, *, kept_seconds: float = PROBE_KEPT_SECONDS) -> None:
        self._check = check
        self._kept_seconds = kept_seconds
        self._lock = asyncio.Lock()
        self._at = float("-inf")
        self._result = DependencyHealth("missing", "not looked at yet", 0.0)

    async def look(self) -> DependencyHealth:
        """The dependency's health, at most `kept_seconds` old."""
        async with self._lock:
            if time.monotonic() - self._at > self._kept_seconds:
                self._result = await self._run()
                self._at = time.monotonic()
            return self._result

    async def _run(self) -> DependencyHealth:
        started = time.monotonic()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                await self._check()
        except TimeoutError:
            detail = f"no answer within {PROBE_TIMEOUT_SECONDS:g} s"
        except (UnavailableError, AdminError) as error:
            detail = str(error)
        except Exception as error:
            log.exception("probe failed")
            detail = f"the probe failed ({type(error).__name__}); see the log"
        else:
            return DependencyHealth("ok", "", round((time.monotonic() - started) * 1e3, 2))
        return DependencyHealth("missing", detail, round((time.monotonic() - started) * 1e3, 2))


class HealthService:
    """What the control plane needs, and whether it is there."""

    def __init__(
        self, database: Database, broker: Broker, admin: PulsarAdmin, follower: FollowerState
    ) -> None:
        self._database = database
        self._admin = admin
        self._follower = follower

        async def broker_client() -> None:
            await broker.check(PLANS)

        self._probes: Mapping[str, Probe] = {
            "database": Probe(self._check_database),
            "migrations": Probe(self._check_migrations),
            "broker_admin": Probe(self._check_admin),
            "broker_client": Probe(broker_client),
        }
        self._broker_gate = Probe(self._check_admin, kept_seconds=0.2)

    async def readiness(self) -> Readiness:
        """Probe everything at once."""
        results = dict(
            zip(
                self._probes,
                await asyncio.gather(*(probe.look() for probe in self._probes.values())),
                strict=True,
            )
        )
        missing = [name for name, result in results.items() if result.status == "missing"]
        follower = FollowerHealth(
            self._follower.role,
            self._follower.detail,
            round(self._follower.lag_seconds(datetime.now(UTC)), 3),
        )
        return Readiness("not ready" if missing else "ready", missing, results, follower)

    async def require_broker(self) -> None:
        """BrokerUnavailableError when the broker does not answer, before anything is stored."""
        result = await self._broker_gate.look()
        if result.status == "missing":
            raise BrokerUnavailableError("The broker does not answer; nothing was stored.")

    async def _check_database(self) -> None:
        await self._database.ping()

    async def _check_migrations(self) -> None:
        revision = await self._database.schema_revision()
        if revision != SCHEMA_REVISION:
            raise DatabaseUnavailableError(
                f"The database is at revision {revision or 'none'}, this version needs "
                f"{SCHEMA_REVISION}: run `alembic -c migrations/alembic.ini upgrade head`."
            )

    async def _check_admin(self) -> None:
        try:
            await self._admin.version()
        except AdminError as error:
            log.debug("admin API does not answer", error=str(error))
            raise BrokerUnavailableError("The broker's admin API does not answer.") from error
