"""A publisher and the services over one database, with a broker that only records.

PostgreSQL is real. The broker is a recorder, because the faults (a send that fails after the topics
were made, a topic that has lost its messages) cannot be caused at will on a real one; the
integration tests use a real broker.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from inspect import signature
from typing import Any, cast

from control_plane.broker import Broker
from control_plane.database import Database
from control_plane.domains.consumers.service import ConsumerService
from control_plane.domains.plans.delivery_topics import Cursor, DeliveryTopics
from control_plane.domains.plans.publisher import PlanPublisher
from control_plane.domains.reference_tables.service import ReferenceTableService
from control_plane.domains.subscriptions.beginnings import Begin, Found, StartPlace
from control_plane.domains.subscriptions.lifecycle import LifecycleService
from control_plane.domains.subscriptions.models import Subscription
from control_plane.domains.subscriptions.schemas import SubscriptionCreate
from control_plane.domains.subscriptions.service import SubscriptionService
from control_plane.errors import BrokerUnavailableError
from control_plane.reconciler import Reconciler
from control_plane.settings import Settings
from marketdata.entitlements import EVERYTHING
from marketdata.plans import PLAN_KEY, Plan, View, decode_plan
from marketdata.topics import REFERENCE

NO_PARTS = {"database", "settings", "clock"}
LANES = ("", "delay-2", "delay-900", "conflated", "follows-analysis", "follows-prediction")
"""Of functions that are deployed."""
MOST = 1000
"""Subscriptions that a consumer may have."""


class RecordingBroker:
    """The plan topic as a list, that of reference tables by key; `down` makes every call fail."""

    def __init__(self) -> None:
        self.plans: list[bytes] = []
        self.tables: dict[str, bytes] = {}
        self.tables_before_plan: list[set[str]] = []
        self.down = False

    async def publish(self, topic: str, document: bytes, *, key: str) -> None:
        if self.down:
            raise BrokerUnavailableError("down")
        if topic == REFERENCE:
            self.tables[key] = document
            return
        assert key == PLAN_KEY
        self.plans.append(document)
        self.tables_before_plan.append(set(self.tables))

    async def newest_message(self, topic: str) -> bytes | None:
        if self.down:
            raise BrokerUnavailableError("down")
        assert topic != REFERENCE
        return self.plans[-1] if self.plans else None

    async def keys(self, topic: str) -> frozenset[str]:
        if self.down:
            raise BrokerUnavailableError("down")
        assert topic == REFERENCE
        return frozenset(key for key, piece in self.tables.items() if piece)

    @property
    def last(self) -> Plan:
        return decode_plan(self.plans[-1])


class RecordingTopics:
    """Topics, cursors and grants as sets, in the order of the broker's plans."""

    def __init__(self, broker: RecordingBroker) -> None:
        self.broker = broker
        self.cursors: set[tuple[str, str]] = set()
        self.starts: dict[tuple[str, str], str] = {}
        self.plans_before_cursor: dict[str, int] = {}
        self.granted: set[tuple[str, str]] = set()
        self.blocked: set[str] = set()
        self.stuck = False
        self.down = False

    async def ensure(
        self,
        subscriptions: Sequence[Subscription],
        *,
        start: str | None,
    ) -> None:
        if self.down:
            raise BrokerUnavailableError("down")
        for row in subscriptions:
            place = row.view.topic, row.subscription_name
            self.cursors.add(place)
            self.granted.add(row.grant)
            self.starts.setdefault(place, start or row.next_start)
            self.plans_before_cursor.setdefault(row.id, len(self.broker.plans))

    async def block(self, subscription: str, *, blocked: bool) -> None:
        if self.down:
            raise BrokerUnavailableError("down")
        (self.blocked.add if blocked else self.blocked.remove)(subscription)

    async def drop_cursors(
        self, rows: Sequence[Cursor], *, still_granted: Collection[tuple[str, str]]
    ) -> Sequence[Cursor]:
        if self.down or self.stuck:
            return []
        self.granted -= {row.grant for row in rows} - set(still_granted)
        for row in rows:
            self.cursors.discard((row.view.topic, row.subscription_name))
        return rows


class RecordingStarts:
    """Finds what it was told to, `begins`, on any view, and records on which."""

    def __init__(self) -> None:
        self.begins: tuple[Begin, ...] = ()
        self.looked_at: list[str] = []

    async def find(self, view: View, asked: StartPlace) -> Found:
        self.looked_at.append(view.topic)
        return Found(asked, view.id, self.begins)


def reconciler_of(database: Database, settings: Settings, **parts: Any) -> Reconciler:
    """A reconciler with some parts, by name; the others are not there."""
    absent: dict[str, Any] = dict.fromkeys(signature(Reconciler).parameters.keys() - NO_PARTS)
    assert parts.keys() <= absent.keys()
    return Reconciler(database=database, settings=settings, **{**absent, **parts})


class World:
    """A publisher and services over one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.broker = RecordingBroker()
        self.topics = RecordingTopics(self.broker)
        self.publisher = PlanPublisher(
            database,
            cast(Broker, self.broker),
            cast(DeliveryTopics, self.topics),
            poll_seconds=0.05,
            compare_seconds=0.2,
        )
        self.starts = RecordingStarts()
        self.consumers = ConsumerService(
            database,
            self.publisher,
            default_entitlements=EVERYTHING,
            lanes=lambda: LANES,
            drain_seconds=300,
            wait_seconds=0,
        )
        self.reference_tables = ReferenceTableService(database, self.publisher, wait_seconds=0)
        self.subscriptions = SubscriptionService(
            database,
            self.publisher,
            self.starts,
            require_broker=self._broker_is_there,
            lanes=lambda: LANES,
            service_url="pulsar://there:6650",
            most=MOST,
            wait_seconds=0,
        )
        self.lifecycles = LifecycleService(
            database,
            self.publisher,
            self.subscriptions,
            require_broker=self._broker_is_there,
            lanes=lambda: LANES,
            drain_seconds=300,
            wait_seconds=0,
        )

    async def _broker_is_there(self) -> None:
        return

    async def settle(self) -> None:
        await self.publisher.compare_with_topic()
        await self.publisher.publish_once()

    async def subscribe(self, name: str, **members: Any) -> str:
        data = SubscriptionCreate(consumer="desk", name=name, **members)
        return (await self.subscriptions.create(data))[0].id

    async def state(self, subscription: str) -> str:
        return (await self.subscriptions.get(subscription))[0].state
