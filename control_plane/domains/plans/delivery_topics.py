"""Delivery topics at the broker: made before they are needed, with what is read by and who may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Literal, Protocol, TypeVar

import msgspec
import structlog

from control_plane.broker_grants import READING, BrokerGrants, Grant
from control_plane.domains.plans.models import ViewRow
from control_plane.domains.subscriptions.beginnings import OLDEST
from control_plane.domains.subscriptions.models import Subscription
from control_plane.errors import BrokerUnavailableError
from control_plane.fenced_topics import FencedTopics
from control_plane.pulsar_admin import (
    AdminConflict,
    AdminError,
    AdminNotFound,
    MessagePosition,
    PulsarAdmin,
)
from marketdata.formats.pulsar_schemas import PulsarSchema
from marketdata.plans import ViewSpec
from marketdata.topics import SEQUENCED_EVENTS, partition_topic
from marketdata.view_schemas import topic_schema

MAX_CONCURRENT_ADMIN_CALLS = 16
SCHEMA_REFUSED = (409, 422)
"""HTTP statuses: it is not compatible with those that the topic has, or none for the broker."""
BEGINS = {"begins": "here"}
"""The properties of a Pulsar subscription that stands, or stood, where it is to begin."""

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
        fenced: FencedTopics,
        *,
        on_schema_refused: Callable[[], None] | None = None,
    ) -> None:
        self._admin = admin
        self._grants = grants
        self._fenced = fenced
        self._on_schema_refused = on_schema_refused
        self._limit = asyncio.Semaphore(MAX_CONCURRENT_ADMIN_CALLS)

    async def ensure(
        self,
        subscriptions: Sequence[Subscription],
        *,
        start: Literal["latest", "earliest"] | None,
    ) -> None:
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
            await asyncio.gather(*(self._cursor(row, start, partitions) for row in subscriptions))

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

    async def _cursor(
        self, row: Subscription, start: Literal["latest", "earliest"] | None, partitions: int
    ) -> None:
        """Make a Pulsar subscription where it begins; one that is there stays where it is."""
        begins = start or row.next_start
        topic, name = row.view.topic, row.subscription_name
        async with self._limit, self._noting(topic):
            if isinstance(begins, str):
                with suppress(AdminConflict):
                    await self._admin.create_subscription(topic, name, start=begins)
                return
            known = {position.partition: position for position in begins}
            for number in range(partitions):
                position = known.get(number, MessagePosition(*OLDEST, number))
                await self._begin(topic, name, position)

    @asynccontextmanager
    async def _noting(self, topic: str) -> AsyncIterator[None]:
        """Note what fails at a topic: it may be fenced."""
        try:
            yield
        except AdminError as error:
            self._fenced.failed(topic, error)
            raise
        self._fenced.works(topic)

    async def _begin(self, topic: str, name: str, position: MessagePosition) -> None:
        """Let a Pulsar subscription begin at a place in one partition, once.

        The broker makes it at the end and moves it then. What ended in between would skip events,
        so one is moved again that was not noted to have been, and no other.
        """
        partition = partition_topic(topic, position.partition)
        try:
            await self._admin.create_subscription(topic, name, start=position)
        except AdminConflict:
            if (
                BEGINS.items()
                <= (await self._admin.subscription_properties(partition, name)).items()
            ):
                return
            await self._admin.reset_subscription(topic, name, to=position)
        await self._admin.set_subscription_properties(partition, name, BEGINS)


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
        raise BrokerUnavailableError("The broker's admin API failed.") from error
