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
  without it is published.
- One control plane publishes at a time (advisory lock), always the newest plan.
- Every step may be repeated: a crash anywhere is repaired by the next run.
- The topic is compared with the database at the start and at intervals; a plan that is missing
  there (topic deleted, disk lost) is published again, and a topic that is ahead of the database
  (database lost or restored) is answered with a plan of a higher number. Reference tables that are
  not whole on their topic are published again, before the plan that names them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

import msgspec
import structlog
from sqlalchemy import func, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.broker import Broker
from control_plane.broker_grants import READING, BrokerGrants, Grant
from control_plane.database import Database, Lock, lock
from control_plane.domains.events.repository import Change, record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.plans import repository
from control_plane.domains.plans.models import PlanRow, ViewRow
from control_plane.domains.reference_tables import repository as table_rows
from control_plane.domains.subscriptions import moves as move_rows
from control_plane.domains.subscriptions import repository as subscription_rows
from control_plane.domains.subscriptions.models import LIVE, Subscription
from control_plane.errors import BrokerUnavailableError, UnavailableError
from control_plane.pulsar_admin import AdminConflict, AdminError, AdminNotFound, PulsarAdmin
from marketdata.formats.pulsar_schemas import PulsarSchema
from marketdata.plans import PLAN_KEY, Plan, ViewSpec, decode_plan, tables_in
from marketdata.reference import TableRef, pieces_of
from marketdata.topics import PLANS, REFERENCE, SEQUENCED_EVENTS
from marketdata.view_schemas import topic_schema

MAX_CONCURRENT_ADMIN_CALLS = 16
JOINING_A_TURN = 16
"""How many subscriptions that need no plan become active between two looks for a new plan."""
LEFT_A_TURN = 64
"""How many Pulsar subscriptions of closed ones are deleted between two looks for a new plan."""
MAX_BACKOFF_SECONDS = 5.0
SCHEMA_REFUSED = (409, 422)
"""HTTP statuses: it is not compatible with those that the topic has, or none for the broker."""

log = structlog.get_logger(__name__)


class Cursor(Protocol):
    """A row that stands for a Pulsar subscription on a view's topic."""

    @property
    def view(self) -> ViewRow:
        """The view."""

    @property
    def subscription_name(self) -> str:
        """The name of the Pulsar subscription."""

    @property
    def grant(self) -> Grant:
        """The topic, and the consumer who may read it for this."""


AnyCursor = TypeVar("AnyCursor", bound=Cursor)


class DeliveryTopics:
    """Creates and removes delivery topics, the Pulsar subscriptions on them and the grants to read.

    All of it may be repeated.

    Args:
        on_schema_refused: called when the broker takes no schema for a topic, which then has none
            or an older one; its messages are written by the view's format all the same.
    """

    def __init__(
        self,
        admin: PulsarAdmin,
        grants: BrokerGrants,
        *,
        on_schema_refused: Callable[[], None] | None = None,
    ) -> None:
        self._admin = admin
        self._grants = grants
        self._on_schema_refused = on_schema_refused
        self._limit = asyncio.Semaphore(MAX_CONCURRENT_ADMIN_CALLS)

    async def ensure(self, subscriptions: Sequence[Subscription], *, start: str | None) -> None:
        """Make every topic and Pulsar subscription exist; `start` overrides where they begin."""
        if not subscriptions:
            return
        with _admin_errors():
            partitions = await self._admin.partitions(SEQUENCED_EVENTS)
            views = {row.view.topic: row.view for row in subscriptions}
            await asyncio.gather(
                *(self._topic(views[topic], partitions) for topic in sorted(views))
            )
            await self._grants.give(READING, (row.grant for row in subscriptions))
            await asyncio.gather(
                *(
                    self._cursor(
                        row.view.topic,
                        row.subscription_name,
                        start or row.next_start,
                    )
                    for row in subscriptions
                )
            )

    async def drop_cursors(
        self, rows: Sequence[AnyCursor], *, still_granted: Collection[Grant]
    ) -> list[AnyCursor]:
        """Delete Pulsar subscriptions, connected or not; gives the rows of those that are gone.

        First their consumers lose the grants that no other subscription needs (`still_granted`): a
        client that is cut off tries to connect again at once.
        """
        try:
            await self._grants.take({row.grant for row in rows} - set(still_granted))
        except AdminError as error:
            log.warning("grants not taken away yet", error=str(error))
            return []

        async def drop(row: AnyCursor) -> bool:
            name = row.subscription_name
            async with self._limit:
                try:
                    await self._admin.delete_subscription(row.view.topic, name, force=True)
                except AdminNotFound:
                    return True
                except AdminError as error:
                    log.warning("cursor not removed yet", subscription=name, error=str(error))
                    return False
            return True

        gone = await asyncio.gather(*map(drop, rows))
        return [row for row, is_gone in zip(rows, gone, strict=True) if is_gone]

    async def block(self, subscription: str, *, blocked: bool) -> None:
        """Let nobody read under a Pulsar subscription, or whoever may read its topic again."""
        with _admin_errors():
            await self._grants.block(subscription, blocked=blocked)

    async def _topic(self, view: ViewRow, partitions: int) -> None:
        topic = view.topic
        schema = topic_schema(msgspec.convert(view.spec, ViewSpec))
        async with self._limit:
            with suppress(AdminConflict):
                await self._admin.create_topic(topic, partitions=partitions)
                log.info("delivery topic created", topic=topic, partitions=partitions)
            if schema is not None:
                await self._register(topic, schema)

    async def _register(self, topic: str, schema: PulsarSchema) -> None:
        """Give a topic its schema; one that is refused must not hold up everybody's plans."""
        try:
            await self._admin.set_schema(topic, schema.type, schema.definition)
        except AdminError as error:
            if error.status not in SCHEMA_REFUSED:
                raise
            log.warning("the broker refuses the schema of a topic", topic=topic, error=str(error))
            if self._on_schema_refused is not None:
                self._on_schema_refused()

    async def _cursor(self, topic: str, subscription: str, start: str) -> None:
        async with self._limit:
            try:
                await self._admin.create_subscription(
                    topic, subscription, start="earliest" if start == "earliest" else "latest"
                )
            except AdminConflict:
                return


@contextmanager
def _admin_errors() -> Iterator[None]:
    """Errors of the admin API become those of requests and of the outbox."""
    try:
        yield
    except AdminNotFound as error:
        raise BrokerUnavailableError(
            "The topology is not applied: run scripts/deploy_functions.py apply."
        ) from error
    except AdminError as error:
        raise BrokerUnavailableError(f"The broker's admin API failed: {error}") from error


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
                self._failed(str(error), waiters)
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
        async with self._database.transaction() as session:
            await _lock_publication(session)
            plan = await repository.newest(session)
            if plan is None:
                return False
            if plan.published_at is None:
                await self._publish(session, plan)
            else:
                await self._cut_off(session, plan.number)
            joining = await subscription_rows.pending(
                session, upto=plan.number, limit=JOINING_A_TURN + 1
            )
            self.behind = len(joining) > JOINING_A_TURN
            joining = joining[:JOINING_A_TURN]
            await self._topics.ensure(joining, start=None)
            await subscription_rows.activate(session, [row.id for row in joining], plan.number)
            await self._tell_pauses(session)
            closed = await subscription_rows.cursors_left(session, plan.number, limit=LEFT_A_TURN)
            dropped = await self._drop(session, closed)
            await subscription_rows.mark_cursors_removed(session, [row.id for row in dropped])
            drained = await self._drop(session, await move_rows.overdue(session))
            await move_rows.end(session, [move.id for move in drained])
            return self.behind or len(dropped) == LEFT_A_TURN

    async def _tell_pauses(self, session: AsyncSession) -> None:
        """Let nobody read under Pulsar subscriptions that pause, and under others again."""
        for row in await subscription_rows.to_tell(session):
            blocked = not row.blocked
            await self._topics.block(row.subscription_name, blocked=blocked)
            row.blocked = blocked
        await session.flush()

    async def _cut_off(self, session: AsyncSession, number: int) -> None:
        """Take away what could read a plan's views without having them any more."""
        exposed = await move_rows.exposed(session, number)
        dropped = await self._drop(session, exposed)
        await move_rows.end(session, [move.id for move in dropped])
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
        needed |= await move_rows.grants(session, without=rows)
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
                    " WHERE m.ended_at IS NULL AND NOT m.goes_on"
                    " AND m.drain_until <= clock_timestamp()"
                    " AND NOT (s.paused_at IS NOT NULL AND s.state <> 'closed' AND m.allowed))"
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
