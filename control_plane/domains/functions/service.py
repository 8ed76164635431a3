"""The status board: the last report of every function instance, kept in memory.

It is filled from the compacted topic `control/status`, so a control plane that has just started
knows within a moment what runs; it is written by the follower's thread and read by requests.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from control_plane.domains.functions.schemas import (
    ClusterState,
    DifferenceOut,
    FunctionList,
    FunctionOut,
    InstanceOut,
    StatusReport,
)
from control_plane.errors import NotFoundError
from marketdata.lanes import DEFAULT_LANE

PLAN_RUNNER = "distributor"
"""The function that executes plans where no topology says which do."""

FRESH_FOR_NS = 10_000_000_000
"""An instance that has not reported for this long does not count as running."""

_decode = msgspec.json.Decoder(StatusReport)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a plan has come: applied by `applied` of `expected` instances."""

    applied: int
    expected: int

    @property
    def complete(self) -> bool:
        """Whether every instance runs the plan or a later one."""
        return 0 < self.expected <= self.applied


class StatusBoard:
    """The last report of every instance.

    `on_report` is called, in the follower's thread, with the report before and the new one.
    """

    def __init__(
        self,
        now_ns: Callable[[], int] = time.time_ns,
        on_report: Callable[[StatusReport | None, StatusReport], None] | None = None,
    ) -> None:
        self._now_ns = now_ns
        self._on_report = on_report
        self._reports: dict[tuple[str, int], StatusReport] = {}
        self._cluster: dict[str, ClusterState] = {}
        self.expected: Mapping[str, int] = {}
        """Instances that each function should have; set by who knows the topology."""
        self.lanes: Mapping[str, str] = {DEFAULT_LANE: PLAN_RUNNER}
        """The functions that execute plans, by lane; set by who knows the topology."""

    def take(self, payload: bytes) -> None:
        """Take in one report; msgspec.DecodeError when it is none."""
        report = _decode.decode(payload)
        key = (report.function, report.instance)
        before = self._reports.get(key)
        if before is not None and before.reported_at_ns > report.reported_at_ns:
            return
        self._reports[key] = report
        if self._on_report is not None:
            self._on_report(before, report)

    def note_cluster(
        self,
        function: str,
        *,
        expected: int,
        running: int,
        state: str,
        detail: str,
        differences: Sequence[DifferenceOut] = (),
    ) -> None:
        """Keep what the functions worker says about a function."""
        self._cluster[function] = ClusterState(
            expected=expected,
            running=running,
            state=state,
            detail=detail,
            seen_at=moment(self._now_ns()),
            differences=list(differences),
        )

    def reports(self, function: str | None = None) -> list[StatusReport]:
        """The last reports, ordered by function and instance."""
        return [
            report
            for (name, _), report in sorted(self._reports.copy().items())
            if function is None or name == function
        ]

    def is_fresh(self, report: StatusReport) -> bool:
        """Whether the instance has reported lately."""
        return self._now_ns() - report.reported_at_ns <= FRESH_FOR_NS

    def live(self, function: str) -> list[StatusReport]:
        """The reports of the instances that run now."""
        return [report for report in self.reports(function) if self.is_fresh(report)]

    def plan_reports(self) -> list[StatusReport]:
        """The last reports of all functions that execute plans."""
        return [report for name in sorted(self.lanes.values()) for report in self.reports(name)]

    def progress(self, plan: int) -> Progress:
        """How many instances of all functions that execute plans run this plan or a later one."""
        applied = expected = 0
        for function in self.lanes.values():
            live = self.live(function)
            wanted = self.expected.get(function, len(live))
            applied += min(sum(report.plan >= plan for report in live), wanted)
            expected += wanted
        return Progress(applied, expected)

    def lanes_running(self) -> frozenset[str]:
        """The lanes that functions have which have been seen running."""
        return frozenset(lane for lane, name in self.lanes.items() if self.reports(name))

    def least_plan(self) -> int | None:
        """The lowest plan that an instance may run; None while one does not tell."""
        plans = []
        for function in self.lanes.values():
            live = self.live(function)
            if len(live) < self.expected.get(function, len(live) + 1):
                return None
            plans += [report.plan for report in live]
        return min(plans, default=0)

    def listing(self) -> FunctionList:
        """Every function that is described, reported or known to the cluster."""
        names = {*self.expected, *self._cluster, *(r.function for r in self.reports())}
        return FunctionList([self._describe(name) for name in sorted(names)])

    def describe(self, name: str) -> FunctionOut:
        """One function; NotFoundError when nobody knows it."""
        for function in self.listing().items:
            if function.name == name:
                return function
        raise NotFoundError("function", name)

    def _describe(self, name: str) -> FunctionOut:
        live = self.live(name)
        counters: dict[str, int | float] = defaultdict(int)
        for report in live:
            for counter, value in report.counters.items():
                counters[counter] += value
        return FunctionOut(
            name=name,
            expected_instances=self.expected.get(name, len(live)),
            reporting_instances=len(live),
            plan=min((report.plan for report in live), default=None),
            versions=sorted({report.version for report in live if report.version}),
            counters=dict(counters),
            instances=[self._instance(report) for report in self.reports(name)],
            cluster=self._cluster.get(name),
        )

    def _instance(self, report: StatusReport) -> InstanceOut:
        return InstanceOut(
            instance=report.instance,
            plan=report.plan,
            plan_digest=report.plan_digest,
            partitions=list(report.partitions),
            version=report.version,
            started_at=moment(report.started_at_ns),
            reported_at=moment(report.reported_at_ns),
            fresh=self.is_fresh(report),
            counters=report.counters,
            last_error=report.last_error,
        )


def moment(epoch_ns: int) -> datetime:
    """A time of a report."""
    return datetime.fromtimestamp(epoch_ns / 1e9, UTC)
