"""Status reports as functions write them, and functions as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime

import msgspec


class StatusReport(msgspec.Struct, frozen=True):
    """What one function instance says about itself on `control/status`, about once a second.

    Unknown members are ignored, so that newer functions can report to an older control plane.
    """

    function: str
    instance: int
    reported_at_ns: int
    plan: int = 0
    plan_digest: str = ""
    partitions: tuple[int, ...] = ()
    version: str = ""
    started_at_ns: int = 0
    counters: dict[str, int | float] = {}
    last_error: str | None = None


class InstanceOut(msgspec.Struct):
    """One instance of a function, as of its last report."""

    instance: int
    plan: int
    plan_digest: str
    partitions: list[int]
    version: str
    started_at: datetime
    reported_at: datetime
    fresh: bool
    counters: dict[str, int | float]
    last_error: str | None


class ClusterState(msgspec.Struct):
    """What the functions worker said when the reconciler last looked."""

    expected: int
    running: int
    state: str
    detail: str
    seen_at: datetime


class FunctionOut(msgspec.Struct):
    """A function: what it should be, what its instances report, what the cluster says."""

    name: str
    expected_instances: int
    reporting_instances: int
    plan: int | None
    versions: list[str]
    counters: dict[str, int | float]
    instances: list[InstanceOut]
    cluster: ClusterState | None


class FunctionList(msgspec.Struct):
    """All functions, by name."""

    items: list[FunctionOut]
