"""Series about the export of the audit log, as PostgreSQL knows it for all control planes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from control_plane.domains.audit.repository import ExportProgress


class AuditCollector(Collector):
    """Exports what the last look at the database found; nothing while it is away."""

    def __init__(self) -> None:
        self._progress: ExportProgress | None = None

    def set_stored(self, progress: ExportProgress | None) -> None:
        """Take over what was just read; None while the database is away."""
        self._progress = progress

    def collect(self) -> Iterable[Metric]:
        """All series."""
        found = self._progress
        if found is None:
            return
        since = found.waiting_since
        lag = (datetime.now(UTC) - since).total_seconds() if since else 0.0
        yield GaugeMetricFamily(
            "dds_audit_exported_sequence",
            "Place in the audit log's chain up to which entries are on the topic.",
            value=found.exported,
        )
        yield GaugeMetricFamily(
            "dds_audit_export_pending_entries",
            "Sealed entries of the audit log that are not on the topic.",
            value=max(0, found.sealed - found.exported),
        )
        yield GaugeMetricFamily(
            "dds_audit_export_lag_seconds", "Age of the first of them.", value=max(0.0, lag)
        )
