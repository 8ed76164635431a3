"""Rules of subscriptions: a change and its plan commit together; publication follows by the outbox.

A request returns once its change is durable. What the broker still has to do (topic,
Pulsar subscription, plan) is done by the PlanPublisher, which it wakes and waits for, for a bounded
time; when it takes longer the subscription is told as `pending` and becomes `active` by itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import Literal, Protocol, cast

import msgspec
import structlog
from sqlalchemy.exc import IntegrityError

from control_plane.database import Database, integrity_constraint
from control_plane.domains.consumers import repository as consumer_rows
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.beginnings import Found, StartPlace
from control_plane.domains.subscriptions.closing import never_routed
from control_plane.domains.subscriptions.health import OwnThresholds
from control_plane.domains.subscriptions.making import (
    Asked,
    NeedsPlanError,
    checked,
    resolved,
    store,
)
from control_plane.domains.subscriptions.models import OPEN, UNIQUE_NAME, Subscription
from control_plane.domains.subscriptions.schemas import (
    DrainingOut,
    OnBacklog,
    StateName,
    SubscriptionCreate,
    SubscriptionOut,
)
from control_plane.domains.subscriptions.view_check import describe_schema
from control_plane.errors import ConflictError, FieldProblem, InvalidRequestError, at_pointer
from control_plane.pages import Page
from marketdata.entitlements import receives_nothing
from marketdata.plans import Delivery, View, ViewSpec, view_of

# The view's topic is partitioned by instrument: Failover keeps the order of each partition and
# lets members of a group be added at any time.
SUBSCRIPTION_TYPE = "Failover"
NAMES_TOLD = 10
"""So many names are told of those that are taken."""

log = structlog.get_logger(__name__)


class Publication(Protocol):
    """The part of the PlanPublisher that requests need."""

    async def published(self, timeout_seconds: float, *, joining: bool = False) -> bool:
        """Whether all plans committed before the call were published within the time given.

        `joining`: a subscription waits that needs none; not while many others do before it.
        """

    def wake(self) -> None:
        """Publish soon."""


class Starts(Protocol):
    """The part of StartSearch that requests need."""

    async def find(self, view: View, asked: StartPlace) -> Found:
        """Where what is asked for is on a view's topic."""


class SubscriptionService:
    """Make and describe subscriptions.

    `only` is the id of the one consumer of whose subscriptions the caller may know.
    """

    def __init__(
        self,
        database: Database,
        publication: Publication,
        starts: Starts,
        *,
        require_broker: Callable[[], Awaitable[None]],
        lanes: Callable[[], Collection[str]],
        service_url: str,
        most: int,
        wait_seconds: float,
    ) -> None:
        self._database = database
        self._publication = publication
        self._starts = starts
        self._require_broker = require_broker
        self._lanes = lanes
        self._service_url = service_url
        self._most = most
        self._wait_seconds = wait_seconds
        # One batch at a time: much of each is done where nobody else is served meanwhile.
        self._batches = asyncio.Semaphore(1)

    async def create(
        self, data: SubscriptionCreate, *, only: str | None = None
    ) -> tuple[SubscriptionOut, int]:
        """Make a subscription; gives it, active or still pending, and its version.

        Raises:
            InvalidRequestError: the filter, the transformation or the start is refused, or nothing
                that is asked for is within the consumer's entitlements.
            NotFoundError: there is no such consumer, or the caller may only know of another one.
            ConflictError: the consumer has a live subscription of this name, or is suspended; or
                the plan is full. TooManySubscriptionsError: it has `most` of them.
            UnavailableError: the broker or the database is down; nothing was stored.
        """
        rows, joining = await self._made([data], "", only)
        log.info("subscription created", subscription=rows[0].id, plan=rows[0].plan)
        if await self._publication.published(self._wait_seconds, joining=joining):
            return await self.get(rows[0].id)
        return self._out(rows[0]), rows[0].version

    async def create_all(
        self, data: Sequence[SubscriptionCreate], *, only: str | None = None
    ) -> list[SubscriptionOut]:
        """Make many subscriptions, all or none of them, under one plan; gives them in order.

        They are told as lists tell them, most of them pending: each becomes active by itself.

        Raises:
            As `create` for each; an InvalidRequestError says which.
        """
        async with self._batches:
            rows, _ = await self._made(data, "/subscriptions/{}", only)
        log.info("subscriptions created", count=len(rows), plan=max(row.plan for row in rows))
        self._publication.wake()
        return [self._out(row, in_list=True) for row in rows]

    async def _made(
        self, data: Sequence[SubscriptionCreate], pointer: str, only: str | None
    ) -> tuple[list[Subscription], bool]:
        """Store subscriptions; gives them, and whether no plan was made."""
        # In a thread: what takes long must not hold up other requests.
        asked = await asyncio.to_thread(checked, data, pointer)
        await self._require_broker()
        asked = [await self._begun(each, only) for each in asked]
        try:
            try:
                return await self._stored(asked, only, joining=True), True
            except NeedsPlanError:
                return await self._stored(asked, only, joining=False), False
        except IntegrityError as error:
            if integrity_constraint(error) == UNIQUE_NAME:
                raise await self._name_is_taken(data, only) from None
            raise

    async def _begun(self, asked: Asked, only: str | None) -> Asked:
        """The same with where it begins, if it names a place on the topic of its view.

        Before the transaction of the change: reading a topic may take seconds.
        """
        start = asked.data.start
        if isinstance(start, str):
            return asked
        if asked.pointer:
            hint = "make it by a request of its own"
            problem = FieldProblem("/start", "a place is not looked for among many", hint=hint)
            with at_pointer(asked.pointer):
                raise InvalidRequestError("start: a place is not looked for among many.", [problem])
        async with self._database.reading() as session:
            (found,) = await resolved(session, [asked], only=only, lanes=self._lanes())
        return replace(asked, found=await self._starts.find(view_of(found.effective), start))

    async def _stored(
        self, asked: Sequence[Asked], only: str | None, *, joining: bool
    ) -> list[Subscription]:
        # One transaction: an Idempotency-Key is claimed with the change or not at all.
        async with self._database.transaction() as session:
            return await store(
                session, asked, only=only, lanes=self._lanes(), most=self._most, joining=joining
            )

    async def _name_is_taken(
        self, data: Sequence[SubscriptionCreate], only: str | None
    ) -> ConflictError:
        """Which names consumers have given already, or are to give twice."""
        async with self._database.reading() as session:
            owners = await consumer_rows.named(session, {each.consumer for each in data}, only=only)
            asked = Counter((owners[each.consumer].id, each.name) for each in data)
            taken = await repository.names_taken(session, asked)
        names = sorted(
            {name for one, name in asked if asked[one, name] > 1 or (one, name) in taken}
        )
        told = ", ".join(map(repr, names[:NAMES_TOLD])) or repr(data[0].name)
        return ConflictError(
            f"The consumer has a subscription {told} already; "
            "delete that one or choose another name."
        )

    async def get(self, key: str, *, only: str | None = None) -> tuple[SubscriptionOut, int]:
        """The subscription with this id, closed or not, and its version."""
        async with self._database.transaction() as session:
            row = await repository.find(session, key, only=only)
            unrouted = await never_routed(session, [row])
            return self._out(row, unrouted), row.version

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
                states=(state,) if state else OPEN,
                consumer=consumer,
                name=name,
                format_=format_,
                labels=labels,
                only=only,
            )
            unrouted = await never_routed(session, rows)
            return asked.page([self._out(row, unrouted, in_list=True) for row in rows], rows)

    def _out(
        self, row: Subscription, unrouted: Collection[str] = (), *, in_list: bool = False
    ) -> SubscriptionOut:
        """What is told of a subscription.

        Args:
            unrouted: those (ids) whose view has no topic: what they had before is told.
        """
        view, from_plan, found = row.view, row.from_plan, row.found
        draining = row.draining
        if row.id in unrouted:
            draining = [move for move in draining if move.view_id != row.view_id]
            if draining:
                view, from_plan = draining[-1].view, draining[-1].from_plan
        spec = msgspec.convert(view.spec, ViewSpec)
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
            asked_delivery=msgspec.convert(row.spec["delivery"], Delivery),
            start=found.asked if found else cast(Literal["latest", "earliest"], row.start),
            begins=found.told if found else None,
            group=row.group_name,
            on_backlog=msgspec.convert(row.on_backlog, OnBacklog),
            thresholds=msgspec.convert(row.thresholds, OwnThresholds),
            labels=row.labels,
            service_url=self._service_url,
            topic=view.topic,
            subscription_name=row.subscription_name,
            subscription_type=SUBSCRIPTION_TYPE,
            message_schema=describe_schema(spec, with_columns=not in_list),
            view=view.id,
            plan=row.plan,
            from_plan=from_plan,
            draining=[
                DrainingOut(
                    move.view.topic,
                    move.from_plan,
                    None if move.goes_on else move.plan,
                    move.drain_until,
                )
                for move in draining
            ],
            created_at=row.created_at,
            updated_at=row.updated_at,
            activated_at=row.activated_at,
            paused_at=row.paused_at,
            conflated_since=row.conflated_since,
            closed_at=row.closed_at,
        )
