"""Carries operations on functions out: one a look of the keeper of functions, under its lock.

One that was interrupted is begun again, which is harmless for what there is: a function that was
restarted is restarted once more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import structlog

from control_plane.database import Database
from control_plane.domains.functions.codes import FunctionCodes
from control_plane.domains.operations import repository
from control_plane.domains.operations.carrying_out import NOT_CARRIED_OUT, begin, end
from control_plane.domains.operations.models import OF_FUNCTIONS, OperationKind, OperationRow
from control_plane.errors import UnavailableError
from control_plane.pulsar_admin import AdminError, PulsarAdmin
from control_plane.topology import Actual, ApplyError, Change, Event, Topology, apply
from control_plane.topology.diff import Action

SWEEP_SECONDS = 60.0

log = structlog.get_logger(__name__)


class OperationWorker:
    """One per keeper of functions, which tells it what there should be and what there is.

    What has ended is forgotten after `kept_days`.
    """

    def __init__(
        self,
        database: Database,
        admin: PulsarAdmin,
        codes: FunctionCodes,
        *,
        timeout_s: float,
        kept_days: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._admin = admin
        self._codes = codes
        self._timeout_s = timeout_s
        self._kept_days = kept_days
        self._clock = clock
        self._sweep_at = clock()

    async def work(self, topology: Topology, actual: Actual) -> bool:
        """Carry out the next operation, to its end; whether there was one.

        Raises:
            UnavailableError: the database is down; the operation is begun again.
        """
        if self._clock() >= self._sweep_at:
            await self.sweep()
            self._sweep_at = self._clock() + SWEEP_SECONDS
        row = await begin(self._database, OF_FUNCTIONS)
        if row is None:
            return False
        log.info("operation begins", operation=row.id, kind=row.kind, target=row.target)
        try:
            change = await self._codes.add(_change(row, topology, actual))
            async with self._telling(row.id) as tell:
                await apply(
                    self._admin,
                    [change],
                    timeout_s=self._timeout_s,
                    # What was before may be drift; the next look goes on from what is there.
                    roll_back=False,
                    on_event=tell.put_nowait,
                )
        except (ApplyError, AdminError, LookupError, ValueError) as error:
            log.warning("operation failed", operation=row.id, error=str(error))
            problem = {"title": NOT_CARRIED_OUT, "detail": str(error)}
            await end(self._database, row, problem=problem)
        else:
            log.info("operation done", operation=row.id)
            await end(self._database, row, result={"running": True})
        return True

    async def sweep(self) -> None:
        """Forget what ended too long ago, in short transactions."""
        gone = 1
        while gone:
            async with self._database.transaction() as session:
                gone = await repository.forget(session, days=self._kept_days)

    @asynccontextmanager
    async def _telling(self, key: str) -> AsyncIterator[asyncio.Queue[Event]]:
        """A queue whose events are noted as the operation's progress."""
        events: asyncio.Queue[Event] = asyncio.Queue()

        async def note() -> None:
            while True:
                event = await events.get()
                text = f"{event.stage}: {event.detail}" if event.detail else event.stage
                with suppress(UnavailableError):  # it is only told later
                    async with self._database.transaction() as session:
                        await repository.tell(session, key, text)

        task = asyncio.create_task(note())
        try:
            yield events
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _change(row: OperationRow, topology: Topology, actual: Actual) -> Change:
    """What an operation does to its function.

    A function that is not deployed is created with the code that it had. LookupError where the
    topology does not name it.
    """
    names = {name.rsplit("/", 1)[-1]: name for name in topology.functions}
    if row.target not in names:
        raise LookupError(f"The topology has no function {row.target!r}.")
    name = names[row.target]
    found = actual.functions.get(name)
    kind = OperationKind(row.kind)
    if found is None:
        return Change("create", "function", name, desired=topology.functions[name])
    action: Action = "restart" if kind is OperationKind.RESTART_FUNCTION else "replace"
    return Change(action, "function", name, desired=topology.functions[name], actual=found)
