"""Keeps functions as the topology wants them, and carries out what operations ask for.

One control plane does so at a time (advisory lock), beside the reconciler: to restart one may take
minutes, and who may no longer read or publish must not have these. Each look:

1. what operations ask for is done, one a look;
2. config drift is redeployed, one function at a time; a function that is down, and whose instances
   have not changed for `unhealthy_after_seconds`, is restarted (after a broker restart nothing else
   brings it back), with a growing pause between attempts: instances that start, or that the worker
   starts again, are left to it; one that is gone for as long is created again with the code that it
   had when it was last seen. What does not become healthy gets its config from before again, unless
   the topology's was seen running: then what was before is what somebody altered by hand.

A difference must be seen in two looks before it is acted on, so that a rollout under way is not
fought. Where it is the topology that has changed, whoever changed it has `ROLLOUT_SECONDS` to apply
it: two who update a function at a time undo each other's work. Functions that were never deployed
are reported, not created: their code comes from `scripts/deploy_functions.py`. Before that destroys
functions for good, control planes are stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from control_plane.database import Database, Lock
from control_plane.domains.alerts import repository as alert_rows
from control_plane.domains.alerts.models import AlertKind
from control_plane.domains.audit.service import AuditService, Repair
from control_plane.domains.events import repository as event_rows
from control_plane.domains.events.schemas import EventType
from control_plane.domains.functions.codes import FunctionCodes
from control_plane.domains.functions.schemas import DifferenceOut
from control_plane.domains.functions.service import StatusBoard
from control_plane.domains.functions.topology import KnownTopology, short_name
from control_plane.domains.operations.worker import OperationWorker
from control_plane.domains.system.metrics import Metrics
from control_plane.looks import Looks
from control_plane.pulsar_admin import PulsarAdmin
from control_plane.settings import Settings
from control_plane.topology import (
    Actual,
    ApplyError,
    Change,
    FunctionSpec,
    FunctionState,
    Topology,
    apply,
    diff,
    read_actual,
)

FIRST_RETRY_SECONDS = 15.0
LONGEST_RETRY_SECONDS = 300.0
ROLLOUT_SECONDS = 300.0
"""How long what the topology wants anew is left to `scripts/deploy_functions.py`."""
APPLY_TIMEOUT_SECONDS = 60.0
OPERATION_TIMEOUT_SECONDS = 120.0
"""Somebody asked for it and waits; repairs come again by themselves."""

RUNNING = "running"
"""The state of a function of which there is nothing to tell."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Difference:
    """A difference of one function: since when it is seen, and when it may be acted on again."""

    since: float
    state: tuple[str, int, int]
    looks: int = 1
    attempts: int = 0
    not_before: float = 0.0


class Patience:
    """Decides when a difference of a function is acted on. Pure but for its memory."""

    def __init__(self, unhealthy_after_seconds: float) -> None:
        self._unhealthy_after_seconds = unhealthy_after_seconds
        self._seen: dict[str, _Difference] = {}

    def due(self, changes: list[Change], now: float) -> list[Change]:
        """Those of the changes whose time has come; differences that are gone are forgotten."""
        names = {change.name for change in changes}
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        due = []
        for change in changes:
            seen = self._seen.get(change.name)
            if seen is None:
                self._seen[change.name] = _Difference(now, _state(change))
                continue
            if seen.state != _state(change):
                looks = seen.looks if seen.state[0] == change.action else 0
                seen.since, seen.state, seen.looks = now, _state(change), looks
            seen.looks += 1
            patient = change.action in ("create", "replace", "restart")
            waited = not patient or now - seen.since >= self._unhealthy_after_seconds
            if seen.looks >= 2 and waited and now >= seen.not_before:
                due.append(change)
        return due

    def tried(self, name: str, now: float) -> None:
        """Note an attempt: the next one waits longer than the last."""
        seen = self._seen.get(name)
        if seen is not None:
            pause = min(FIRST_RETRY_SECONDS * 2**seen.attempts, LONGEST_RETRY_SECONDS)
            seen.attempts += 1
            seen.not_before = now + pause


class FunctionKeeper(Looks):
    """One per control plane; `run` is its task."""

    under = Lock.FUNCTIONS

    def __init__(
        self,
        database: Database,
        admin: PulsarAdmin,
        board: StatusBoard,
        metrics: Metrics,
        audit: AuditService,
        topology: KnownTopology,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(database, metrics, interval_seconds=settings.reconcile_interval_seconds)
        self._admin = admin
        self._board = board
        self._audit = audit
        self._topology = topology
        self._clock = clock
        self._patience = Patience(settings.unhealthy_after_seconds)
        self._codes = FunctionCodes(database, admin)
        self._operations = OperationWorker(
            database,
            admin,
            self._codes,
            timeout_s=OPERATION_TIMEOUT_SECONDS,
            kept_days=settings.operation_retention_days,
        )
        self._ran: dict[str, FunctionSpec] = {}
        self._wanted: dict[str, tuple[FunctionSpec, float]] = {}
        """What the topology wants, and until when that is left to whoever has changed it."""

    async def look_once(self) -> bool:
        """As of all looks; what there should be is known to every control plane."""
        await self._topology.load()
        return await super().look_once()

    async def look(self) -> None:
        """One look at the functions; it takes as long as what it does to one of them."""
        topology = self._topology.functions
        if topology is None:
            return
        actual = await read_actual(self._admin, topology)
        changes = diff(topology, actual)
        await self._tell_states(self._note(topology, actual, changes))
        differing = {change.name for change in changes}
        self._ran |= {
            name: spec for name, spec in topology.functions.items() if name not in differing
        }
        rolled_out = self._rolled_out(topology)
        kept = await self._codes.keep(topology, actual)
        if await self._operations.work(topology, actual):
            self.wake()
            return
        repairable = [
            change
            for change in changes
            if change.kind == "function"
            and change.name not in rolled_out
            and (change.action != "create" or change.name in kept)
        ]
        # One a look: the next begins only after this one runs, or is given time.
        for change in self._patience.due(repairable, self._clock())[:1]:
            attributes = [attribute.name for attribute in change.attributes]
            log.warning(
                "repairing function", function=change.name, action=change.action, differs=attributes
            )
            self._patience.tried(change.name, self._clock())
            try:
                await apply(
                    self._admin,
                    [await self._codes.add(change)],
                    timeout_s=APPLY_TIMEOUT_SECONDS,
                    roll_back=self._ran.get(change.name) != topology.functions[change.name],
                )
            except ApplyError as error:
                self._metrics.reconcile_errors.labels("function").inc()
                log.warning("function not repaired", function=change.name, error=str(error))
                await self._audit.repaired([_repair(change, failure=str(error))])
                await self._tell(
                    EventType.FUNCTION_NOT_REPAIRED,
                    change.name,
                    {"action": change.action, "reason": str(error)},
                )
            else:
                self._metrics.reconcile_actions.labels(f"function_{change.action}").inc()
                log.info("function repaired", function=change.name, action=change.action)
                await self._audit.repaired([_repair(change)])
                await self._tell(
                    EventType.FUNCTION_REPAIRED,
                    change.name,
                    {"action": change.action, "differs": attributes},
                )
                self.wake()

    def _rolled_out(self, topology: Topology) -> set[str]:
        """The functions that the topology wants otherwise than before, since a short time only."""
        now = self._clock()
        for name, spec in topology.functions.items():
            known = self._wanted.get(name)
            if known is None or known[0] != spec:
                self._wanted[name] = spec, now if known is None else now + ROLLOUT_SECONDS
        return {name for name, (_, until) in self._wanted.items() if now < until}

    async def _tell(self, what: EventType, name: str, told: Mapping[str, object]) -> None:
        async with self._database.transaction() as session:
            await event_rows.record(
                session, event_rows.Change(what, {"name": short_name(name), **told})
            )

    async def _tell_states(self, states: Mapping[str, tuple[str, str]]) -> None:
        """Tell of functions whose state is another one than was told last, by whomever.

        What is told and not over stands with the alerts: `sequencer down`.
        """
        async with self._database.transaction() as session:
            stand = await alert_rows.standing(session, AlertKind.FUNCTION)
            last = dict(about.split(" ", 1) for about in stand)
            standing, again = {}, []
            for name, (state, detail) in states.items():
                short = short_name(name)
                before = last.get(short, RUNNING)
                told = {"name": short, "state": state, "before": before, "detail": detail}
                change = event_rows.Change(EventType.FUNCTION_CHANGED, told)
                if state != RUNNING:
                    standing[f"{short} {state}"] = change
                elif before != RUNNING:
                    again.append(change)
            await alert_rows.settle(session, AlertKind.FUNCTION, standing)
            await event_rows.record(session, *again)

    def _note(
        self, topology: Topology, actual: Actual, changes: list[Change]
    ) -> dict[str, tuple[str, str]]:
        """Tell the status board what the cluster says, for GET /v1/functions.

        Returns:
            By function its state, and the detail of that.
        """
        states = {}
        by_name = {change.name: change for change in changes if change.kind == "function"}
        for name, spec in topology.functions.items():
            found = actual.functions.get(name)
            change = by_name.get(name)
            if found is None:
                state = "not deployed"
                detail = "run scripts/deploy_functions.py apply"
            elif change is None:
                state, detail = RUNNING, ""
            elif change.action == "restart":
                state = "down"
                detail = change.reason
            else:
                state = "drifted"
                detail = "differs in " + ", ".join(each.name for each in change.attributes)
            states[name] = state, detail
            self._board.note_cluster(
                short_name(name),
                expected=spec.parallelism,
                running=found.running_instances if found else 0,
                state=state,
                detail=detail,
                differences=[
                    DifferenceOut(each.name, desired=each.new, actual=each.old)
                    for each in (change.attributes if found and change else ())
                ],
            )
        return states


def _repair(change: Change, *, failure: str = "") -> Repair:
    return Repair(
        change.action,
        "functions",
        short_name(change.name),
        before={each.name: str(each.old) for each in change.attributes} or None,
        after={each.name: str(each.new) for each in change.attributes} or None,
        failure=failure,
    )


def _state(change: Change) -> tuple[str, int, int]:
    """What a change would do, and how many instances run and have been started again."""
    found = change.actual
    if not isinstance(found, FunctionState):
        return change.action, 0, 0
    return change.action, found.running_instances, found.restarts
