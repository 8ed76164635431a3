"""The application factory: builds every part once and ties their lives to the server's.

Nothing here needs the broker or PostgreSQL to be up; the parts recover by themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import structlog
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme, Tag
from litestar.types import ASGIApp

from control_plane import __version__
from control_plane.acting import acting, acting_middleware, component
from control_plane.broker import Broker, Follower
from control_plane.broker_grants import BrokerGrants
from control_plane.database import Database
from control_plane.descriptions.document import ExactJson, ExactYaml, allow_what_there_is
from control_plane.descriptions.pages import ExactPages, page_file
from control_plane.domains.alerts.certificates import Certificates
from control_plane.domains.alerts.watch import ExpiryWatch
from control_plane.domains.audit.controller import AuditController
from control_plane.domains.audit.export import AuditExporter
from control_plane.domains.audit.service import AuditService
from control_plane.domains.consumers.controller import ConsumerController
from control_plane.domains.consumers.service import ConsumerService
from control_plane.domains.dead_letters.controller import (
    DeadLetterController,
    DeadLettersController,
)
from control_plane.domains.dead_letters.resending import LetterResends
from control_plane.domains.dead_letters.service import DeadLetterService
from control_plane.domains.events.controller import EventController
from control_plane.domains.events.feed import EventFeed, Limits
from control_plane.domains.explain.controller import ExplainController
from control_plane.domains.explain.service import ExplainService
from control_plane.domains.functions.controller import FunctionController
from control_plane.domains.functions.service import StatusBoard
from control_plane.domains.functions.topology import KnownTopology
from control_plane.domains.groups.controller import GroupController
from control_plane.domains.groups.service import GroupService
from control_plane.domains.groups.watch import GroupWatch
from control_plane.domains.instrument_sets.controller import InstrumentSetController
from control_plane.domains.instrument_sets.service import InstrumentSetService
from control_plane.domains.operations.controller import (
    FunctionOperationController,
    OperationController,
)
from control_plane.domains.operations.service import OperationService
from control_plane.domains.ordering.controller import OrderingController
from control_plane.domains.ordering.follower import OrderingFollower
from control_plane.domains.ordering.service import OrderingService
from control_plane.domains.plans.comparing import PlanComparison
from control_plane.domains.plans.controller import PlanController, RolloutController
from control_plane.domains.plans.delivery_topics import DeliveryTopics
from control_plane.domains.plans.publisher import PlanPublisher
from control_plane.domains.plans.service import PlanService
from control_plane.domains.preview.controller import PreviewController
from control_plane.domains.preview.service import PreviewService
from control_plane.domains.publishers.controller import PublisherController
from control_plane.domains.publishers.service import PublisherService
from control_plane.domains.reference_tables.controller import ReferenceTableController
from control_plane.domains.reference_tables.service import ReferenceTableService
from control_plane.domains.rollbacks.controller import RollbackController
from control_plane.domains.rollbacks.service import RollbackService
from control_plane.domains.rules.controller import RuleController, RuleOrderController
from control_plane.domains.rules.service import RuleService
from control_plane.domains.schemas.controller import SchemaController
from control_plane.domains.subscriptions.backlog_keeper import BacklogKeeper
from control_plane.domains.subscriptions.confirming import ConfirmationKeeper
from control_plane.domains.subscriptions.conflating import Conflating
from control_plane.domains.subscriptions.controller import (
    SubscriptionBatchController,
    SubscriptionController,
)
from control_plane.domains.subscriptions.health import Thresholds
from control_plane.domains.subscriptions.health_history import HealthHistoryService
from control_plane.domains.subscriptions.health_watch import HealthWatch, Kept
from control_plane.domains.subscriptions.lifecycle import LifecycleService
from control_plane.domains.subscriptions.reading import ReadingService
from control_plane.domains.subscriptions.service import SubscriptionService
from control_plane.domains.subscriptions.start_search import StartSearch
from control_plane.domains.subscriptions.unread import Unread
from control_plane.domains.system.controller import SystemController
from control_plane.domains.system.metrics import Metrics
from control_plane.domains.system.service import HealthService
from control_plane.domains.tokens import repository as token_rows
from control_plane.domains.tokens.controller import TokenController
from control_plane.domains.tokens.keys_controller import KeyController
from control_plane.domains.tokens.service import TokenService
from control_plane.domains.topics.controller import TopicController
from control_plane.domains.topics.service import TopicService
from control_plane.domains.transformations.controller import TransformationController
from control_plane.domains.transformations.service import TransformationService
from control_plane.fenced_topics import FencedTopics
from control_plane.function_keeper import FunctionKeeper
from control_plane.idempotency.middleware import idempotency_middleware
from control_plane.listing import require_known_parameters, require_text
from control_plane.problems import EXCEPTION_HANDLERS
from control_plane.pulsar_admin import PulsarAdmin
from control_plane.rate_limits import RateLimiter, rate_limit_middleware
from control_plane.reconciler import Reconciler
from control_plane.requests import BodyRequest, request_middleware
from control_plane.security.authentication import (
    Authenticate,
    Authenticator,
    StillAllowed,
    admit_anybody,
    authentication_middleware,
    public_paths,
    still_anybody,
)
from control_plane.security.callers import caller_of, require_permission
from control_plane.security.external import ExternalIssuer, fetch_from
from control_plane.security.permissions import Permission, needs
from control_plane.security.revocation import Revocations, Revoked
from control_plane.security.tokens import KeyRing, Trust
from control_plane.settings import Settings, SettingsError
from marketdata.entitlements import EVERYTHING, NOTHING
from marketdata.topics import CONFIRMED, STATUS

MAX_BODY_BYTES = 256 * 1024
ANSWERED_WITHIN_SECONDS = 5.0
"""What a request takes at most, as a rule, beside its wait for the plan."""
NEVER_LIMITED = frozenset({"/healthz", "/readyz", "/metrics"})

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
        self.events = EventFeed(
            self.database,
            Limits(
                settings.event_streams,
                settings.event_streams_per_consumer,
                settings.event_stream_seconds,
            ),
            retention_days=settings.event_retention_days,
            retention_rows=settings.event_retention_rows,
        )
        self.metrics = Metrics(self.ordering_follower.state)
        self.certificates = Certificates(
            {"http": settings.http_tls_certificate, "trust": settings.tls_trust_certs}
        )
        self.board = StatusBoard(on_report=self.metrics.note_report)
        self._measure()
        self.grants = BrokerGrants(self.admin)
        self.fenced = FencedTopics(
            self.admin, on_unloaded=self.metrics.reconcile_actions.labels("bundle_unloaded").inc
        )
        self.topics = DeliveryTopics(
            self.admin,
            self.grants,
            self.fenced,
            on_schema_refused=self.metrics.schemas_refused.inc,
        )
        self.publisher = PlanPublisher(
            self.database,
            self.broker,
            self.topics,
            poll_seconds=settings.plan_publish_interval_ms / 1000,
            compare_seconds=settings.reconcile_interval_seconds,
            on_published=self.metrics.note_published,
        )
        self.audit = AuditService(self.database, seal_seconds=settings.audit_seal_seconds)
        self.audit_exporter = AuditExporter(
            self.database,
            self.broker,
            poll_seconds=settings.audit_seal_seconds,
            on_divided=self.metrics.audit_divided.inc,
        )
        topology = KnownTopology(settings.topology_dir, self.board)
        thresholds = Thresholds(settings.lagging_after_seconds, settings.stalled_after_seconds)
        self.reconciler = Reconciler(
            self.database,
            self.admin,
            self.broker,
            self.topics,
            self.grants,
            self.board,
            self.metrics,
            self.audit,
            BacklogKeeper(
                self.database,
                self.admin,
                self.metrics,
                Conflating(
                    self.database,
                    self.metrics,
                    lanes=self.board.lanes_running,
                    drain_seconds=settings.drain_seconds,
                    least_seconds=settings.conflated_seconds,
                ),
                Unread(
                    self.database,
                    self.admin,
                    self.metrics,
                    kept_days=settings.event_retention_days,
                ),
                grace_seconds=settings.drain_seconds,
                kept_days=settings.event_retention_days,
            ),
            GroupWatch(self.database, self.admin, self.metrics),
            HealthWatch(
                self.database,
                self.admin,
                self.metrics,
                thresholds,
                Kept(
                    settings.health_history_seconds,
                    settings.health_history_days,
                    settings.health_history_rows,
                    settings.unusual_rate_factor,
                ),
            ),
            ExpiryWatch(self.database, self.certificates),
            topology,
            self.fenced,
            settings,
        )
        self.function_keeper = FunctionKeeper(
            self.database, self.admin, self.board, self.metrics, self.audit, topology, settings
        )
        self.confirmations = ConfirmationKeeper(
            self.database, self.admin, self.broker, self.metrics, topology
        )
        self.ordering = OrderingService(
            self.database, self.broker, timeout_seconds=settings.broker_timeout_seconds
        )
        self.dead_letters = DeadLetterService(
            self.database, self.broker, timeout_seconds=settings.broker_timeout_seconds
        )
        self.letter_resends = LetterResends(
            self.database,
            self.dead_letters,
            self.metrics,
            interval_seconds=settings.reconcile_interval_seconds,
        )
        self.operations = OperationService(self.database, self.board, wake=self._wake_operations)
        self.explanations = ExplainService(
            self.database, self.broker, self.admin, timeout_seconds=settings.broker_timeout_seconds
        )
        self.health = HealthService(
            self.database, self.broker, self.admin, self.ordering_follower.state
        )
        by_default = EVERYTHING if settings.default_entitlements == "everything" else NOTHING
        self.consumers = ConsumerService(
            self.database,
            self.publisher,
            default_entitlements=by_default,
            lanes=self.board.lanes_running,
            drain_seconds=settings.drain_seconds,
            wait_seconds=settings.activation_timeout_ms / 1000,
        )
        self.starts = StartSearch(
            self.broker, self.admin, timeout_seconds=settings.broker_timeout_seconds
        )
        self.subscriptions = SubscriptionService(
            self.database,
            self.publisher,
            self.starts,
            require_broker=self.health.require_broker,
            lanes=self.board.lanes_running,
            service_url=settings.consumer_service_url,
            most=settings.subscriptions_per_consumer,
            wait_seconds=settings.activation_timeout_ms / 1000,
        )
        self.lifecycles = LifecycleService(
            self.database,
            self.publisher,
            self.subscriptions,
            require_broker=self.health.require_broker,
            lanes=self.board.lanes_running,
            drain_seconds=settings.drain_seconds,
            wait_seconds=settings.activation_timeout_ms / 1000,
        )
        self.readings = ReadingService(
            self.database,
            self.admin,
            thresholds,
            self.confirmations.board,
        )
        self.health_histories = HealthHistoryService(self.database)
        self.groups = GroupService(self.database, self.admin)
        self.topic_states = TopicService(self.database, self.admin, settings.topology_dir)
        self.instrument_sets = InstrumentSetService(
            self.database,
            self.publisher,
            wait_seconds=settings.activation_timeout_ms / 1000,
        )
        self.reference_tables = ReferenceTableService(
            self.database,
            self.publisher,
            wait_seconds=settings.activation_timeout_ms / 1000,
        )
        self.transformations = TransformationService(self.database)
        self.rules = RuleService(
            self.database,
            self.publisher,
            drain_seconds=settings.drain_seconds,
            wait_seconds=settings.activation_timeout_ms / 1000,
        )
        self.plans = PlanService(self.database, self.board)
        self.plan_comparison = PlanComparison(self.database)
        self.previews = PreviewService(
            self.database,
            self.broker,
            self.admin,
            lanes=self.board.lanes_running,
            seconds=settings.preview_seconds,
        )
        self.rollbacks = RollbackService(
            self.database,
            self.publisher,
            lanes=self.board.lanes_running,
            drain_seconds=settings.drain_seconds,
            wait_seconds=settings.activation_timeout_ms / 1000,
        )
        self.ring = _key_ring(settings)
        self.revocations = Revocations(
            self._load_revoked, known_within_seconds=settings.revocation_seconds
        )
        self.tokens = TokenService(
            self.database,
            self.ring,
            self.revocations,
            self.grants,
            lifetime_seconds=settings.token_lifetime_seconds,
            renewal=timedelta(days=settings.token_renewal_days),
        )
        self.publishers = PublisherService(
            self.database,
            self.publisher,
            self.revocations,
            self.grants,
            drain_seconds=settings.drain_seconds,
            wait_seconds=settings.activation_timeout_ms / 1000,
        )
        self.authenticate, self.still_allowed = self._authentication()

    def _measure(self) -> None:
        """Have what parts know of themselves told with the metrics."""
        self.metrics.event_streams.set_function(lambda: self.events.streams)
        self.metrics.registry.register(self.certificates)
        self.metrics.follow_functions(self.board)

    def _authentication(self) -> tuple[Authenticate, StillAllowed]:
        if self.settings.authentication == "off":
            return admit_anybody, still_anybody
        if self.ring is None:
            raise SettingsError("DDS_AUTHENTICATION=required needs DDS_SIGNING_KEYS_DIR")
        made = Authenticator(self.ring, self.revocations, _external_issuer(self.settings))
        return made, made.still_allowed

    def _wake_operations(self) -> None:
        self.function_keeper.wake()
        self.letter_resends.wake()

    async def _load_revoked(self) -> Revoked:
        async with self.database.transaction() as session:
            return await token_rows.revoked(session)

    @asynccontextmanager
    async def running(self, _app: Litestar) -> AsyncIterator[None]:
        """Run the background tasks while the server serves."""
        await self.broker.open()
        confirmed = self.confirmations.board
        followers = [
            Follower(self.broker, STATUS, lambda message: self.board.take(message.data())),
            Follower(self.broker, CONFIRMED, lambda message: confirmed.take(message.data())),
        ]
        for follower in followers:
            follower.start()
        tasks = [
            asyncio.create_task(self.ordering_follower.run(), name="ordering follower"),
            asyncio.create_task(self.events.run(), name="events"),
            asyncio.create_task(self.audit.run(), name="audit"),
            asyncio.create_task(self.audit_exporter.run(), name="audit export"),
        ]
        # What is done to functions is the reconciler's in the audit log.
        for name, run, actor in (
            ("publisher", self.publisher.run, "publisher"),
            ("reconciler", self.reconciler.run, "reconciler"),
            ("function keeper", self.function_keeper.run, "reconciler"),
            ("dead letters", self.letter_resends.run, "dead letters"),
            ("confirmations", self.confirmations.run, "reconciler"),
        ):
            with acting(partial(component, actor)):
                tasks.append(asyncio.create_task(run(), name=name))
        log.info("control plane started", version=__version__)
        if self.settings.authentication == "off":
            log.warning(
                "AUTHENTICATION IS OFF: whoever reaches this port may do everything; "
                "set DDS_AUTHENTICATION=required",
                host=self.settings.http_host,
            )
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            for task, end in zip(tasks, ends, strict=True):
                if isinstance(end, Exception):
                    log.error("a task had failed", task=task.get_name(), error=repr(end))
            await asyncio.gather(*(follower.stop() for follower in followers))
            await self.audit.close()
            self.ordering.close()
            self.dead_letters.close()
            self.explanations.close()
            self.starts.close()
            self.previews.close()
            await self.fenced.close()
            await self.broker.close()
            await self.admin.aclose()
            await self.revocations.close()
            await self.database.close()
            log.info("control plane stopped")

    def dependencies(self) -> dict[str, Provide]:
        """What routes may ask for by name."""
        parts = {
            "consumers": self.consumers,
            "subscriptions": self.subscriptions,
            "readings": self.readings,
            "health_histories": self.health_histories,
            "lifecycles": self.lifecycles,
            "groups": self.groups,
            "topics": self.topic_states,
            "operations": self.operations,
            "plans": self.plans,
            "plan_comparison": self.plan_comparison,
            "previews": self.previews,
            "rollbacks": self.rollbacks,
            "instrument_sets": self.instrument_sets,
            "reference_tables": self.reference_tables,
            "transformations": self.transformations,
            "rules": self.rules,
            "publishers": self.publishers,
            "ordering": self.ordering,
            "dead_letters": self.dead_letters,
            "explanations": self.explanations,
            "audit": self.audit,
            "board": self.board,
            "events": self.events,
            "still_allowed": self.still_allowed,
            "health_service": self.health,
            "metrics": self.metrics,
            "database": self.database,
            "tokens": self.tokens,
            "settings": self.settings,
        }
        return {
            **{name: _provide(part) for name, part in parts.items()},
            "caller": Provide(caller_of, sync_to_thread=False),
        }


def create_app(settings: Settings) -> Litestar:
    """The control plane as an ASGI application."""
    control_plane = ControlPlane(settings)
    app = Litestar(
        route_handlers=[
            Router(
                path="/v1",
                guards=[require_known_parameters, require_text],
                route_handlers=[
                    ConsumerController,
                    SubscriptionController,
                    SubscriptionBatchController,
                    GroupController,
                    PlanController,
                    PreviewController,
                    RolloutController,
                    RollbackController,
                    InstrumentSetController,
                    ReferenceTableController,
                    TransformationController,
                    PublisherController,
                    RuleController,
                    RuleOrderController,
                    FunctionController,
                    FunctionOperationController,
                    OperationController,
                    TopicController,
                    OrderingController,
                    DeadLetterController,
                    DeadLettersController,
                    ExplainController,
                    EventController,
                    SchemaController,
                    TokenController,
                    AuditController,
                ],
            ),
            SystemController,
            KeyController,
        ],
        dependencies=control_plane.dependencies(),
        guards=[require_permission],
        exception_handlers=EXCEPTION_HANDLERS,
        request_class=BodyRequest,
        lifespan=[control_plane.running],
        state=State({"settings": settings, "control_plane": control_plane}),
        request_max_body_size=MAX_BODY_BYTES,
        openapi_config=_openapi(),
        logging_config=None,
    )
    allow_what_there_is(app)
    # Around the router, not in it: what has no route needs a token, gets a request id and a log
    # line too.
    repeatable = idempotency_middleware(
        control_plane.database,
        max_body_bytes=MAX_BODY_BYTES,
        wait_seconds=settings.activation_timeout_ms / 1000 + ANSWERED_WITHIN_SECONDS,
    )(app.asgi_handler)
    authenticated = authentication_middleware(
        control_plane.authenticate,
        public=public_paths(app),
        on_refused=control_plane.metrics.note_refused,
        limited=_limited(settings),
    )(repeatable)
    attributed = acting_middleware(control_plane.audit.refused)(authenticated)
    app.asgi_handler = request_middleware(control_plane.metrics.observe_request)(attributed)
    return app


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Data Distribution Service",
        version=__version__,
        description=(
            "Consumers register what they want to receive; the answer says where an ordinary "
            "Pulsar client finds it. Errors are RFC 9457 problems. Everything but health and "
            "public keys needs a bearer token, unless authentication is off here."
        ),
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(
                    type="http",
                    scheme="bearer",
                    bearer_format="JWT",
                    description="A token of POST /v1/tokens, or of the platform team.",
                )
            }
        ),
        security=[{"bearer": []}],
        openapi_router=Router(
            path="/schema",
            route_handlers=[page_file],
            include_in_schema=False,
            opt=needs(Permission.DESCRIBE),
        ),
        render_plugins=[
            ExactPages(),
            ExactJson(path="/openapi.json"),
            ExactYaml(path=["/openapi.yaml", "/openapi.yml"]),
        ],
        use_handler_docstrings=True,
        tags=[
            Tag(name="consumers", description="Who receives events."),
            Tag(name="subscriptions", description="What a consumer receives."),
            Tag(name="groups", description="Who reads under a subscription."),
            Tag(name="publishers", description="Who sends events."),
            Tag(name="rules", description="Which events may go to which consumers."),
            Tag(name="instrument sets", description="Lists of instruments that filters name."),
            Tag(name="reference tables", description="What is joined to events."),
            Tag(name="plans", description="What the functions execute."),
            Tag(name="topics", description="Where events are."),
            Tag(name="functions", description="What runs inside the broker."),
            Tag(name="operations", description="What takes its time."),
            Tag(name="ordering", description="What the order of the sources shows."),
            Tag(name="dead letters", description="What the functions could not process."),
            Tag(name="events", description="What changes, as it changes."),
            Tag(name="tokens", description="Who may call."),
            Tag(name="audit", description="Who did what, and who was refused."),
            Tag(name="system", description="The control plane itself."),
        ],
    )


def _limited(settings: Settings) -> Callable[[ASGIApp], ASGIApp]:
    if not settings.rate_limit_per_second:
        return lambda app: app
    limiter = RateLimiter(settings.rate_limit_per_second, settings.rate_limit_burst)
    return rate_limit_middleware(limiter, exempt=NEVER_LIMITED)


def _key_ring(settings: Settings) -> KeyRing | None:
    if settings.signing_keys_dir is None:
        return None
    return KeyRing(
        settings.signing_keys_dir, issuer=settings.token_issuer, audience=settings.token_audience
    )


def _external_issuer(settings: Settings) -> ExternalIssuer | None:
    if not (settings.oidc_issuer and settings.oidc_audience and settings.oidc_jwks_url):
        return None
    trust = Trust(
        settings.oidc_issuer,
        settings.oidc_audience,
        subject_claim=settings.oidc_subject_claim,
        role_claim=settings.oidc_role_claim,
    )
    return ExternalIssuer(trust, fetch_from(settings.oidc_jwks_url))


def _provide(part: object) -> Provide:
    return Provide(lambda: part, sync_to_thread=False, use_cache=True)
