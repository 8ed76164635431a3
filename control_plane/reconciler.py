"""The reconciler: makes the cluster match the topology and the database, again and again.

One control plane reconciles at a time (advisory lock). Each look at topics and subscriptions:

1. delivery: topics and Pulsar subscriptions of active and paused subscriptions that are missing are
   made again, beginning at the earliest message, so that nothing is lost;
2. grants: who may read a delivery topic is who has a subscription to it, under those that are not
   paused; who may publish is who has a publisher's token; what is missing is given, and what is
   foreign taken away, also from who uses it at that moment;
3. removal: the topic of a view that no plan holds goes once every distributor runs such a plan,
   and so does what stands on the topic of reference tables;
4. backlogs: what subscriptions ask to be done about theirs;
5. groups and health: who reads under subscriptions is noted, and what has changed told as events;
   once a minute, how they are read is noted too, what is unusual about it told, and which
   certificates and tokens will end;
6. rollout: that every distributor runs the newest plan is noted, and told as an event;
7. lanes: views that were left for another lane leave the plans when their lane has come so far.

Nothing in a look takes long, since others wait for it: who may no longer read or publish is cut off
by the next one. So functions, of which one may take minutes, are looked after beside it
(`function_keeper`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.broker import Broker
from control_plane.broker_grants import PUBLISHING, READING, BrokerGrants, publisher
from control_plane.database import Database, Lock, lock
from control_plane.domains.alerts.watch import ExpiryWatch
from control_plane.domains.audit.service import AuditService, Repair
from control_plane.domains.functions.service import StatusBoard
from control_plane.domains.functions.topology import KnownTopology
from control_plane.domains.groups.watch import GroupWatch
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.plans.delivery_topics import DeliveryTopics
from control_plane.domains.reference_tables import repository as table_rows
from control_plane.domains.rules import repository as rule_rows
from control_plane.domains.subscriptions import draining
from control_plane.domains.subscriptions import repository as subscription_rows
from control_plane.domains.subscriptions.backlog_keeper import BacklogKeeper
from control_plane.domains.subscriptions.health_watch import HealthWatch
from control_plane.domains.subscriptions.lane_moves import LaneMoves
from control_plane.domains.subscriptions.models import ROUTED, State
from control_plane.domains.system.metrics import Metrics
from control_plane.domains.tokens import repository as token_rows
from control_plane.errors import DatabaseUnavailableError, UnavailableError
from control_plane.fenced_topics import FencedTopics
from control_plane.looks import Looks
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin
from control_plane.settings import Settings
from marketdata.lanes import DEFAULT_LANE
from marketdata.plans import tables_in
from marketdata.topics import REFERENCE

VIEWS_PER_LOOK = 200
VIEWS_AT_ONCE = 20
"""Of which subscriptions are read together: requests are served between two reads."""
MADE_AT_ONCE = 16
"""How many Pulsar subscriptions are made again before a plan may be published."""

log = structlog.get_logger(__name__)


class Reconciler(Looks):
    """One per control plane; `run` is its task."""

    under = Lock.RECONCILE

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
        expiry: ExpiryWatch,
        topology: KnownTopology,
        fenced: FencedTopics,
        settings: Settings,
    ) -> None:
        super().__init__(database, metrics, interval_seconds=settings.reconcile_interval_seconds)
        self._admin = admin
        self._broker = broker
        self._topics = topics
        self._grants = grants
        self._board = board
        self._audit = audit
        self._backlogs = backlogs
        self._groups = groups
        self._topology = topology
        self._health = health
        self._fenced = fenced
        self._expiry = expiry
        self._after_view = ""
        self._lane_moves = LaneMoves(database, admin, drain_seconds=settings.drain_seconds)

    async def look(self) -> None:
        """One look at everything but functions."""
        self._metrics.reconcile_runs.inc()
        steps = (
            self._delivery,
            self._access,
            self._removals,
            self._backlogs.look,
            self._groups.look,
            self._health.look,
            self._expiry.look,
            self._rollout,
            self._lanes,
        )
        failures = [failure for step in steps if (failure := await self._step(step))]
        if failures:
            raise failures[0]

    async def _step(
        self, step: Callable[[], Awaitable[None]]
    ) -> AdminError | UnavailableError | None:
        """Take a step; what fails in it does not keep the others from being taken.

        Raises:
            DatabaseUnavailableError: the other steps need it too.
        """
        try:
            await step()
        except DatabaseUnavailableError:
            raise
        except (AdminError, UnavailableError) as error:
            return error
        except Exception:
            self._metrics.reconcile_errors.labels("none").inc()
            log.exception("reconciliation failed")
        return None

    async def _delivery(self) -> None:
        """Check some views a look, all of them in turn."""
        for _ in range(VIEWS_PER_LOOK // VIEWS_AT_ONCE):
            async with self._database.transaction() as session:
                found = await subscription_rows.readers(
                    session, ROUTED, after=self._after_view, limit=VIEWS_AT_ONCE
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
            active |= await draining.grants(session)
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
                    self._fenced.failed(view.topic, error)
                    log.info("topic still in use; kept for now", topic=view.topic, error=str(error))
                    continue
                self._fenced.works(view.topic)
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

    async def _lanes(self) -> None:
        topology = self._topology.functions
        if topology is None:
            return
        cursors = topology.lane_subscriptions
        if DEFAULT_LANE in cursors and await self._lane_moves.look(cursors) is not None:
            self.wake()
