"""The outbox worker: makes the broker hold what the database has decided.

Guarantees:

- A plan is published only when the delivery topic and the Pulsar subscription of every
  subscription that it was made for exist and its consumer may read them, so no event of a
  subscription can be routed before its cursor is there.
- Subscriptions that join a view which a published plan holds, and Pulsar subscriptions of closed
  ones, are worked off in turns, a few each: a new plan waits for one turn at most, however many
  there are (decision 56).
- A plan is published only when no subscription can read a view of it that it has left, so no event
  that is routed from then on reaches a consumer who has lost it.
- A plan is published only when the reference tables that it names stand on their topic.
- Nobody reads under the Pulsar subscription of a paused one, where the broker asks who its clients
  are.
- The Pulsar subscription of a closed one is deleted, and its consumer cut off, when the plan
  without it is published. One that is drained is closed when that is done.
- One control plane publishes at a time (advisory lock), always the newest plan.
- Every step may be repeated: a crash anywhere is repaired by the next run. What fails in one, as a
  topic that cannot be made for who joins, undoes no other and keeps no other from being done.
- The topic is compared with the database at the start and at intervals; a plan that is missing
  there (topic deleted, disk lost) is published again, and a topic that is ahead of the database
  (database lost or restored) is answered with a plan of a higher number. Reference tables that are
  not whole on their topic are published again, before the plan that names them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec
import structlog
from sqlalchemy import func, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.broker import Broker
from control_plane.database import Database, Lock, lock
from control_plane.domains.events.repository import Change, record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.plans import repository
from control_plane.domains.plans.delivery_topics import AnyCursor, DeliveryTopics
from control_plane.domains.plans.models import PlanRow
from control_plane.domains.reference_tables import repository as table_rows
from control_plane.domains.subscriptions import draining
from control_plane.domains.subscriptions import repository as subscription_rows
from control_plane.domains.subscriptions.closing import close_drained
from control_plane.domains.subscriptions.models import LIVE
from control_plane.errors import BrokerUnavailableError, UnavailableError
from marketdata.plans import PLAN_KEY, Plan, decode_plan, tables_in
from marketdata.reference import TableRef, pieces_of
from marketdata.topics import PLANS, REFERENCE

JOINING_A_TURN = 16
"""How many subscriptions that need no plan become active between two looks for a new plan."""
LEFT_A_TURN = 64
"""How many Pulsar subscriptions of closed ones are deleted between two looks for a new plan."""
MAX_BACKOFF_SECONDS = 5.0

log = structlog.get_logger(__name__)


class PlanPublisher:
    """One per control plane; `run` is its task, `published` what requests wait on."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        topics: DeliveryTopics,
        *,
        poll_seconds: float,
        compare_seconds: float,
        on_published: Callable[[int, int], None] | None = None,
    ) -> None:
        self._database = database
        self._broker = broker
        self._topics = topics
        self._poll_seconds = poll_seconds
        self._compare_seconds = compare_seconds
        self._on_published = on_published
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._compare_at = 0.0
        self.behind = False
        """Whether more subscriptions than a turn takes wait to join views: who comes now waits."""
        self.failure: str | None = None
        """Why the last run failed; None after a good one."""

    def wake(self) -> None:
        """Run now rather than at the next interval."""
        self._wake.set()

    async def published(self, timeout_seconds: float, *, joining: bool = False) -> bool:
        """Whether all plans committed before the call were published within the time given.

        Args:
            joining: it is a subscription that waits, and needs no plan: not while others wait
                before it that take longer than a turn.
        """
        if joining and self.behind:
            return False
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.wake()
        try:
            async with asyncio.timeout(timeout_seconds):
                await waiter
        except TimeoutError:
            return False
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return True

    async def run(self) -> None:
        """Publish for ever; a failure is logged and tried again with a growing pause."""
        pause = self._poll_seconds
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            waiters, self._waiters = self._waiters, []
            try:
                await self._turn()
            except UnavailableError as error:
                self._failed(error.reason, waiters)
                pause = min(max(pause, 0.1) * 2, MAX_BACKOFF_SECONDS)
            except Exception as error:
                log.exception("publication failed")
                self._failed(f"{type(error).__name__}", waiters)
                pause = MAX_BACKOFF_SECONDS
            else:
                if self.failure is not None:
                    log.info("publication works again")
                self.failure = None
                pause = self._poll_seconds
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)

    async def _turn(self) -> None:
        if time.monotonic() >= self._compare_at:
            await self.compare_with_topic()
            self._compare_at = time.monotonic() + self._compare_seconds
        if await self.publish_once():
            self.wake()

    def _failed(self, reason: str, waiters: list[asyncio.Future[None]]) -> None:
        if self.failure != reason:
            log.warning("publication waits", reason=reason)
        self.failure = reason
        self._compare_at = 0.0
        # They wait on: a later run within their time serves them.
        self._waiters[:0] = [waiter for waiter in waiters if not waiter.done()]

    async def publish_once(self) -> bool:
        """One turn: bring the broker to the newest plan, and do some of what needs no plan.

        Returns:
            Whether there is more to do than a turn takes.

        Raises:
            UnavailableError: something is down; what was done stays done.
        """
        async with self._database.transaction() as session:
            if not await self._has_work(session):
                self.behind = False
                return False
        more, failures = False, []
        # Each by itself: what fails in one undoes nothing, and keeps no other from being done.
        for part in (self._publish_newest, self._tell_pauses, self._remove, self._join):
            try:
                async with self._database.transaction() as session:
                    await _lock_publication(session)
                    more |= await part(session)
            except BrokerUnavailableError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return more

    async def _publish_newest(self, session: AsyncSession) -> bool:
        """Publish the newest plan, unless it is."""
        plan = await repository.newest(session)
        if plan is not None and plan.published_at is None:
            await self._publish(session, plan)
        elif plan is not None:
            await self._cut_off(session, plan.number)
        return False

    async def _join(self, session: AsyncSession) -> bool:
        """Let some subscriptions become active that need no plan but those that are published."""
        number = await repository.newest_published(session)
        joining = await subscription_rows.pending(session, upto=number, limit=JOINING_A_TURN + 1)
        self.behind = len(joining) > JOINING_A_TURN
        joining = joining[:JOINING_A_TURN]
        await self._topics.ensure(joining, start=None)
        await subscription_rows.activate(session, [row.id for row in joining], number)
        return self.behind

    async def _remove(self, session: AsyncSession) -> bool:
        """Remove what closed subscriptions had, and what was drained long enough."""
        number = await repository.newest_published(session)
        closed = await subscription_rows.cursors_left(session, number, limit=LEFT_A_TURN)
        dropped = await self._drop(session, closed)
        await subscription_rows.mark_cursors_removed(session, [row.id for row in dropped])
        drained = await self._drop(session, await draining.overdue(session, number))
        await draining.end(session, [move.id for move in drained])
        await close_drained(session)
        return len(dropped) == LEFT_A_TURN

    async def _tell_pauses(self, session: AsyncSession) -> bool:
        """Let nobody read under Pulsar subscriptions that pause, and under others again."""
        for row in await subscription_rows.to_tell(session):
            blocked = not row.blocked
            await self._topics.block(row.subscription_name, blocked=blocked)
            row.blocked = blocked
        await session.flush()
        return False

    async def _cut_off(self, session: AsyncSession, number: int) -> None:
        """Take away what could read a plan's views without having them any more."""
        exposed = await draining.exposed(session, number)
        dropped = await self._drop(session, exposed)
        await draining.end(session, [move.id for move in dropped])
        if len(dropped) < len(exposed):
            raise BrokerUnavailableError(
                "A Pulsar subscription on a view that was left could not be removed."
            )

    async def _drop(self, session: AsyncSession, rows: Sequence[AnyCursor]) -> list[AnyCursor]:
        """Delete Pulsar subscriptions and the grants that nothing else of their consumers needs."""
        if not rows:
            return []
        among = {row.grant for row in rows}
        needed = await subscription_rows.grants(session, LIVE, among=among)
        needed |= await draining.grants(session, without=rows)
        return await self._topics.drop_cursors(rows, still_granted=needed)

    async def _has_work(self, session: AsyncSession) -> bool:
        return bool(
            await session.scalar(
                text(
                    "SELECT EXISTS (SELECT FROM plans WHERE published_at IS NULL AND number >"
                    " COALESCE((SELECT max(number) FROM plans WHERE published_at IS NOT NULL), 0))"
                    " OR EXISTS (SELECT FROM subscriptions WHERE state = 'pending')"
                    " OR EXISTS (SELECT FROM subscriptions"
                    " WHERE state = 'closed' AND cursor_removed_at IS NULL)"
                    " OR EXISTS (SELECT FROM subscriptions WHERE (paused_at IS NOT NULL OR blocked)"
                    " AND blocked <> (paused_at IS NOT NULL AND state <> 'closed'))"
                    " OR EXISTS (SELECT FROM subscription_moves AS m JOIN subscriptions AS s"
                    " ON s.id = m.subscription_id"
                    " WHERE m.ended_at IS NULL AND NOT m.goes_on AND NOT m.tells_unread"
                    " AND m.drain_until <= clock_timestamp()"
                    " AND NOT (s.paused_at IS NOT NULL AND s.state <> 'closed' AND m.allowed))"
                    " OR EXISTS (SELECT FROM subscriptions AS s WHERE s.state = 'draining'"
                    " AND NOT EXISTS (SELECT FROM subscription_moves AS m"
                    " WHERE m.subscription_id = s.id AND m.view_id = s.view_id"
                    " AND m.ended_at IS NULL))"
                )
            )
        )

    async def _publish(self, session: AsyncSession, plan: PlanRow) -> None:
        """Make what a plan needs, and publish it."""
        waiting = await subscription_rows.pending(
            session, above=await repository.newest_published(session), upto=plan.number
        )
        await self._topics.ensure(waiting, start=None)
        await self._cut_off(session, plan.number)
        await session.refresh(plan, ["document"])
        await self._publish_tables(session, await asyncio.to_thread(tables_in, plan.document))
        # Before the send: functions may report the plan before the broker's answer is here.
        started_ns = time.time_ns()
        await self._broker.publish(PLANS, plan.document, key=PLAN_KEY)
        await session.execute(
            update(PlanRow)
            .where(PlanRow.number == plan.number)
            .values(published_at=func.clock_timestamp())
        )
        published = {"plan": plan.number, "views": plan.view_count}
        await record(session, Change(EventType.PLAN_PUBLISHED, published))
        if self._on_published is not None:
            self._on_published(plan.number, started_ns)
        await subscription_rows.activate(session, [row.id for row in waiting], plan.number)
        log.info(
            "plan published",
            plan=plan.number,
            digest=plan.digest,
            views=plan.view_count,
            correlation_id=plan.correlation_id,
        )

    async def _publish_tables(self, session: AsyncSession, tables: dict[str, TableRef]) -> None:
        """Make the contents of a plan's reference tables stand on their topic."""
        digests = {one.digest for one in tables.values()}
        lacking = await table_rows.unpublished(session, digests)
        for digest, content in (await table_rows.contents(session, lacking)).items():
            for key, piece in pieces_of(digest, content).items():
                await self._broker.publish(REFERENCE, piece, key=key)
            log.info("reference table published", digest=digest, bytes=len(content))
        await table_rows.mark_published(session, lacking)

    async def compare_with_topic(self) -> None:
        """Repair a difference between the topic's last plan and the database's newest."""
        async with self._database.transaction() as session:
            await _lock_publication(session)
            there = await self._plan_on_topic()
            newest = await repository.newest(session)
            absent = await self._note_lost_tables(session, there)
            if newest is None:
                number = there.number if there else 0
                await repository.compile_next(session, "start", above=number)
                if there is not None:
                    log.warning("the database knows no plan, the topic does", plan=number)
            elif there is not None and (
                there.number > newest.number
                or (there.number == newest.number and there.digest != newest.digest)
            ):
                log.warning(
                    "the topic is ahead of the database: compiling a newer plan",
                    topic_plan=there.number,
                    database_plan=newest.number,
                )
                await repository.compile_next(session, "repair", above=there.number)
            elif newest.published_at is not None and (
                there is None or there.number < newest.number
            ):
                log.warning(
                    "the newest plan is missing on the topic: publishing it again",
                    plan=newest.number,
                    topic_plan=there.number if there else None,
                )
                newest.published_at = None
            elif newest.published_at is not None and absent:
                # With the tables that it names.
                newest.published_at = None

    async def _note_lost_tables(self, session: AsyncSession, plan: Plan | None) -> list[str]:
        """Look which reference tables stand on their topic, whole, and note those that do not.

        PostgreSQL is no witness: it, or the topic, may be what was restored or made again.

        Returns:
            The names of tables of the plan on the topic that are not there.
        """
        noted = await table_rows.on_topic(session)
        named = (plan.tables if plan else None) or {}
        if not noted and not named:
            return []
        keys = await self._broker.keys(REFERENCE)
        lost = [
            digest for digest, version in noted.items() if not keys.issuperset(version.ref.keys)
        ]
        absent = sorted(name for name, one in named.items() if not keys.issuperset(one.keys))
        if lost or absent:
            log.warning("reference tables are missing on their topic", digests=lost, tables=absent)
        await table_rows.mark_withdrawn(session, lost)
        return absent

    async def _plan_on_topic(self) -> Plan | None:
        document = await self._broker.newest_message(PLANS)
        if document is None:
            return None
        try:
            return await asyncio.to_thread(decode_plan, document)
        except (msgspec.DecodeError, UnicodeDecodeError):
            log.warning("the last message of the plan topic is no plan")
            return None


async def _lock_publication(session: AsyncSession) -> None:
    await session.execute(text("SET LOCAL lock_timeout = '10s'"))
    await lock(session, Lock.PUBLISH)
