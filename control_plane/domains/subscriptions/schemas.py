"""Subscriptions as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from control_plane.domains.consumers.schemas import Labels, Name
from control_plane.domains.subscriptions.beginnings import BeginOut, Start
from control_plane.domains.subscriptions.health import OwnThresholds
from marketdata.plans import Delivery, EveryMs
from marketdata.transformations import Transformation

MAX_FILTER_CHARACTERS = 20_000
MAX_BATCH = 500
"""Most subscriptions of one request."""

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

FormatName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=32,
        description="One of the formats that are installed: arrow, json, avro, protobuf, csv, "
        "msgpack, fix, and those that packages add. Others are refused with those that there are.",
        examples=["arrow", "json"],
    ),
]

SharedReference = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?@[1-9][0-9]{0,8}$",
        description="In place of `transformation`: `name@version` of a shared one.",
        examples=["mids@1"],
    ),
]


StateName = Literal["pending", "active", "paused", "draining", "closed"]


class OnBacklog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of a backlog; each limit is of all partitions together, null for none."""

    policy: Annotated[
        Literal["hold", "drop_oldest", "disconnect", "conflate"],
        Meta(
            description="hold: it waits within the topic's limits. drop_oldest: what is beyond the "
            "limits is dropped, the oldest first. disconnect: beyond the limits the subscription "
            "is paused, and keeps its place. conflate: beyond the limits it is moved to its view "
            "conflated every `every_ms`, and back when it has caught up."
        ),
    ] = "hold"
    messages: (
        Annotated[
            int, Meta(ge=1, le=10**12, description="Frames of events, as the broker counts them.")
        ]
        | None
    ) = None
    bytes: Annotated[int, Meta(ge=1, le=10**15)] | None = None
    seconds: (
        Annotated[
            int, Meta(ge=1, le=10**7, description="Since the oldest was written to the topic.")
        ]
        | None
    ) = None
    every_ms: (
        Annotated[EveryMs, Meta(description="With conflate: as of delivery.conflate.")] | None
    ) = None


GroupName = Annotated[
    Name | None,
    Meta(description="What its members are called together; null: as the subscription."),
]


class SubscriptionCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A subscription to make."""

    consumer: ConsumerKey
    name: Name
    filter: FilterText = ""
    transformation: Transformation = msgspec.field(default_factory=Transformation)
    shared_transformation: SharedReference | UnsetType = UNSET
    format: FormatName = "arrow"
    delivery: Delivery = Delivery()
    start: Start = "latest"
    group: GroupName = None
    on_backlog: OnBacklog = OnBacklog()
    thresholds: OwnThresholds = OwnThresholds()
    labels: Labels = {}


class SubscriptionBatch(msgspec.Struct, forbid_unknown_fields=True):
    """Subscriptions to make together: all of them, or none."""

    subscriptions: Annotated[list[SubscriptionCreate], Meta(min_length=1, max_length=MAX_BATCH)]


class SubscriptionUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """What to change of a subscription; absent fields stay, and those that are named are replaced.

    Another filter, transformation, format or delivery moves the subscription to another topic from
    a plan on.
    """

    name: Name | UnsetType = UNSET
    filter: FilterText | UnsetType = UNSET
    transformation: Transformation | UnsetType = UNSET
    shared_transformation: SharedReference | UnsetType = UNSET
    format: FormatName | UnsetType = UNSET
    delivery: Delivery | UnsetType = UNSET
    group: GroupName | UnsetType = UNSET
    on_backlog: OnBacklog | UnsetType = UNSET
    thresholds: OwnThresholds | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET


class ColumnOut(msgspec.Struct):
    """One column of a delivered event; `type` is Arrow's."""

    name: str
    type: str
    scale: Annotated[
        int | None,
        Meta(description="Digits behind the point of a decimal: it is stored in units of 10^-n."),
    ]


class PulsarSchemaOut(msgspec.Struct):
    """The schema that a view's topic has at the broker."""

    type: Annotated[Literal["AVRO", "JSON", "PROTOBUF_NATIVE"], Meta(description="Pulsar's name.")]
    definition: Annotated[
        str, Meta(description="As Pulsar has it: JSON text, of an Avro record for AVRO and JSON.")
    ]


class SchemaOut(msgspec.Struct):
    """How to read a delivered message."""

    format: str
    media_type: str
    compression: str
    schema_version: int
    description: str
    columns: Annotated[
        dict[str, list[ColumnOut]] | None,
        Meta(description="The columns of each kind of event, in order; null in lists."),
    ]
    pulsar_schema: Annotated[
        PulsarSchemaOut | None,
        Meta(
            description="Of the topic, where a message is one event in a format that Pulsar knows;"
            " null in lists."
        ),
    ] = None


class DrainingOut(msgspec.Struct):
    """A topic that the subscription has left, while it may still read there."""

    topic: str
    from_plan: Annotated[
        int, Meta(description="What has a lower `plan` here is not for this subscription.")
    ]
    plan: Annotated[
        int | None,
        Meta(
            description="The plan from which nothing for this subscription comes here: skip it. "
            "null while events go on coming here: their lane has not got to where `topic` begins."
        ),
    ]
    until: Annotated[
        datetime, Meta(description="When the Pulsar subscription is removed, read out or not.")
    ]


class SubscriptionOut(msgspec.Struct):
    """A subscription, with all that a plain Pulsar client needs to read it."""

    id: str
    consumer: str
    consumer_name: str
    name: str
    state: StateName
    filter: str
    canonical_filter: Annotated[str, Meta(description="The filter in normal form.")]
    effective_filter: Annotated[
        str,
        Meta(
            description="What is delivered: the filter AND the entitlements of the consumer, in "
            "normal form; '' for everything, 'FALSE' for nothing.",
            examples=["kind = 'trade' AND price > 187.25 AND venue IN ('XNAS', 'XNYS')"],
        ),
    ]
    receives_nothing: Annotated[
        bool,
        Meta(
            description="Nothing that the filter asks for is within the entitlements of the "
            "consumer; the subscription stays, and receives again when they allow it."
        ),
    ]
    transformation: Transformation
    shared_transformation: Annotated[
        str | None, Meta(description="The shared transformation that was referred to.")
    ]
    format: str
    delivery: Annotated[
        Delivery,
        Meta(
            description="What holds: as asked for, within the entitlements of the consumer, and "
            "conflated while its backlog asks for that."
        ),
    ]
    asked_delivery: Annotated[Delivery, Meta(description="What was asked for.")]
    start: Start
    begins: Annotated[
        list[BeginOut] | None,
        Meta(
            description="Where `start` is a time or sequences: with what reading began in each "
            "partition of the first topic. Empty: nobody had the view before, so that nothing was "
            "there. Else null."
        ),
    ]
    group: Annotated[str, Meta(description="What its members are called together.")]
    on_backlog: OnBacklog
    thresholds: OwnThresholds
    labels: dict[str, str]
    service_url: str
    topic: str
    subscription_name: str
    subscription_type: str
    message_schema: Annotated[SchemaOut, Meta(description="How to read a delivered message.")] = (
        msgspec.field(name="schema")
    )
    view: str
    plan: Annotated[
        int,
        Meta(description="The plan from which the subscription has this topic."),
    ]
    from_plan: Annotated[
        int,
        Meta(
            description="Skip messages here whose property `plan` is lower: they were on the topic "
            "that the subscription came from. 0 where it came from none. Lower than `plan` where "
            "it came back while it could still read here: lower plans come before `draining`."
        ),
    ]
    draining: Annotated[
        list[DrainingOut],
        Meta(
            description="Topics that were left because subscription or entitlements changed, and "
            "can still be read under the same subscription name, to their end, before `topic`. "
            "Oldest first; one that is not there holds nothing. In state `draining` the last one "
            "is `topic` itself, and nothing comes after it."
        ),
    ]
    created_at: datetime
    updated_at: datetime
    activated_at: datetime | None
    paused_at: Annotated[
        datetime | None, Meta(description="Since when it may read nothing; null when it may.")
    ]
    conflated_since: Annotated[
        datetime | None,
        Meta(description="Since when it is conflated because of its backlog; null when it is not."),
    ]
    closed_at: datetime | None


class SubscriptionsOut(msgspec.Struct):
    """Subscriptions that were made together, in the order in which they were asked for."""

    items: list[SubscriptionOut]


class HistoryOut(msgspec.Struct):
    """Something that happened to a subscription."""

    number: Annotated[int, Meta(description="Rises from entry to entry.")]
    at: datetime
    type: Annotated[str, Meta(description="As of events.", examples=["subscription.moved"])]
    state: Annotated[str, Meta(description="Of the subscription from then on.")]
    plan: int
    actor: Annotated[str, Meta(description="Who did it; `control-plane` for what it does itself.")]
    request_id: Annotated[str, Meta(description="The request that caused it; '' for none.")]
    data: Annotated[
        dict[str, Any],
        Meta(description="`before` and `after` of what was changed, `reason`, `beyond`."),
    ]
