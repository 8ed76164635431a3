"""Rolling back to an earlier plan: its definitions are put back, and all of it makes one plan.

A plan follows from rows, and the publisher publishes what they compile to. So the rows are changed
back, by the code that changes them otherwise, within what entitlements, suspensions and routing
rules allow now. Rows, moves and the plan commit together, so functions switch between two frames.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

import psycopg
import structlog
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database, Lock, lock
from control_plane.domains.events.repository import Change, record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.plans.comparing import compared
from control_plane.domains.plans.models import PlanRow
from control_plane.domains.rollbacks import asking
from control_plane.domains.rollbacks.contents import Contents
from control_plane.domains.rollbacks.outcome import MOST, Outcome
from control_plane.domains.rollbacks.ruling import Ruling
from control_plane.domains.rollbacks.schemas import RollbackOut, RollbackRequest
from control_plane.domains.rules import repository as rule_rows
from control_plane.domains.rules.following import bounds_changed
from control_plane.domains.rules.policy import Policy
from control_plane.domains.subscriptions import repository as subscription_rows
from control_plane.domains.subscriptions.draining import lock_open
from control_plane.domains.subscriptions.models import Subscription
from control_plane.domains.subscriptions.moves import follow_bounds
from control_plane.domains.subscriptions.returning import NEVER
from control_plane.domains.subscriptions.service import Publication
from control_plane.pages import check_match
from control_plane.requests import current_request_id
from control_plane.rows import touch
from marketdata.entitlements import Bounds
from marketdata.plans import decode_plan

PATIENCE = "2s"
"""How long a publication that is under way is waited for."""

log = structlog.get_logger(__name__)


class RollbackService:
    """Puts back the definitions of an earlier plan."""

    def __init__(
        self,
        database: Database,
        publication: Publication,
        *,
        lanes: Callable[[], Collection[str]],
        drain_seconds: float,
        wait_seconds: float,
    ) -> None:
        self._database = database
        self._publication = publication
        self._lanes = lanes
        self._drain_seconds = drain_seconds
        self._wait_seconds = wait_seconds

    async def roll_back(
        self, number: int, data: RollbackRequest, if_match: str | None
    ) -> tuple[RollbackOut, int]:
        """Put back what has changed since a plan; gives the number of the newest one, too.

        Nothing here needs the broker, nor that any function has read the newest plan.

        Raises:
            NotFoundError: there is no such plan.
            PreconditionFailedError: If-Match does not name the newest plan.
            InvalidRequestError: with the rules of then, a subscription's condition that is not put
                back would cost too much.
            ConflictError: too much has changed, or the plan would be too large.
        """
        async with self._database.transaction() as session:
            # In the order of all who take both.
            unpublished = await _unpublished(session)
            await lock(session, Lock.PLAN_SEQUENCE)
            newest = await plan_rows.newest(session)
            current = newest.number if newest else 0
            check_match(if_match, current)
            savepoint = await session.begin_nested()
            rollback = _Rollback(session, number, current, data, unpublished)
            out = await rollback.carry_out(self._lanes(), self._drain_seconds)
            # A dry run is the same up to here: it cannot say anything else.
            await (savepoint.rollback() if data.dry_run else savepoint.commit())
        if data.dry_run:
            return out, current
        log.info("rolled back", to=number, plan=out.plan, put_back=len(out.put_back))
        await self._publication.published(self._wait_seconds)
        return out, out.plan


class _Rollback:
    """One of them, in the session's transaction under Lock.PLAN_SEQUENCE."""

    def __init__(
        self,
        session: AsyncSession,
        number: int,
        current: int,
        data: RollbackRequest,
        unpublished: int,
    ) -> None:
        self._session = session
        self._number = number
        self._current = current
        self._data = data
        self._unpublished = unpublished
        self._outcome = Outcome()
        self._contents = Contents()

    async def carry_out(self, lanes: Collection[str], drain_seconds: float) -> RollbackOut:
        """Put everything back, make the plan of it, and tell."""
        since = await plan_rows.end_of(self._session, self._number)
        ruling = await self._definitions()
        bounds = await bounds_changed(self._session, ruling.before, ruling.after)
        restored = await self._subscriptions(since, bounds, ruling.after, lanes)
        bounds |= {row.consumer_id: ruling.after.allowed(row.consumer) for row in restored.rows}
        plan = await self._plan(bounds, restored, drain_seconds)
        await self._tell(plan, ruling, restored)
        if since is not None and "subscriptions" in self._data.parts:
            await asking.tell_others(self._session, self._number, since, self._outcome)
        changes = None
        if plan > self._current:
            changes = await compared(self._session, self._current, plan)
        return RollbackOut(
            to=self._number,
            before=self._current,
            plan=plan,
            dry_run=self._data.dry_run,
            put_back=self._outcome.put_back[:MOST],
            kept=self._outcome.kept[:MOST],
            changes=changes,
            cut=self._outcome.cut or (changes is not None and changes.cut),
        )

    async def _definitions(self) -> Ruling:
        """Put back what subscriptions name, or are bounded by: before what names it is checked."""
        session, data, outcome = self._session, self._data, self._outcome
        row = await plan_rows.find(session, self._number)
        then = await asyncio.to_thread(decode_plan, row.document)
        ruling = await Ruling.now(session)
        if "instrument_sets" in data.parts:
            await self._contents.put_back_sets(
                session, then, outcome, ruling=ruling.sets, widen=data.widen
            )
        if "reference_tables" in data.parts:
            await self._contents.put_back_tables(session, then, outcome)
        if "rules" in data.parts:
            rules = await rule_rows.rules_of(session, self._number)
            await ruling.put_back(session, rules, outcome, widen=data.widen)
        return ruling

    async def _subscriptions(
        self,
        since: datetime | None,
        others: Collection[str],
        policy: Policy,
        lanes: Collection[str],
    ) -> asking.Restored:
        """Put back what subscriptions asked for.

        Args:
            others: the consumers whose subscriptions follow the rules besides.
        """
        befores: asking.Befores = {}
        if since is not None and "subscriptions" in self._data.parts:
            befores = await asking.changed_since(self._session, self._number, since)
        consumers = {*others, *await asking.consumers_of(self._session, befores)}
        # Before any of their rows, as everybody does.
        await lock_open(self._session, Subscription.consumer_id.in_(consumers))
        return await asking.put_back(
            self._session,
            befores,
            self._outcome,
            policy=policy,
            lanes=lanes,
            unpublished=self._unpublished,
        )

    async def _plan(
        self, bounds: dict[str, Bounds], restored: asking.Restored, drain_seconds: float
    ) -> int:
        """Let views follow; gives the plan from which all holds, the newest where none is made."""
        plan = None
        if bounds:
            plan = await follow_bounds(
                self._session,
                bounds,
                reason="rollback",
                drain_seconds=drain_seconds,
                changed=restored.told,
                unpublished=self._unpublished,
            )
        if plan is None and self._outcome.put_back:
            plan = await plan_rows.compile_next(self._session, current_request_id(), growing=True)
        if plan is None or plan == self._current:
            return self._current
        made = await plan_rows.find(self._session, plan)
        made.rolled_back_to = self._number
        await self._session.flush()
        return plan

    async def _tell(self, plan: int, ruling: Ruling, restored: asking.Restored) -> None:
        """Note from which plan all holds, and write the events of it."""
        session = self._session
        for unmoved in restored.unmoved:
            touch(unmoved)
        await session.flush()
        await subscription_rows.note(
            session, EventType.SUBSCRIPTION_CHANGED, restored.unmoved, each=restored.told
        )
        told = await self._contents.hold_from(session, plan)
        told += await ruling.hold_from(session, plan)
        if self._outcome.put_back:
            data: dict[str, Any] = {"plan": plan, "to": self._number, "before": self._current}
            told.append(Change(EventType.PLAN_ROLLED_BACK, data | self._outcome.counts))
        await record(session, *told)


async def _unpublished(session: AsyncSession) -> int:
    """The first of the newest plans of which certainly no function knows, as long as this lasts.

    The lock keeps them from being published. A publisher that hangs must not keep a rollback from
    being made: then nothing is certain.
    """
    try:
        async with session.begin_nested():
            await session.execute(text(f"SET LOCAL lock_timeout = '{PATIENCE}'"))
            await lock(session, Lock.PUBLISH)
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            return NEVER
        raise
    await session.execute(text("SET LOCAL lock_timeout TO DEFAULT"))
    known = PlanRow.published_at.is_not(None) | PlanRow.applied_at.is_not(None)
    return int(await session.scalar(select(func.max(PlanRow.number)).where(known)) or 0) + 1
