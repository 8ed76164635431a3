"""The application factory: builds every part once and ties their lives to the server's.

Nothing here needs the broker or PostgreSQL to be up; the parts recover by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.openapi.spec import Tag

from control_plane import __version__
from control_plane.broker import Broker, Follower
from control_plane.broker_grants import BrokerGrants
from control_plane.database import Database
from control_plane.domains.consumers.controller import ConsumerController
from control_plane.domains.consumers.service import ConsumerService
from control_plane.domains.dead_letters.controller import DeadLetterController
from control_plane.domains.dead_letters.service import DeadLetterService
from control_plane.domains.functions.controller import FunctionController
from control_plane.domains.functions.service import StatusBoard
from control_plane.domains.instrument_sets.controller import InstrumentSetController
from control_plane.domains.instrument_sets.service import InstrumentSetService
from control_plane.domains.ordering.controller import OrderingController
from control_plane.domains.ordering.follower import OrderingFollower
from control_plane.domains.ordering.service import OrderingService
from control_plane.domains.plans.controller import PlanController
from control_plane.domains.plans.publisher import DeliveryTopics, PlanPublisher
from control_plane.domains.plans.service import PlanService
from control_plane.domains.subscriptions.controller import SubscriptionController
from control_plane.domains.subscriptions.service import SubscriptionService
from control_plane.domains.system.controller import SystemController
from control_plane.domains.system.metrics import Metrics
from control_plane.domains.system.service import HealthService
from control_plane.problems import EXCEPTION_HANDLERS
from control_plane.pulsar_admin import PulsarAdmin
from control_plane.reconciler import Reconciler
from control_plane.requests import request_middleware
from control_plane.settings import Settings
from marketdata.topics import STATUS

MAX_BODY_BYTES = 256 * 1024

log = structlog.get_logger(__name__)


class ControlPlane:
    """Everything that one process holds, with its background tasks."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database_url, pool_size=settings.database_pool_size)
        self.broker = Broker(
            settings.pulsar_service_url,
            timeout_seconds=settings.broker_timeout_seconds,
            access=settings.access,
        )
        # No retries in here: requests must fail fast, and the workers have their own rhythm.
        self.admin = PulsarAdmin(
            settings.pulsar_admin_url,
            timeout_s=settings.broker_timeout_seconds,
            retry_for_s=0,
            access=settings.access,
        )
        self.ordering_follower = OrderingFollower(
            self.database, self.broker, retention_days=settings.ordering_retention_days
        )
        self.metrics = Metrics(self.ordering_follower.state)
        self.board = StatusBoard(on_report=self.metrics.note_report)
        self.metrics.follow_functions(self.board)
        self.grants = BrokerGrants(self.admin)
        self.topics = DeliveryTopics(self.admin, self.grants)
        self.publisher = PlanPublisher(
            self.database,
            self.broker,
            self.topics,
            poll_seconds=settings.plan_publish_interval_ms / 1000,
            compare_seconds=settings.reconcile_interval_seconds,
            on_published=self.metrics.note_published,
        )
        self.reconciler = Reconciler(
            self.database,
            self.admin,
            self.topics,
            self.grants,
            self.board,
            self.metrics,
            settings,
        )
        self.ordering = OrderingService(
            self.database, self.broker, timeout_seconds=settings.broker_timeout_seconds
        )
        self.dead_letters = DeadLetterService(
            self.database, self.broker, timeout_seconds=settings.broker_timeout_seconds
        )
        self.health = HealthService(
            self.database, self.broker, self.admin, self.ordering_follower.state
        )
        self.consumers = ConsumerService(self.database)
        self.subscriptions = SubscriptionService(
            self.database,
            self.publisher,
            require_broker=self.health.require_broker,
            service_url=settings.consumer_service_url,
            wait_seconds=settings.activation_timeout_ms / 1000,
        )
        self.instrument_sets = InstrumentSetService(
            self.database,
            self.publisher,
            wait_seconds=settings.activation_timeout_ms / 1000,
        )
        self.plans = PlanService(self.database, self.board)

    @asynccontextmanager
    async def running(self, _app: Litestar) -> AsyncIterator[None]:
        """Run the background tasks while the server serves."""
        await self.broker.open()
        follower = Follower(self.broker, STATUS, lambda message: self.board.take(message.data()))
        follower.start()
        tasks = [
            asyncio.create_task(self.publisher.run(), name="publisher"),
            asyncio.create_task(self.reconciler.run(), name="reconciler"),
            asyncio.create_task(self.ordering_follower.run(), name="ordering follower"),
        ]
        log.info("control plane started", version=__version__)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await follower.stop()
            self.ordering.close()
            self.dead_letters.close()
            await self.broker.close()
            await self.admin.aclose()
            await self.database.close()
            log.info("control plane stopped")

    def dependencies(self) -> dict[str, Provide]:
        """What routes may ask for by name."""
        parts = {
            "consumers": self.consumers,
            "subscriptions": self.subscriptions,
            "plans": self.plans,
            "instrument_sets": self.instrument_sets,
            "ordering": self.ordering,
            "dead_letters": self.dead_letters,
            "board": self.board,
            "health_service": self.health,
            "metrics": self.metrics,
            "database": self.database,
            "settings": self.settings,
        }
        return {name: _provide(part) for name, part in parts.items()}


def create_app(settings: Settings) -> Litestar:
    """The control plane as an ASGI application."""
    control_plane = ControlPlane(settings)
    app = Litestar(
        route_handlers=[
            Router(
                path="/v1",
                route_handlers=[
                    ConsumerController,
                    SubscriptionController,
                    PlanController,
                    InstrumentSetController,
                    FunctionController,
                    OrderingController,
                    DeadLetterController,
                ],
            ),
            SystemController,
        ],
        dependencies=control_plane.dependencies(),
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=[control_plane.running],
        state=State({"settings": settings, "control_plane": control_plane}),
        request_max_body_size=MAX_BODY_BYTES,
        openapi_config=_openapi(),
        logging_config=None,
    )
    # Around the router, not in it: what has no route gets a request id and a log line too.
    app.asgi_handler = request_middleware(control_plane.metrics.observe_request)(app.asgi_handler)
    return app


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Data Distribution Service",
        version=__version__,
        description=(
            "Consumers register what they want to receive; the answer says where an ordinary "
            "Pulsar client finds it. Errors are RFC 9457 problems."
        ),
        path="/schema",
        render_plugins=[
            JsonRenderPlugin(path=["/openapi.json", "/"]),
            YamlRenderPlugin(path=["/openapi.yaml", "/openapi.yml"]),
        ],
        use_handler_docstrings=True,
        tags=[
            Tag(name="consumers", description="Who receives events."),
            Tag(name="subscriptions", description="What a consumer receives."),
            Tag(name="instrument sets", description="Lists of instruments that filters name."),
            Tag(name="plans", description="What the functions execute."),
            Tag(name="functions", description="What runs inside the broker."),
            Tag(name="ordering", description="What the order of the sources shows."),
            Tag(name="dead letters", description="What the functions could not process."),
            Tag(name="system", description="The control plane itself."),
        ],
    )


def _provide(part: object) -> Provide:
    return Provide(lambda: part, sync_to_thread=False, use_cache=True)
