"""What becomes of a subscription: change, pause, resume, its end, and its history.

A change and its plan commit together; publication follows by the outbox, as for a new subscription.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import msgspec
import structlog
from msgspec import UNSET
from sqlalchemy import func
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database, Lock, integrity_constraint, lock
from control_plane.domains.events.schemas import EventType
from control_plane.domains.instrument_sets import repository as set_rows
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.rules import repository as rule_rows
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.backlog import check
from control_plane.domains.subscriptions.changes import (
    OWN_MEMBERS,
    VIEW_MEMBERS,
    asked,
    asked_after,
    changes_view,
    difference,
    with_reference,
)
from control_plane.domains.subscriptions.closing import close, drain
from control_plane.domains.subscriptions.conflated import left_of, require_conflatable
from control_plane.domains.subscriptions.draining import drain_anew, drain_no_longer, lock_open
from control_plane.domains.subscriptions.followed import dependencies
from control_plane.domains.subscriptions.models import ENDED, UNIQUE_NAME, State, Subscription
from control_plane.domains.subscriptions.moves import change_view
from control_plane.domains.subscriptions.references import enriched_spec, refers, taken_over
from control_plane.domains.subscriptions.schemas import (
    HistoryOut,
    OnBacklog,
    SubscriptionOut,
    SubscriptionUpdate,
)
from control_plane.domains.subscriptions.service import Publication, SubscriptionService
from control_plane.domains.subscriptions.view_check import (
    entitled_spec,
    require_receiving,
    require_sets,
)
from control_plane.domains.transformations import repository as transformation_rows
from control_plane.errors import ConflictError, FieldProblem, InvalidRequestError
from control_plane.pages import Page, check_match, decode_number
from control_plane.rows import touch
from marketdata.plans import ViewSpec, sets_of

log = structlog.get_logger(__name__)


class LifecycleService:
    """Change, pause, resume and close subscriptions, and tell their history.

    `only` is the id of the one consumer of whose subscriptions the caller may know.
    """

    def __init__(
        self,
        database: Database,
        publication: Publication,
        subscriptions: SubscriptionService,
        *,
        require_broker: Callable[[], Awaitable[None]],
        lanes: Callable[[], Collection[str]],
        drain_seconds: float,
        wait_seconds: float,
    ) -> None:
        self._database = database
        self._publication = publication
        self._subscriptions = subscriptions
        self._require_broker = require_broker
        self._lanes = lanes
        self._drain_seconds = drain_seconds
        self._wait_seconds = wait_seconds

    async def update(
        self, key: str, data: SubscriptionUpdate, if_match: str | None, *, only: str | None = None
    ) -> tuple[SubscriptionOut, int]:
        """Change what `data` names; gives the new version too.

        Another view is had from a plan on that is made in the same transaction.

        Raises:
            InvalidRequestError: what is asked for is refused, as of a new subscription.
            ConflictError: the subscription has ended, the name is taken, the plan full, or the view
                asked for one that it still drains.
            PreconditionFailedError: If-Match does not hold.
        """
        if data.on_backlog is not UNSET:
            check(data.on_backlog)
        moves = changes_view(data)
        if moves:
            await self._require_broker()
        try:
            async with self._database.transaction() as session:
                if moves:
                    row = await self._with_view(session, key, data, if_match, only)
                else:
                    row = await self._to_change(session, key, if_match, only)
                    if data.on_backlog is not UNSET:
                        await self._require_conflatable(session, row, data.on_backlog)
                told = difference(asked(row), asked_after(asked(row), data), OWN_MEMBERS)
                if told["after"]:
                    for name, value in told["after"].items():
                        setattr(row, name, value)
                    touch(row)
                    await repository.note(session, EventType.SUBSCRIPTION_CHANGED, [row], told)
                await session.flush()
        except IntegrityError as error:
            if integrity_constraint(error) == UNIQUE_NAME:
                raise ConflictError(
                    f"The consumer has a subscription {data.name!r} already."
                ) from None
            raise
        if moves:
            await self._publication.published(self._wait_seconds)
        return await self._subscriptions.get(key)

    async def _to_change(
        self, session: AsyncSession, key: str, if_match: str | None, only: str | None
    ) -> Subscription:
        """A live subscription, locked."""
        row = await repository.find(session, key, only=only, for_update=True)
        check_match(if_match, row.version)
        if row.state in ENDED:
            raise ConflictError(f"The subscription is {row.state} and can no longer be changed.")
        return row

    async def _require_conflatable(
        self, session: AsyncSession, row: Subscription, on_backlog: OnBacklog
    ) -> None:
        """Refuse to conflate what cannot be."""
        allowed = (await rule_rows.policy(session)).allowed(row.consumer)
        left, _ = left_of(msgspec.convert(row.spec, ViewSpec), allowed, None)
        require_conflatable(left, on_backlog, self._lanes())

    async def _with_view(
        self,
        session: AsyncSession,
        key: str,
        data: SubscriptionUpdate,
        if_match: str | None,
        only: str | None,
    ) -> Subscription:
        """A live subscription, locked, after it was given the view that a request asks for."""
        row = await repository.find(session, key, only=only)
        consumer, shared, now = row.consumer, row.shared_transformation, asked(row)
        after = asked_after(now, data)
        if refers(after):
            after, shared = await taken_over(session, after)
        elif data.transformation is not UNSET:
            shared = None
        spec = await enriched_spec(session, after)
        await lock(session, Lock.PLAN_SEQUENCE)
        await session.refresh(consumer, with_for_update={"read": True})
        await lock_open(session, Subscription.id == key)
        row = await self._to_change(session, key, if_match, only)
        require_receiving(consumer)
        if asked(row) != now:
            raise ConflictError("Somebody else is changing the subscription: read it again.")
        if shared is not None:
            # It may have been deleted meanwhile.
            await transformation_rows.find(session, shared.id)
        require_sets(after, spec, await set_rows.contents(session, sets_of([spec])))
        policy = await rule_rows.policy(session)
        # Who no longer wants that has its own view at once, unless it still drains it.
        conflate_ms = row.conflate_ms if after.on_backlog.policy == "conflate" else None
        entitled = consumer.allowed
        effective, conflated = entitled_spec(
            after, spec, consumer, policy, entitled, self._lanes(), conflate_ms
        )
        if spec.delivery.follows:
            known = await dependencies(session, only=only)
            known.require_none(consumer.workflow, spec.delivery)
        unconflated = row.conflated_since is not None and not conflated
        if unconflated:
            row.conflated_since = row.conflate_ms = None
        view = await plan_rows.ensure_view(session, effective)
        told = difference(
            with_reference(now, row.shared_transformation),
            with_reference(after, shared),
            VIEW_MEMBERS,
        )
        row.filter, row.spec = after.filter, plan_rows.spec_json(spec)
        row.transformation_id = shared.id if shared else None
        if view.id != row.view_id:
            await change_view(session, row, view, drain_seconds=self._drain_seconds)
            await repository.note(
                session, EventType.SUBSCRIPTION_MOVED, [row], told, reason="changed"
            )
            log.info("subscription changed", subscription=key, plan=row.plan)
        elif told["after"] or session.is_modified(row):
            touch(row)
            await repository.note(session, EventType.SUBSCRIPTION_CHANGED, [row], told)
        if unconflated:
            ended = EventType.SUBSCRIPTION_UNCONFLATED
            await repository.note(session, ended, [row], reason="changed")
        return row

    async def pause(
        self, key: str, if_match: str | None, *, only: str | None = None
    ) -> tuple[SubscriptionOut, int]:
        """Let a subscription receive nothing, and keep its place; paused ones stay as they are.

        Raises:
            ConflictError: it has ended.
        """
        async with self._database.transaction() as session:
            row = await self._to_change(session, key, if_match, only)
            await repository.pause(session, row, reason="asked")
        await self._publication.published(self._wait_seconds)
        return await self._subscriptions.get(key)

    async def resume(
        self, key: str, if_match: str | None, *, only: str | None = None
    ) -> tuple[SubscriptionOut, int]:
        """Let a paused subscription receive again from its place on; others stay as they are.

        Raises:
            ConflictError: it has ended.
        """
        async with self._database.transaction() as session:
            # Before the row: every transaction locks moves first.
            await lock_open(session, Subscription.id == key)
            row = await self._to_change(session, key, if_match, only)
            if row.paused_at is not None:
                await drain_anew(session, key, drain_seconds=self._drain_seconds)
                row.paused_at, row.resumed_at = None, func.clock_timestamp()
                if row.state == State.PAUSED:
                    row.become(State.ACTIVE)
                touch(row)
                await repository.note(session, EventType.SUBSCRIPTION_RESUMED, [row])
        await self._publication.published(self._wait_seconds)
        return await self._subscriptions.get(key)

    async def close(
        self,
        key: str,
        if_match: str | None,
        *,
        drain_seconds: int | None = None,
        only: str | None = None,
    ) -> None:
        """Close a subscription for good; what has ended so, or drains already, stays as it is.

        Its Pulsar subscription goes when the plan without it is published.

        Args:
            drain_seconds: it goes so much later, and what was routed before may be read until then;
                None: also of one that drains. Who was never active has nothing to drain.

        Raises:
            InvalidRequestError: there is not so much time to drain.
        """
        if drain_seconds is not None and drain_seconds > self._drain_seconds:
            detail = f"there are {self._drain_seconds:g} seconds at most"
            problem = FieldProblem("query:drain", detail, hint="ask for less, or read faster")
            raise InvalidRequestError(f"drain: {detail}.", [problem])
        async with self._database.transaction() as session:
            await lock(session, Lock.PLAN_SEQUENCE)
            # Before the row: every transaction locks moves first.
            if drain_seconds is None:
                await drain_no_longer(session, Subscription.id == key)
            else:
                await lock_open(session, Subscription.id == key)
            row = await repository.find(session, key, only=only, for_update=True)
            check_match(if_match, row.version)
            if row.state == State.CLOSED or (row.state in ENDED and drain_seconds is not None):
                return
            if drain_seconds is not None and row.activated_at is not None:
                await drain(session, row, seconds=drain_seconds)
            else:
                await close(session, row)
        log.info("subscription ended", subscription=key, state=row.state, plan=row.closed_in_plan)
        await self._publication.published(self._wait_seconds)

    async def history(
        self, key: str, *, cursor: str | None, limit: int, only: str | None = None
    ) -> Page[HistoryOut]:
        """What happened to a subscription, newest first; the cursor is the last number seen."""
        before = decode_number(cursor, most_digits=18) if cursor is not None else None
        async with self._database.transaction() as session:
            await repository.find(session, key, only=only)
            rows = await repository.history(session, key, before=before, limit=limit + 1)
        items = [
            HistoryOut(
                number=row.id,
                at=row.at,
                type=row.type,
                state=row.state,
                plan=row.plan,
                actor=row.actor,
                request_id=row.correlation_id,
                data=row.data,
            )
            for row in rows[:limit]
        ]
        return Page(items, str(items[-1].number) if len(rows) > limit else None)
