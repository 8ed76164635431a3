"""Prometheus metrics of the control plane; units stand in the names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from control_plane.domains.audit.metrics import AuditCollector
from control_plane.domains.functions.schemas import StatusReport
from control_plane.domains.functions.service import StatusBoard
from control_plane.domains.ordering.follower import FollowerState
from control_plane.domains.ordering.metrics import OrderingCollector
from control_plane.security.tokens import Reason
from marketdata.confirmed import Confirmed

_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})

LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """All series of one control plane, in a registry of its own."""

    def __init__(self, follower: FollowerState) -> None:
        self.registry = CollectorRegistry()
        self.ordering = OrderingCollector(follower)
        self.registry.register(self.ordering)
        self.requests = Counter(
            "dds_http_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "dds_http_request_seconds",
            "Time to answer a request.",
            ("method", "route"),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.plan_published = Gauge(
            "dds_plan_published_number",
            "Number of the newest published plan.",
            registry=self.registry,
        )
        self.plan_apply_seconds = Histogram(
            "dds_plan_apply_seconds",
            "From the publication of a plan here to the report of an instance that runs it.",
            ("function",),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.subscriptions = Gauge(
            "dds_subscriptions", "Subscriptions by state.", ("state",), registry=self.registry
        )
        self.reconcile_runs = Counter(
            "dds_reconcile_runs", "Looks of the reconciler at the cluster.", registry=self.registry
        )
        self.reconcile_errors = Counter(
            "dds_reconcile_errors",
            "Looks that failed.",
            ("dependency",),
            registry=self.registry,
        )
        self.reconcile_actions = Counter(
            "dds_reconcile_actions",
            "What the reconciler repaired.",
            ("action",),
            registry=self.registry,
        )
        self.backlog_dropped = Counter(
            "dds_backlog_dropped_messages",
            "Messages that subscriptions lost by `on_backlog`.",
            registry=self.registry,
        )
        self.backlog_disconnected = Counter(
            "dds_backlog_disconnected",
            "Subscriptions that were paused by `on_backlog`.",
            registry=self.registry,
        )
        self.backlog_conflated = Counter(
            "dds_backlog_conflated",
            "Subscriptions that were conflated by `on_backlog`.",
            registry=self.registry,
        )
        self.schemas_refused = Counter(
            "dds_topic_schemas_refused",
            "Schemas of views' topics that the broker did not take; the views go on without.",
            registry=self.registry,
        )
        self.event_streams = Gauge(
            "dds_event_streams", "Streams of /v1/events that are open.", registry=self.registry
        )
        self.refused = Counter(
            "dds_authentication_refused",
            "Requests without a token that holds.",
            ("reason",),
            registry=self.registry,
        )
        for reason in Reason:
            self.refused.labels(reason.value)
        self.audit_divided = Counter(
            "dds_audit_export_divided",
            "How often the newest exported entry was none of this audit log.",
            registry=self.registry,
        )
        self.alerts = Gauge(
            "dds_alerts",
            "What was told as an event and is not over: certificates and tokens that end soon,"
            " subscriptions with unusual consumption.",
            ("kind",),
            registry=self.registry,
        )
        self.audit = AuditCollector()
        self.registry.register(self.audit)
        self._published_at_ns: dict[int, int] = {}

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request; a method that HTTP does not have is `other`."""
        method = method if method in _METHODS else "other"
        self.requests.labels(method, route, str(status)).inc()
        self.request_seconds.labels(method, route).observe(seconds)

    def note_refused(self, reason: Reason) -> None:
        """Count one request that was not authenticated."""
        self.refused.labels(reason.value).inc()

    def note_published(self, number: int, started_ns: int) -> None:
        """Remember when a plan was published; only the newest hundred are kept."""
        self.plan_published.set(number)
        self._published_at_ns[number] = started_ns
        while len(self._published_at_ns) > 100:
            self._published_at_ns.pop(min(self._published_at_ns))

    def note_report(self, before: StatusReport | None, report: StatusReport) -> None:
        """Observe the lag when an instance reports a newer plan than before."""
        if before is None or report.plan <= before.plan:
            return
        published_at_ns = self._published_at_ns.get(report.plan)
        if published_at_ns is not None:
            lag_ns = max(0, report.reported_at_ns - published_at_ns)
            self.plan_apply_seconds.labels(report.function).observe(lag_ns / 1e9)

    def set_subscriptions(self, counts: Mapping[str, int]) -> None:
        """Set the numbers of subscriptions by state."""
        for state, count in counts.items():
            self.subscriptions.labels(state).set(count)

    def set_alerts(self, counts: Mapping[str, int]) -> None:
        """Set how many alerts stand of each kind."""
        for kind, count in counts.items():
            self.alerts.labels(kind).set(count)

    def follow_confirmed(self, known: Callable[[], Iterable[Confirmed]]) -> None:
        """Export how far behind is what workflows have confirmed that others follow."""
        self.registry.register(_ConfirmedCollector(known))

    def follow_functions(self, board: StatusBoard) -> None:
        """Export the functions' own counters as of their last report."""
        self.registry.register(_FunctionCollector(board))


class _ConfirmedCollector(Collector):
    """What workflows have confirmed; one of which nothing was told yet has no value."""

    def __init__(self, known: Callable[[], Iterable[Confirmed]]) -> None:
        self._known = known

    def collect(self) -> Iterable[Metric]:
        behind = GaugeMetricFamily(
            "dds_workflow_confirmed_behind_seconds",
            "How long ago that was delivered which all of a followed workflow has acknowledged.",
            labels=("workflow",),
        )
        for each in self._known():
            if each.as_of_ns:
                behind.add_metric([each.workflow], max(0.0, time.time() - each.as_of_ns / 1e9))
        return (behind,)


class _FunctionCollector(Collector):
    """The status board as series; counters restart with their instance, so they are gauges."""

    def __init__(self, board: StatusBoard) -> None:
        self._board = board

    def collect(self) -> Iterable[Metric]:
        labels = ("function", "instance")
        counters = GaugeMetricFamily(
            "dds_function_counter",
            "Counters of a function instance since its start.",
            labels=(*labels, "counter"),
        )
        plan = GaugeMetricFamily(
            "dds_function_plan_number", "Plan that an instance runs.", labels=labels
        )
        reported = GaugeMetricFamily(
            "dds_function_reported_timestamp_seconds",
            "When an instance last reported.",
            labels=labels,
        )
        behind = GaugeMetricFamily(
            "dds_function_instances_missing",
            "Instances that should run and do not report.",
            labels=("function",),
        )
        for report in self._board.reports():
            key = (report.function, str(report.instance))
            plan.add_metric(key, report.plan)
            reported.add_metric(key, report.reported_at_ns / 1e9)
            for name, value in report.counters.items():
                counters.add_metric((*key, name), value)
        for function, expected in self._board.expected.items():
            behind.add_metric((function,), max(0, expected - len(self._board.live(function))))
        return (counters, plan, reported, behind)
