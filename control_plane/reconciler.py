"""The reconciler: makes the cluster match the topology and the database, again and again.

One control plane reconciles at a time (advisory lock). Each look:

1. delivery: topics and Pulsar subscriptions of active and paused subscriptions that are missing are
   made again, beginning at the earliest message, so that nothing is lost;
2. grants: who may read a delivery topic is who has a subscription to it, under those that are not
   paused; who may publish is who has a publisher's token; what is missing is given, and what is
   foreign taken away, also from who uses it at that moment;
3. removal: the topic of a view that no plan holds goes once every distributor runs such a plan,
   and so does what stands on the topic of reference tables;
4. backlogs: what subscriptions ask to be done about theirs;
5. groups and health: who reads under subscriptions is noted, and what has changed told as events;
   once a minute, how they are read is noted too;
6. rollout: that every distributor runs the newest plan is noted, and told as an event;
7. lanes: views that were left for another lane leave the plans when their lane has come so far;
8. functions: what operations ask for is done, one a look; config drift is redeployed, one function
   at a time; a function that is down, and whose instances have not changed for
   `unhealthy_after_seconds`, is restarted (after a broker restart nothing else brings it back),
   with a growing pause between attempts: instances that start, or that the worker starts again, are
   left to it; one that is gone for as long is created again with the code that it had when it was
   last seen. What does not become healthy gets its config from before again, unless the topology's
   was seen running: then what was before is what somebody altered by hand.

A difference must be seen in two looks before it is acted on, so that a rollout under way is not
fought. Functions that were never deployed are reported, not created: their code comes from
`scripts/deploy_functions.py`. Before that destroys functions for good, control planes are stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.broker import Broker
from control_plane.broker_grants import PUBLISHING, READING, BrokerGrants, publisher
from control_plane.database import Database, Lock, lock, try_lock
from control_plane.domains.audit.service import AuditService, Repair
from control_plane.domains.functions.codes import FunctionCodes
from control_plane.domains.functions.schemas import DifferenceOut
from control_plane.domains.functions.service import StatusBoard
from control_plane.domains.groups.watch import GroupWatch
from control_plane.domains.operations.worker import OperationWorker
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.plans.publisher import DeliveryTopics
from control_plane.domains.reference_tables import repository as table_rows
from control_plane.domains.rules import repository as rule_rows
from control_plane.domains.subscriptions import moves as move_rows
from control_plane.domains.subscriptions import repository as subscription_rows
from control_plane.domains.subscriptions.backlog import BacklogKeeper
from control_plane.domains.subscriptions.health_watch import HealthWatch
from control_plane.domains.subscriptions.lane_moves import LaneMoves
from control_plane.domains.subscriptions.models import ROUTED, State
from control_plane.domains.system.metrics import Metrics
from control_plane.domains.tokens import repository as token_rows
from control_plane.errors import UnavailableError
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin
from control_plane.settings import Settings
from control_plane.topology import (
    Actual,
    ApplyError,
    Change,
    FunctionSpec,
    FunctionState,
    Topology,
    TopologyError,
    apply,
    diff,
    load_topology,
    read_actual,
)
from marketdata.lanes import DEFAULT_LANE
from marketdata.plans import tables_in
from marketdata.topics import REFERENCE

VIEWS_PER_LOOK = 200
VIEWS_AT_ONCE = 20
"""Of which subscriptions are read together: requests are served between two reads."""
MADE_AT_ONCE = 16
"""How many Pulsar subscriptions are made again before a plan may be published."""
FIRST_RETRY_SECONDS = 15.0
LONGEST_RETRY_SECONDS = 300.0
APPLY_TIMEOUT_SECONDS = 60.0
OPERATION_TIMEOUT_SECONDS = 120.0
"""Somebody asked for it and waits; repairs come again by themselves."""

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


class Reconciler:
    """One per control plane; `run` is its task."""

    def __init__(
        self,
        database: Database,
        admin: PulsarAdmin,
        broker: Broker,
        topics: DeliveryTopics,
        grants: BrokerGrants,
        board: StatusBoard,
        metrics: Metrics,
        audit: AuditService,
        backlogs: BacklogKeeper,
        groups: GroupWatch,
        health: HealthWatch,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._admin = admin
        self._broker = broker
        self._topics = topics
        self._grants = grants
        self._board = board
        self._metrics = metrics
        self._audit = audit
        self._backlogs = backlogs
        self._groups = groups
        self._health = health
        self._settings = settings
        self._clock = clock
        self._wake = asyncio.Event()
        self._patience = Patience(settings.unhealthy_after_seconds)
        self._topology_problem: str | None = None
        self._failure: str | None = None
        self._after_view = ""
        self._codes = FunctionCodes(database, admin)
        self._operations = OperationWorker(
            database, admin, self._codes, timeout_s=OPERATION_TIMEOUT_SECONDS
        )
        self._ran: dict[str, FunctionSpec] = {}
        self._lane_moves = LaneMoves(database, admin, drain_seconds=settings.drain_seconds)

    def wake(self) -> None:
        """Look now rather than at the next interval."""
        self._wake.set()

    async def run(self) -> None:
        """Look at every interval for ever; a failure is logged and the next look comes."""
        while True:
            await self._look()
            try:
                async with asyncio.timeout(self._settings.reconcile_interval_seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _look(self) -> None:
        try:
            await self.reconcile_once()
        except UnavailableError as error:
            self._failed(error.dependency, str(error))
        except AdminError as error:
            self._failed("broker", str(error))
        except Exception:
            self._metrics.reconcile_errors.labels("none").inc()
            log.exception("reconciliation failed")
        else:
            if self._failure is not None:
                log.info("reconciliation works again")
            self._failure = None

    def _failed(self, dependency: str, reason: str) -> None:
        self._metrics.reconcile_errors.labels(dependency).inc()
        if self._failure != dependency:
            log.warning("reconciliation waits", dependency=dependency, reason=reason)
        self._failure = dependency

    async def reconcile_once(self) -> None:
        """One look at everything; returns at once while another control plane reconciles.

        Raises:
            UnavailableError, AdminError: something is down or refused; the next look repeats all.
        """
        topology = self._load()
        if topology is not None:
            self._board.expected = {
                _short(name): spec.parallelism for name, spec in topology.functions.items()
            }
            self._board.lanes = {lane: _short(name) for lane, name in topology.lanes.items()}
        async with self._database.transaction() as session:
            if not await try_lock(session, Lock.RECONCILE):
                return
            self._metrics.reconcile_runs.inc()
            steps: list[Callable[[], Awaitable[None]]] = [
                self._delivery,
                self._access,
                self._removals,
                self._backlogs.look,
                self._groups.look,
                self._health.look,
                self._rollout,
            ]
            if topology is not None:
                steps.append(partial(self._lanes, topology))
                # Last: to repair one takes a minute where it does not become healthy.
                steps.append(partial(self._functions, topology))
            failures = [failure for step in steps if (failure := await self._step(step))]
        if failures:
            raise failures[0]

    async def _step(self, step: Callable[[], Awaitable[None]]) -> AdminError | None:
        """Take a step; what fails in it does not keep the others from being taken.

        Raises:
            UnavailableError: something is down, which the other steps need too.
        """
        try:
            await step()
        except UnavailableError:
            raise
        except AdminError as error:
            return error
        except Exception:
            self._metrics.reconcile_errors.labels("none").inc()
            log.exception("reconciliation failed")
        return None

    def _load(self) -> Topology | None:
        try:
            topology = load_topology(self._settings.topology_dir).only_functions()
        except (TopologyError, OSError) as error:
            if self._topology_problem != str(error):
                log.warning("topology not readable; functions are left alone", error=str(error))
            self._topology_problem = str(error)
            return None
        self._topology_problem = None
        return topology

    async def _functions(self, topology: Topology) -> None:
        actual = await read_actual(self._admin, topology)
        changes = diff(topology, actual)
        self._note(topology, actual, changes)
        differing = {change.name for change in changes}
        self._ran |= {
            name: spec for name, spec in topology.functions.items() if name not in differing
        }
        kept = await self._codes.keep(topology, actual)
        if await self._operations.work(topology, actual):
            self.wake()
            return
        repairable = [
            change
            for change in changes
            if change.kind == "function" and (change.action != "create" or change.name in kept)
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
            else:
                self._metrics.reconcile_actions.labels(f"function_{change.action}").inc()
                log.info("function repaired", function=change.name, action=change.action)
                await self._audit.repaired([_repair(change)])
                self.wake()

    def _note(self, topology: Topology, actual: Actual, changes: list[Change]) -> None:
        """Tell the status board what the cluster says, for GET /v1/functions."""
        by_name = {change.name: change for change in changes if change.kind == "function"}
        for name, spec in topology.functions.items():
            found = actual.functions.get(name)
            change = by_name.get(name)
            if found is None:
                state = "not deployed"
                detail = "run scripts/deploy_functions.py apply"
            elif change is None:
                state, detail = "running", ""
            elif change.action == "restart":
                state = "down"
                detail = change.reason
            else:
                state = "drifted"
                detail = "differs in " + ", ".join(each.name for each in change.attributes)
            self._board.note_cluster(
                _short(name),
                expected=spec.parallelism,
                running=found.running_instances if found else 0,
                state=state,
                detail=detail,
                differences=[
                    DifferenceOut(each.name, desired=each.new, actual=each.old)
                    for each in (change.attributes if found and change else ())
                ],
            )

    async def _delivery(self) -> None:
        """Check some views a look, all of them in turn."""
        for _ in range(VIEWS_PER_LOOK // VIEWS_AT_ONCE):
            async with self._database.transaction() as session:
                found = await subscription_rows.routed(
                    session, after=self._after_view, limit=VIEWS_AT_ONCE
                )
            self._after_view = max(found) if len(found) == VIEWS_AT_ONCE else ""
            missing: list[str] = []
            for topic, names in found.values():
                try:
                    present = set(await self._admin.subscriptions(topic))
                except AdminNotFound:
                    present = set()
                missing += [key for name, key in names.items() if name not in present]
            # A few at a time: plans are not published meanwhile.
            for first in range(0, len(missing), MADE_AT_ONCE):
                await self._make_again(missing[first : first + MADE_AT_ONCE])
            if not self._after_view:
                return

    async def _make_again(self, missing: list[str]) -> None:
        """Make those topics and Pulsar subscriptions that subscriptions still need."""
        async with self._database.transaction() as session:
            # Under the publisher's lock, and only what is active still: it removes cursors too.
            await lock(session, Lock.PUBLISH)
            lost = await subscription_rows.still_routed(session, missing)
            # What a set held before is not for who is entitled by it now.
            policy = await rule_rows.policy(session)
            by_sets = [row for row in lost if policy.allowed(row.consumer).events.sets]
            await self._topics.ensure(by_sets, start="latest")
            others = [row for row in lost if row not in by_sets]
            await self._topics.ensure(others, start="earliest")
        self._metrics.reconcile_actions.labels("delivery").inc(len(lost))
        log.warning(
            "missing Pulsar subscriptions made again", subscriptions=[row.id for row in lost]
        )
        await self._audit.repaired(
            Repair("make again", "subscriptions", row.id, after={"topic": row.view.topic})
            for row in lost
        )

    async def _access(self) -> None:
        """Make the grants on topics those that subscriptions and publishers' tokens need."""
        if not await self._grants.enabled():
            return
        async with self._database.transaction() as session:
            # Under the publisher's lock: it gives and takes grants too.
            await lock(session, Lock.PUBLISH)
            # Of pending ones the publisher has not made the topic yet, perhaps.
            active = await subscription_rows.grants(session, ROUTED)
            active |= await move_rows.grants(session)
            pending = await subscription_rows.grants(session, [State.PENDING])
            try:
                given, taken = await self._grants.correct(READING, active, tolerated=pending)
                blocked = await subscription_rows.blocked(session)
                made, ended = await self._grants.correct_blocks(blocked)
                publishers = await token_rows.publishers(session)
                more, less = await self._grants.correct(PUBLISHING, set(map(publisher, publishers)))
            except AdminNotFound as error:
                log.info("the topology is not applied: no grants yet", reason=str(error))
                return
        given, taken = given | more, taken | less
        if made or ended:
            self._metrics.reconcile_actions.labels("blocks").inc(len(made | ended))
            log.warning("pauses corrected", blocked=sorted(made), let_read=sorted(ended))
        if given or taken:
            self._metrics.reconcile_actions.labels("grants").inc(len(given | taken))
            log.warning("grants corrected", given=sorted(given), taken=sorted(taken))
            await self._audit.repaired(
                Repair(action, "grants", topic, after={"role": role})
                for action, grants in (("give", given), ("take", taken))
                for topic, role in sorted(grants)
            )

    async def _removals(self) -> None:
        applied = self._board.least_plan()
        if applied is None:
            return
        async with self._database.transaction() as session:
            await lock(session, Lock.PUBLISH)
            for view in await plan_rows.retired_views(session, applied):
                try:
                    await self._admin.delete_topic(view.topic, partitioned=True)
                except AdminNotFound:
                    pass
                except AdminError as error:
                    log.info("topic still in use; kept for now", topic=view.topic, error=str(error))
                    continue
                view.retired_in_plan = None
                self._metrics.reconcile_actions.labels("topic_removed").inc()
                log.info("delivery topic removed", topic=view.topic)
            await self._tables(session, applied)

    async def _tables(self, session: AsyncSession, applied: int) -> None:
        """Take those reference tables from their topic that no plan which may still run names."""
        newest = await plan_rows.newest(session)
        if newest is None or newest.published_at is None or applied < newest.number:
            return
        gone = await table_rows.on_topic(session)
        if gone:
            document = (await plan_rows.find(session, newest.number)).document
            named = {one.digest for one in (await asyncio.to_thread(tables_in, document)).values()}
            gone = {digest: version for digest, version in gone.items() if digest not in named}
        for version in gone.values():
            for key in version.ref.keys:
                await self._broker.publish(REFERENCE, b"", key=key)
        if gone:
            await table_rows.mark_withdrawn(session, gone)
            self._metrics.reconcile_actions.labels("table_withdrawn").inc(len(gone))
            log.info("reference tables withdrawn", digests=sorted(gone))
        await table_rows.forget_contents(session)

    async def _rollout(self) -> None:
        async with self._database.transaction() as session:
            newest = await plan_rows.newest_published(session)
            progress = self._board.progress(newest)
            if newest and progress.complete:
                await plan_rows.mark_applied(session, newest, progress.applied)

    async def _lanes(self, topology: Topology) -> None:
        cursors = {
            lane: topology.functions[name].subscription for lane, name in topology.lanes.items()
        }
        if DEFAULT_LANE in cursors and await self._lane_moves.look(cursors) is not None:
            self.wake()


def _repair(change: Change, *, failure: str = "") -> Repair:
    return Repair(
        change.action,
        "functions",
        _short(change.name),
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


def _short(function: str) -> str:
    return function.rsplit("/", 1)[-1]
