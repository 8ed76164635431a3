"""Follows `control/ordering` and stores what the sequencer found, each finding exactly once.

Guarantees:

- A partition's position is stored in the transaction that stores its findings, and reading goes on
  behind it, so nothing is left out or stored twice whenever the process dies. No Pulsar
  subscription is involved; the namespace's retention keeps what is not read yet.
- One control plane follows at a time (advisory lock of a session); should two believe it, the
  position decides whose transaction counts, and the other one reads on from there.
- What cannot be stored is kept with its reason, counted and passed over.
- Broker or database away: it waits and goes on. Memory is bounded by one batch a partition.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeVar

import pulsar
import structlog
from sqlalchemy.exc import DataError, IntegrityError

from control_plane.broker import Broker
from control_plane.database import Database, Lock
from control_plane.domains.ordering import repository
from control_plane.domains.ordering.intake import Intake, Place
from control_plane.domains.ordering.reading import Batch, PartitionReader, published_at, single
from control_plane.domains.ordering.repository import Progress
from control_plane.errors import UnavailableError
from marketdata.connection import TopicNotReady, partition_topics
from marketdata.topics import ORDERING, partition_topic

MAX_THREADS = 64
STANDBY_SECONDS = 1.0
HEARTBEAT_SECONDS = 2.0
LOOK_SECONDS = 30.0
SWEEP_SECONDS = 3600.0
FIRST_BACKOFF_SECONDS = 0.25
MAX_BACKOFF_SECONDS = 5.0

T = TypeVar("T")
Role = Literal["starting", "following", "standby", "waiting"]

log = structlog.get_logger(__name__)


class PositionMoved(Exception):
    """Another control plane has stored behind our back: read on from where it is."""


@dataclass(slots=True)
class PartitionState:
    """How far one partition has come in this process.

    Attributes:
        behind_since: publication of the oldest message that was read and is not stored; None when
            all that is known is stored.
        failure: why nothing is stored at the moment.
    """

    behind_since: datetime | None = None
    failure: str | None = None


@dataclass(slots=True)
class FollowerState:
    """What the follower does, for health and metrics."""

    role: Role = "starting"
    failure: str | None = None
    partitions: dict[int, PartitionState] = field(default_factory=dict)

    def lag_seconds(self, now: datetime) -> float:
        """Age of the oldest message known and not stored; 0 when there is none."""
        waiting = [p.behind_since for p in self.partitions.values() if p.behind_since]
        return max(0.0, (now - min(waiting)).total_seconds()) if waiting else 0.0

    @property
    def detail(self) -> str:
        """One sentence for people."""
        reasons = [self.failure, *(state.failure for state in self.partitions.values())]
        told = sorted({reason for reason in reasons if reason})
        if told:
            return " ".join(told)
        return {
            "starting": "not started yet",
            "standby": "another control plane stores the findings",
            "following": f"stores the findings of {len(self.partitions)} partitions",
            "waiting": "waits",
        }[self.role]


class OrderingFollower:
    """One per control plane; `run` is its task, `state` what others may look at."""

    def __init__(
        self, database: Database, broker: Broker, *, retention_days: int, topic: str = ORDERING
    ) -> None:
        self._database = database
        self._broker = broker
        self._retention_days = retention_days
        self._topic = topic
        self.state = FollowerState()

    async def run(self) -> None:
        """Follow for ever; a failure is told and tried again with a growing pause."""
        pause = STANDBY_SECONDS
        while True:
            try:
                async with self._database.held(Lock.ORDERING) as prove:
                    self._become("standby" if prove is None else "following")
                    if prove is not None:
                        await self._lead(prove)
                pause = STANDBY_SECONDS
            except UnavailableError as error:
                self._become("waiting", str(error))
                pause = min(pause * 2, MAX_BACKOFF_SECONDS)
            except Exception as error:
                log.exception("following the findings failed")
                self._become("waiting", f"It failed ({type(error).__name__}); see the log.")
                pause = MAX_BACKOFF_SECONDS
            await asyncio.sleep(pause)

    def _become(self, role: Role, failure: str | None = None) -> None:
        if (self.state.role, self.state.failure) != (role, failure):
            log.info("ordering follower", role=role, reason=failure)
        self.state.role, self.state.failure = role, failure
        if role == "standby":  # while it waits, what it has read and not stored is still behind
            self.state.partitions.clear()

    async def sweep(self) -> int:
        """Delete what is older than the retention, in short transactions; gives how many rows."""
        total = 0
        while True:
            async with self._database.transaction() as session:
                gone = await repository.delete_old(session, days=self._retention_days)
            total += gone
            if not gone:
                return total

    async def store(self, partition: int, expected: Place | None, batch: Batch) -> Place:
        """Store a batch and the position behind it; gives that position.

        Raises:
            PositionMoved: the partition is not at `expected` any more.
            UnavailableError: the database is away.
        """
        try:
            return await self._store(partition, expected, batch)
        except (DataError, IntegrityError) as error:
            reason = f"refused by the database: {error.orig}"
        # It looked well all the same: find the message, keep it, store the others.
        if len(batch.messages) == 1:
            intake = Intake()
            intake.refuse(partition, batch.last, reason, batch.messages[0].data())
            refused = Batch(batch.messages, intake, full=False)
            return await self._store(partition, expected, refused)
        for message in batch.messages:
            expected = await self.store(partition, expected, single(partition, message))
        return batch.last

    async def _store(self, partition: int, expected: Place | None, batch: Batch) -> Place:
        published = published_at(batch.messages[-1])
        progress = Progress(partition, batch.last, published, len(batch.messages))
        async with self._database.transaction() as session:
            if not await repository.advance(session, progress, expected, batch.intake):
                raise PositionMoved
            await repository.store(session, batch.intake)
        for row in batch.intake.poison:
            place = f"{row.ledger_id}:{row.entry_id}:{row.batch_index}"
            log.warning(
                "finding passed over",
                partition=partition,
                place=place,
                finding=row.finding,
                reason=row.reason,
            )
        return batch.last

    async def _lead(self, prove: Callable[[], Awaitable[None]]) -> None:
        """Follow every partition and sweep, until the lock is lost."""
        threads = ThreadPoolExecutor(MAX_THREADS, "ordering")
        tasks: dict[int, asyncio.Task[None]] = {
            -1: asyncio.create_task(self._sweep_now_and_then(), name="ordering sweep")
        }
        look_at = 0.0
        try:
            while True:
                await prove()
                for task in tasks.values():
                    if task.done():
                        task.result()
                if time.monotonic() >= look_at:
                    found = await self._partitions(threads)
                    look_at = time.monotonic() + (LOOK_SECONDS if found else 0.0)
                    for partition in set(range(found)) - tasks.keys():
                        self.state.partitions[partition] = PartitionState()
                        tasks[partition] = asyncio.create_task(
                            self._follow(partition, threads), name=f"ordering {partition}"
                        )
                await asyncio.sleep(HEARTBEAT_SECONDS)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            threads.shutdown(wait=False)

    async def _partitions(self, threads: ThreadPoolExecutor) -> int:
        """How many partitions the topic has; 0 when that is not known now."""
        try:
            names = await _in(threads, lambda: partition_topics(self._broker.client, self._topic))
        except (TopicNotReady, UnavailableError, pulsar.PulsarException) as error:
            self.state.failure = _told(error)
        else:
            self.state.failure = None
            return len(names)
        return 0

    async def _follow(self, partition: int, threads: ThreadPoolExecutor) -> None:
        state = self.state.partitions[partition]
        pause = FIRST_BACKOFF_SECONDS
        while True:
            try:
                await self._read_on(partition, state, threads)
            except PositionMoved:
                log.info("another control plane has stored", partition=partition)
                pause = FIRST_BACKOFF_SECONDS
            except (UnavailableError, pulsar.PulsarException) as error:
                again = state.failure is not None
                pause = min(pause * 2, MAX_BACKOFF_SECONDS) if again else FIRST_BACKOFF_SECONDS
                state.failure = _told(error)
            await asyncio.sleep(pause)

    async def _read_on(
        self, partition: int, state: PartitionState, threads: ThreadPoolExecutor
    ) -> None:
        """Store what comes behind the stored position, until something fails."""
        async with self._database.transaction() as session:
            row = await repository.position(session, partition)
        stored = None if row is None else Place(row.ledger_id, row.entry_id, row.batch_index)
        topic = partition_topic(self._topic, partition)
        reader = await _in(
            threads, lambda: PartitionReader(self._broker.client, topic, partition, stored)
        )
        try:
            state.failure = None
            while True:
                batch = await _in(threads, reader.read)
                if batch is None:
                    state.behind_since = None
                    continue
                state.behind_since = published_at(batch.messages[0])
                stored = await self.store(partition, stored, batch)
                if not batch.full:
                    state.behind_since = None
        finally:
            # Not awaited: the thread may still read for a moment, and cancelling must not wait.
            threads.submit(reader.close)

    async def _sweep_now_and_then(self) -> None:
        while True:
            with contextlib.suppress(UnavailableError):
                rows = await self.sweep()
                if rows:
                    log.info("old findings deleted", rows=rows, days=self._retention_days)
            await asyncio.sleep(SWEEP_SECONDS)


def _told(error: Exception) -> str:
    if isinstance(error, pulsar.PulsarException):
        return f"The broker does not answer ({type(error).__name__})."
    return str(error)


async def _in(threads: ThreadPoolExecutor, blocking: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, blocking)
