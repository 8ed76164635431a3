"""Plans as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from marketdata.plans import Delivery
from marketdata.transformations import Transformation

RolloutState = Literal["pending", "rolling", "applied", "superseded"]


class Rollout(msgspec.Struct):
    """How far a plan has come among the distributor's instances."""

    state: RolloutState
    applied: int
    expected: int
    detail: str


RolledBackTo = Annotated[
    int | None, Meta(description="The earlier plan whose definitions it put back; null for none.")
]


class PlanOut(msgspec.Struct):
    """A plan without its views."""

    number: int
    digest: str
    view_count: int
    correlation_id: str
    created_at: datetime
    published_at: datetime | None
    rolled_back_to: RolledBackTo
    rollout: Rollout


class PlanDetail(PlanOut):
    """A plan with its views, as the functions read them."""

    views: list[dict[str, Any]]


class PartOut(msgspec.Struct):
    """A part of a view (filter, transformation, format, delivery) that is another one."""

    part: str
    before: Any
    after: Any


class ViewOut(msgspec.Struct):
    """A view of a plan."""

    id: str
    filter: Annotated[str, Meta(description="In normal form; '' for everything.")]
    transformation: Transformation
    format: str
    delivery: Delivery


class SetDifferenceOut(msgspec.Struct):
    """An instrument set that a plan carries, and another one otherwise or not at all."""

    name: str
    added: list[str]
    removed: list[str]


class TableDifferenceOut(msgspec.Struct):
    """A reference table of which a plan names a version, and another one a second or none."""

    name: str
    before: Annotated[int | None, Meta(description="The version; null where it is not named.")]
    after: int | None


class SubscriptionDifferenceOut(msgspec.Struct):
    """A subscription that one plan serves, and another one otherwise or not at all."""

    subscription: str
    consumer: str
    name: str
    view_before: str | None
    view_after: str | None
    parts: Annotated[list[PartOut], Meta(description="In what the views differ.")]


class ViewDifferencesOut(msgspec.Struct):
    """Views in which two plans differ."""

    added: list[ViewOut]
    removed: list[ViewOut]
    changed: Annotated[
        list[ViewOut],
        Meta(
            description="In both plans, but an instrument set of the filter, or a reference table "
            "of the transformation, holds something else."
        ),
    ]


class SubscriptionDifferencesOut(msgspec.Struct):
    """Subscriptions in which two plans differ."""

    added: list[SubscriptionDifferenceOut]
    removed: list[SubscriptionDifferenceOut]
    changed: Annotated[list[SubscriptionDifferenceOut], Meta(description="They have another view.")]


class PlanDifferenceOut(msgspec.Struct):
    """What changes from one plan to another, as they stood when the next one came."""

    before: int
    after: int
    views: ViewDifferencesOut
    subscriptions: SubscriptionDifferencesOut
    sets: list[SetDifferenceOut]
    tables: list[TableDifferenceOut]
    cut: Annotated[bool, Meta(description="Whether a list holds the first 1,000 only.")]


class InstanceRollout(msgspec.Struct):
    """An instance of a function on its way to a plan."""

    function: str
    instance: int
    state: Annotated[
        Literal["applied", "behind", "silent"],
        Meta(description="silent: it has not reported for 10 s."),
    ]
    plan: Annotated[int, Meta(description="What it runs, by its last report.")]
    reported_at: datetime
    last_error: str | None


class RolloutOut(msgspec.Struct):
    """The way of a plan to the functions."""

    plan: int
    state: RolloutState
    applied: int
    expected: int
    detail: str
    created_at: datetime
    published_at: datetime | None
    applied_at: Annotated[
        datetime | None, Meta(description="When every instance was first seen to run it.")
    ]
    rolled_back_to: RolledBackTo
    instances: Annotated[
        list[InstanceRollout], Meta(description="Empty when a newer plan is published.")
    ]
