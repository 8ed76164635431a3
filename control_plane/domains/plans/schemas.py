"""Plans as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec


class Rollout(msgspec.Struct):
    """How far a plan has come among the distributor's instances."""

    state: Literal["pending", "rolling", "applied", "superseded"]
    applied: int
    expected: int
    detail: str


class PlanOut(msgspec.Struct):
    """A plan without its views."""

    number: int
    digest: str
    view_count: int
    correlation_id: str
    created_at: datetime
    published_at: datetime | None
    rollout: Rollout


class PlanDetail(PlanOut):
    """A plan with its views, as the functions read them."""

    views: list[dict[str, Any]]
