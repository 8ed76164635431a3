"""Rules of subscriptions: a change and its plan commit together; publication follows by the outbox.

`create` and `delete` return once the change is durable. What the broker still has to do (topic,
Pulsar subscription, plan) is done by the PlanPublisher, which both wake and wait for, for a bounded
time; when it takes longer the subscription is told as `pending` and becomes `active` by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol, cast

import msgspec
import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.attributes import set_committed_value

from control_plane.database import Database, Lock, integrity_constraint, lock
from control_plane.domains.consumers import repository as consumer_rows
from control_plane.domains.events.schemas import EventType
from control_plane.domains.instrument_sets import repository as set_rows
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.rules import repository as rule_rows
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.backlog import check
from control_plane.domains.subscriptions.models import LIVE, UNIQUE_NAME, State, Subscription
from control_plane.domains.subscriptions.moves import drain_no_longer
from control_plane.domains.subscriptions.references import declared_spec, refers, taken_over
from control_plane.domains.subscriptions.schemas import (
    DrainingOut,
    OnBacklog,
    StateName,
    SubscriptionCreate,
    SubscriptionOut,
)
from control_plane.domains.subscriptions.view_check import (
    describe_schema,
    entitled_spec,
    named_tables,
    require_sets,
    view_spec,
)
from control_plane.domains.transformations.models import SharedTransformation
from control_plane.errors import ConflictError
from control_plane.pages import Page, check_match
from control_plane.requests import current_request_id
from control_plane.rows import touch
from marketdata.entitlements import receives_nothing
from marketdata.plans import ViewSpec, sets_of

# The view's topic is partitioned by instrument: Failover keeps the order of each partition and
# lets members of a group be added at any time.
SUBSCRIPTION_TYPE = "Failover"

log = structlog.get_logger(__name__)


class Publication(Protocol):
    """The part of the PlanPublisher that requests need."""

    async def published(self, timeout_seconds: float, *, joining: bool = False) -> bool:
        """Whether all plans committed before the call were published within the time given.

        `joining`: a subscription waits that needs none; not while many others do before it.
        """


class _NeedsPlanError(Exception):
    """No live subscription has the view."""


class SubscriptionService:
    """Make, describe, change and close subscriptions.

    `only` is the id of the one consumer of whose subscriptions the caller may know.
    """

    def __init__(
        self,
        database: Database,
        publication: Publication,
        *,
        require_broker: Callable[[], Awaitable[None]],
        lanes: Callable[[], Collection[str]],
        service_url: str,
        wait_seconds: float,
    ) -> None:
        self._database = database
        self._publication = publication
        self._require_broker = require_broker
        self._lanes = lanes
        self._service_url = service_url
        self._wait_seconds = wait_seconds

    async def create(
        self, data: SubscriptionCreate, *, only: str | None = None
    ) -> tuple[SubscriptionOut, int]:
        """Make a subscription; gives it, active or still pending, and its version.

        Raises:
            InvalidRequestError: the filter or the transformation is refused, or nothing that is
                asked for is within the consumer's entitlements.
            NotFoundError: there is no such consumer, or the caller may only know of another one.
            ConflictError: the consumer has a live subscription of this name, or is suspended; or
                the plan is full.
            UnavailableError: the broker or the database is down; nothing was stored.
        """
        check(data.on_backlog)
        named = named_tables(data.transformation)
        # In a thread, here and below: what takes long must not hold up other requests.
        spec = None if refers(data) or named else await asyncio.to_thread(view_spec, data)
        await self._require_broker()
        subscription_id = repository.new_subscription_id()
        asked = data, spec, only
        try:
            try:
                row = await self._insert(subscription_id, *asked, joining=True)
                joining = True
            except _NeedsPlanError:
                row = await self._insert(subscription_id, *asked, joining=False)
                joining = False
        except IntegrityError as error:
            if integrity_constraint(error) == UNIQUE_NAME:
                raise ConflictError(
                    f"The consumer has a subscription {data.name!r} already; "
                    "delete that one or choose another name."
                ) from None
            raise
        log.info("subscription created", subscription=subscription_id, plan=row.plan)
        if await self._publication.published(self._wait_seconds, joining=joining):
            return await self.get(subscription_id)
        return self._out(row), row.version

    async def _insert(
        self,
        subscription_id: str,
        data: SubscriptionCreate,
        spec: ViewSpec | None,
        only: str | None,
        *,
        joining: bool,
    ) -> Subscription:
        """Store a subscription; gives it with what is told of it.

        Subscriptions that join a live view are made side by side; those for which a plan is made,
        one after the other.

        Raises:
            _NeedsPlanError: `joining`, and nobody has the view; nothing was stored.
        """
        reference: SharedTransformation | None = None
        # One transaction: an Idempotency-Key is claimed with the change or not at all.
        async with self._database.transaction() as session:
            await lock(session, Lock.PLAN_SEQUENCE, shared=joining)
            if refers(data):
                data, reference = await taken_over(session, data)
            if spec is None:
                spec = await declared_spec(session, data)
            # Only now the row lock: every transaction takes the plan sequence first.
            consumer = await consumer_rows.find(session, data.consumer, only=only, for_share=True)
            if consumer.suspended:
                raise ConflictError(
                    f"Consumer {consumer.name!r} is suspended: ask the platform team."
                )
            require_sets(data, spec, await set_rows.contents(session, sets_of([spec])))
            policy = await rule_rows.policy(session)
            effective = entitled_spec(data, spec, consumer, policy, consumer.allowed, self._lanes())
            live = await plan_rows.joinable(session, effective)
            if live is None and joining:
                raise _NeedsPlanError
            view, plan = live or (await plan_rows.ensure_view(session, effective), 0)
            row = Subscription(
                id=subscription_id,
                consumer_id=consumer.id,
                view_id=view.id,
                name=data.name,
                filter=data.filter,
                spec=plan_rows.spec_json(spec),
                transformation_id=reference.id if reference else None,
                start=data.start,
                group=data.group,
                on_backlog=msgspec.to_builtins(data.on_backlog),
                labels=data.labels,
                plan=plan,
            )
            session.add(row)
            await session.flush()
            if live is None:
                row.plan = await plan_rows.compile_next(session, current_request_id(), growing=True)
            await repository.note(session, EventType.SUBSCRIPTION_CREATED, [row])
            told: dict[str, object] = {
                "consumer": consumer,
                "view": view,
                "shared_transformation": reference,
                "draining": [],
            }
            for name, value in told.items():
                set_committed_value(row, name, value)
            return row

    async def get(self, key: str, *, only: str | None = None) -> tuple[SubscriptionOut, int]:
        """The subscription with this id, closed or not, and its version."""
        async with self._database.transaction() as session:
            row = await repository.find(session, key, only=only)
            return self._out(row), row.version

    async def page(
        self,
        *,
        cursor: str | None,
        limit: int,
        sort: str | None = None,
        consumer: str | None = None,
        name: str | None = None,
        state: StateName | None = None,
        format_: str | None = None,
        labels: Sequence[str] | None = None,
        only: str | None = None,
    ) -> Page[SubscriptionOut]:
        """One page of subscriptions; without `state`, of those that are not closed."""
        asked = repository.LISTING.ask(sort, cursor, limit)
        async with self._database.transaction() as session:
            rows = await repository.page(
                session,
                asked,
                states=(state,) if state else LIVE,
                consumer=consumer,
                name=name,
                format_=format_,
                labels=labels,
                only=only,
            )
            return asked.page([self._out(row, in_list=True) for row in rows], rows)

    async def close(self, key: str, if_match: str | None, *, only: str | None = None) -> None:
        """Close a subscription for good; closing a closed one again does nothing.

        Its Pulsar subscription goes as soon as the plan without it is published.
        """
        async with self._database.transaction() as session:
            await lock(session, Lock.PLAN_SEQUENCE)
            # Before the row: every transaction locks moves first.
            await drain_no_longer(session, Subscription.id == key)
            row = await repository.find(session, key, only=only, for_update=True)
            check_match(if_match, row.version)
            if row.state == State.CLOSED:
                return
            latest = await plan_rows.newest(session)
            row.state = State.CLOSED.value
            row.closed_at = datetime.now(UTC)
            row.closed_in_plan = latest.number if latest else row.plan
            touch(row)
            await session.flush()
            if not await plan_rows.is_live(session, row.view_id):
                number = await plan_rows.compile_next(session, current_request_id())
                row.closed_in_plan = number
                await plan_rows.retire_views(session, [row.view_id], number)
            await repository.note(session, EventType.SUBSCRIPTION_CLOSED, [row])
        log.info("subscription closed", subscription=key, plan=row.closed_in_plan)
        await self._publication.published(self._wait_seconds)

    def _out(self, row: Subscription, *, in_list: bool = False) -> SubscriptionOut:
        spec = msgspec.convert(row.view.spec, ViewSpec)
        return SubscriptionOut(
            id=row.id,
            consumer=row.consumer_id,
            consumer_name=row.consumer.name,
            name=row.name,
            state=cast(StateName, str(row.state)),
            filter=row.filter,
            canonical_filter=row.spec["filter"],
            effective_filter=spec.filter,
            receives_nothing=receives_nothing(spec),
            transformation=spec.transformation,
            shared_transformation=(
                row.shared_transformation.reference if row.shared_transformation else None
            ),
            format=spec.format,
            delivery=spec.delivery,
            start=cast(Literal["latest", "earliest"], row.start),
            group=row.group_name,
            on_backlog=msgspec.convert(row.on_backlog, OnBacklog),
            labels=row.labels,
            service_url=self._service_url,
            topic=row.view.topic,
            subscription_name=row.subscription_name,
            subscription_type=SUBSCRIPTION_TYPE,
            message_schema=describe_schema(spec, with_columns=not in_list),
            view=row.view_id,
            plan=row.plan,
            from_plan=row.from_plan,
            draining=[
                DrainingOut(
                    move.view.topic,
                    move.from_plan,
                    None if move.goes_on else move.plan,
                    move.drain_until,
                )
                for move in row.draining
            ],
            created_at=row.created_at,
            updated_at=row.updated_at,
            activated_at=row.activated_at,
            paused_at=row.paused_at,
            closed_at=row.closed_at,
        )
