"""Health as it travels over HTTP."""

from __future__ import annotations

from typing import Literal

import msgspec


class Health(msgspec.Struct):
    """The process is alive."""

    status: Literal["alive"] = "alive"
    version: str = ""


class DependencyHealth(msgspec.Struct):
    """One dependency: `ok`, or `missing` with what to do about it."""

    status: Literal["ok", "missing"]
    detail: str
    latency_ms: float


class FollowerHealth(msgspec.Struct):
    """What stores the sequencer's findings: its role here, and how far behind it is.

    Requests are served all the same while it waits, so it does not decide on readiness.
    """

    role: Literal["starting", "following", "standby", "waiting"]
    detail: str
    lag_seconds: float


class Readiness(msgspec.Struct):
    """Whether requests can be served in full, and what is missing if not."""

    status: Literal["ready", "not ready"]
    missing: list[str]
    dependencies: dict[str, DependencyHealth]
    ordering_follower: FollowerHealth
