"""Series about order: what the database counts for all control planes, and this one's follower.

Labels are bounded: sources beyond the first fifty share one, instruments have none.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from control_plane.domains.ordering.follower import FollowerState
from control_plane.domains.ordering.repository import Totals


class OrderingCollector(Collector):
    """Exports the totals of the last look at the database, and the follower as it is now."""

    def __init__(self, follower: FollowerState) -> None:
        self._follower = follower
        self._totals: Totals | None = None

    def set_stored(self, totals: Totals | None) -> None:
        """Take over what was just read; None while the database is away."""
        self._totals = totals

    def collect(self) -> Iterable[Metric]:
        """All series; those of the database are absent while it is away."""
        yield GaugeMetricFamily(
            "dds_ordering_follower_following",
            "1 where this control plane stores the findings, 0 where it waits or stands by.",
            value=float(self._follower.role == "following"),
        )
        yield GaugeMetricFamily(
            "dds_ordering_follower_lag_seconds",
            "Age of the oldest message of findings that is known here and not stored.",
            value=self._follower.lag_seconds(datetime.now(UTC)),
        )
        if self._totals is not None:
            yield from _by_source(self._totals)
            yield from _by_partition(self._totals)


def _by_source(totals: Totals) -> Iterable[Metric]:
    findings = CounterMetricFamily(
        "dds_ordering_findings",
        "Findings by type, source and outcome: what the policy did, or how a gap closed.",
        labels=("type", "source", "outcome"),
    )
    for count in totals.counts:
        findings.add_metric((count.type, count.source, count.outcome), count.findings)
    gaps = GaugeMetricFamily("dds_ordering_open_gaps", "Gaps that are open.", labels=("source",))
    missing = GaugeMetricFamily(
        "dds_ordering_missing_events", "Events missing in open gaps.", labels=("source",)
    )
    for row in totals.open_gaps:
        gaps.add_metric((row.source,), row.gaps)
        missing.add_metric((row.source,), row.missing)
    return findings, gaps, missing


def _by_partition(totals: Totals) -> Iterable[Metric]:
    labels = ("partition",)
    messages = CounterMetricFamily(
        "dds_ordering_messages", "Messages of findings that are stored.", labels=labels
    )
    poison = CounterMetricFamily(
        "dds_ordering_poison",
        "Messages and findings that could not be stored; see the table ordering_poison.",
        labels=labels,
    )
    ledger = GaugeMetricFamily(
        "dds_ordering_stored_ledger_id", "Ledger of the newest stored message.", labels=labels
    )
    entry = GaugeMetricFamily(
        "dds_ordering_stored_entry_id", "Entry of the newest stored message.", labels=labels
    )
    stored = GaugeMetricFamily(
        "dds_ordering_stored_timestamp_seconds",
        "When the newest stored message was published.",
        labels=labels,
    )
    for row in totals.positions:
        label = (str(row.partition),)
        messages.add_metric(label, row.messages)
        poison.add_metric(label, row.poison)
        ledger.add_metric(label, row.ledger_id)
        entry.add_metric(label, row.entry_id)
        stored.add_metric(label, row.published_at.timestamp())
    return messages, poison, ledger, entry, stored
