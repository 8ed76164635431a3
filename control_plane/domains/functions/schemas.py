"""Status reports as functions write them, and functions as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta


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


class DifferenceOut(msgspec.Struct):
    """An attribute of a function's config that is not as the topology has it; null for absent."""

    attribute: Annotated[str, Meta(examples=["parallelism", "user_config.log_level"])]
    desired: Any
    actual: Any


class ClusterState(msgspec.Struct):
    """What the functions worker said when it was last looked at."""

    expected: int
    running: int
    state: Annotated[
        str, Meta(description="`running`, `down`, `drifted` or `not deployed`, as yet or any more.")
    ]
    detail: str
    seen_at: datetime
    differences: Annotated[
        list[DifferenceOut],
        Meta(description="Drift: what a repair, or a redeploy, puts right."),
    ]


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
