"""Subscriptions as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from control_plane.domains.consumers.schemas import Labels, Name
from marketdata.plans import Delivery, FormatName
from marketdata.transformations import Transformation

MAX_FILTER_CHARACTERS = 20_000

FilterText = Annotated[
    str,
    Meta(
        max_length=MAX_FILTER_CHARACTERS,
        pattern=r"^[^\x00]*$",
        description="SQL predicate over an event's columns; '' lets every event pass.",
        examples=["instrument IN ('AAPL', 'MSFT') AND kind = 'trade' AND price > 187.25"],
    ),
]
ConsumerKey = Annotated[
    str, Meta(min_length=1, max_length=64, description="Id or name of the consumer.")
]


class SubscriptionCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A subscription to make."""

    consumer: ConsumerKey
    name: Name
    filter: FilterText = ""
    transformation: Transformation = msgspec.field(default_factory=Transformation)
    format: FormatName = "arrow"
    delivery: Delivery = Delivery()
    start: Annotated[
        Literal["latest", "earliest"],
        Meta(description="Begin with what comes now, or with what the view's topic still holds."),
    ] = "latest"
    labels: Labels = {}


class SubscriptionUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """What to change of a subscription; absent fields stay.

    What is delivered (filter, transformation, format, delivery) belongs to the view and cannot be
    changed in place: make another subscription and delete this one.
    """

    name: Name | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET


class ColumnOut(msgspec.Struct):
    """One column of a delivered event; `type` is Arrow's."""

    name: str
    type: str
    scale: Annotated[
        int | None,
        Meta(description="Digits behind the point of a decimal: it is stored in units of 10^-n."),
    ]


class SchemaOut(msgspec.Struct):
    """How to read a delivered message."""

    format: FormatName
    media_type: str
    compression: str
    schema_version: int
    description: str
    columns: Annotated[
        dict[str, list[ColumnOut]] | None,
        Meta(description="The columns of each kind of event, in order; null in lists."),
    ]


class SubscriptionOut(msgspec.Struct):
    """A subscription, with all that a plain Pulsar client needs to read it."""

    id: str
    consumer: str
    consumer_name: str
    name: str
    state: Literal["pending", "active", "closed"]
    filter: str
    canonical_filter: str
    transformation: Transformation
    format: FormatName
    delivery: Delivery
    start: Literal["latest", "earliest"]
    labels: dict[str, str]
    service_url: str
    topic: str
    subscription_name: str
    subscription_type: str
    message_schema: Annotated[SchemaOut, Meta(description="How to read a delivered message.")] = (
        msgspec.field(name="schema")
    )
    view: str
    plan: Annotated[int, Meta(description="The plan from which the subscription is active.")]
    created_at: datetime
    updated_at: datetime
    activated_at: datetime | None
    closed_at: datetime | None
