"""Routes of health, readiness and metrics; they stand outside /v1 and keep their paths."""

from __future__ import annotations

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from control_plane import __version__
from control_plane.database import Database
from control_plane.domains.alerts import repository as alert_rows
from control_plane.domains.audit import repository as audit_rows
from control_plane.domains.ordering import repository as ordering_rows
from control_plane.domains.subscriptions import repository as subscription_rows
from control_plane.domains.system.metrics import Metrics
from control_plane.domains.system.schemas import Health, Readiness
from control_plane.domains.system.service import HealthService
from control_plane.errors import DatabaseUnavailableError
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs
from control_plane.settings import Settings

_NOT_READY = {
    "status": "not ready",
    "missing": ["broker"],
    "dependencies": {
        "database": {"status": "ok", "detail": "", "latency_ms": 0.9},
        "broker": {"status": "missing", "detail": "It does not answer.", "latency_ms": 1000.0},
    },
    "ordering_follower": {"role": "waiting", "detail": "The broker is away.", "lag_seconds": 0.0},
}


class SystemController(Controller):
    """The control plane itself."""

    path = "/"
    tags = ("system",)

    @get(
        "/healthz",
        operation_id="getHealth",
        summary="Is the process alive",
        opt=needs(Permission.PUBLIC),
        security=[{}],
    )
    async def health(self) -> Health:
        """Answers as long as the process serves, whatever is missing around it."""
        return Health(version=__version__)

    @get(
        "/readyz",
        operation_id="getReadiness",
        summary="Can requests be served",
        opt=needs(Permission.PUBLIC),
        security=[{}],
        responses={
            503: ResponseSpec(
                Readiness,
                description="Service Unavailable",
                generate_examples=False,
                examples=[Example(value=_NOT_READY)],
            )
        },
    )
    async def readiness(
        self, health_service: NamedDependency[HealthService], settings: NamedDependency[Settings]
    ) -> Response[Readiness]:
        """200 when all dependencies answer; 503 with Retry-After naming those that do not."""
        found = await health_service.readiness()
        if found.missing:
            return Response(
                found,
                status_code=503,
                headers={"Retry-After": str(settings.retry_after_seconds)},
            )
        return Response(found)

    @get(
        "/metrics",
        operation_id="getMetrics",
        summary="Prometheus metrics",
        media_type="text/plain",
        opt=needs(Permission.METRICS),
        responses={
            200: ResponseSpec(
                str,
                media_type="text/plain",
                generate_examples=False,
                description="In Prometheus' text format.",
                examples=[Example(value='dds_subscriptions{state="active"} 412.0\n')],
            ),
            **responses(),
        },
    )
    async def metrics(
        self, metrics: NamedDependency[Metrics], database: NamedDependency[Database]
    ) -> Response[bytes]:
        """Everything measured here; what PostgreSQL counts is absent while it is."""
        try:
            async with database.transaction() as session:
                metrics.set_subscriptions(await subscription_rows.count_by_state(session))
                metrics.set_alerts(await alert_rows.count_by_kind(session))
                metrics.ordering.set_stored(await ordering_rows.totals(session))
                metrics.audit.set_stored(await audit_rows.export_progress(session))
        except DatabaseUnavailableError:
            metrics.subscriptions.clear()
            metrics.alerts.clear()
            metrics.ordering.set_stored(None)
            metrics.audit.set_stored(None)
        return Response(
            generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )
