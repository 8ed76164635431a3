"""Proposed changes and what they would do, as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from control_plane.domains.consumers.schemas import EntitlementsUpdate, Name
from control_plane.domains.instrument_sets.schemas import InstrumentSetUpdate
from control_plane.domains.plans.schemas import PartOut
from control_plane.domains.rules.schemas import Order, RuleCreate, RuleKey, RuleUpdate
from control_plane.domains.subscriptions.schemas import (
    ConsumerKey,
    FilterText,
    FormatName,
    SharedReference,
    SubscriptionCreate,
)
from control_plane.domains.transformations.schemas import TransformationCreate
from marketdata.plans import Delivery
from marketdata.transformations import Transformation

MAX_PROPOSED = 100
"""Most things of a sort in one proposal."""

SubscriptionKey = Annotated[str, Meta(min_length=1, max_length=64)]


class SubscriptionChange(msgspec.Struct, forbid_unknown_fields=True):
    """What would be another one of a subscription; absent fields stay."""

    subscription: Annotated[SubscriptionKey, Meta(description="Its id.")]
    filter: FilterText | UnsetType = UNSET
    transformation: Transformation | UnsetType = UNSET
    shared_transformation: SharedReference | UnsetType = UNSET
    format: FormatName | UnsetType = UNSET
    delivery: Delivery | UnsetType = UNSET


class RulesProposal(msgspec.Struct, forbid_unknown_fields=True):
    """Changes of the routing rules, made in this order."""

    create: Annotated[
        list[RuleCreate], Meta(max_length=MAX_PROPOSED, description="As in POST /v1/rules.")
    ] = []
    change: Annotated[
        dict[RuleKey, RuleUpdate],
        Meta(
            max_length=MAX_PROPOSED,
            description="By id or name, as in PATCH /v1/rules.",
            examples=[{"xetra-stays-in-europe": {"enabled": False}}],
        ),
    ] = {}
    delete: Annotated[list[RuleKey], Meta(max_length=MAX_PROPOSED)] = []
    order: Annotated[
        Order | UnsetType, Meta(description="As in POST /v1/rules:reorder, of what there is then.")
    ] = UNSET


class Proposal(msgspec.Struct, forbid_unknown_fields=True):
    """A change to try: all that is named takes effect together. Nothing is stored."""

    create: Annotated[
        list[SubscriptionCreate],
        Meta(max_length=MAX_PROPOSED, description="Subscriptions to make."),
    ] = []
    change: Annotated[
        list[SubscriptionChange],
        Meta(max_length=MAX_PROPOSED, description="Subscriptions to change."),
    ] = []
    delete: Annotated[
        list[SubscriptionKey],
        Meta(max_length=MAX_PROPOSED, description="Subscriptions to close, by id."),
    ] = []
    entitlements: Annotated[
        dict[ConsumerKey, EntitlementsUpdate],
        Meta(
            max_length=MAX_PROPOSED,
            description="What consumers may receive, by id or name, as in PATCH /v1/consumers.",
            examples=[{"desk-7": {"venues": ["XNAS"]}}],
        ),
    ] = {}
    instrument_sets: Annotated[
        dict[Name, InstrumentSetUpdate],
        Meta(
            max_length=MAX_PROPOSED,
            description="Sets by name, as in PATCH /v1/instrument-sets; one that is not there is "
            "made.",
            examples=[{"megacaps": {"add": ["NVDA"]}}],
        ),
    ] = {}
    rules: Annotated[
        RulesProposal | UnsetType,
        Meta(
            description="Routing rules to make, change, delete and order.",
            examples=[{"create": [{"name": "no-xetra", "effect": "deny", "when": "venue='XETR'"}]}],
        ),
    ] = UNSET
    transformations: Annotated[
        list[TransformationCreate],
        Meta(
            max_length=MAX_PROPOSED,
            description="Versions of shared transformations to make; `create` and `change` refer "
            "to them as `name@version`, with the number that they will get.",
        ),
    ] = []
    minutes: Annotated[
        int, Meta(ge=1, le=60, description="How much of the log is read, back from now.")
    ] = 5
    max_events: Annotated[
        int, Meta(ge=1, le=5_000_000, description="Most events to read, in all partitions.")
    ] = 1_000_000
    samples: Annotated[
        int, Meta(ge=0, le=10, description="Most samples of each fate of each subscription.")
    ] = 3
    top: Annotated[int, Meta(ge=0, le=100, description="Most instruments to count events of.")] = 10


class InstrumentCount(msgspec.Struct):
    """Events of an instrument."""

    instrument: str
    events: int


class SampleOut(msgspec.Struct):
    """An event as it would be delivered in JSON, now and with the change; null: not at all."""

    instrument: str
    epoch: int
    sequence: int
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class EffectOut(msgspec.Struct):
    """Events with one fate."""

    events: int
    by_kind: dict[str, int]
    top_instruments: Annotated[
        list[InstrumentCount], Meta(description="Those with most events, most first.")
    ]
    samples: list[SampleOut]


class ChangeOut(EffectOut):
    """Events that look different."""

    columns: Annotated[
        dict[str, int],
        Meta(
            description="How many have another value in a column, as it is called when it is "
            "delivered; or have the column on one side only."
        ),
    ]


class SubscriptionPreview(msgspec.Struct):
    """What a change would do to one subscription."""

    subscription: Annotated[str | None, Meta(description="Null for one that would be made.")]
    consumer: str
    consumer_name: str
    name: str
    what: Literal["create", "change", "delete"]
    view_before: str | None
    view_after: Annotated[
        str | None, Meta(description="Another view is another topic, from the change on.")
    ]
    parts: Annotated[list[PartOut], Meta(description="In what the views differ.")]
    delivered_before: int
    delivered_after: int
    appear: EffectOut
    vanish: EffectOut
    change: ChangeOut
    not_run: Annotated[
        str | None,
        Meta(description="The custom transformation that was not called; its columns are null."),
    ]
    conflated: Annotated[
        bool,
        Meta(
            description="A view is conflated, now or with the change; the counts are of the events "
            "before that."
        ),
    ]
    failed: Annotated[
        str | None, Meta(description="Why the counts stop short: a filter or expression failed.")
    ]


class PartitionOut(msgspec.Struct):
    """How much of a partition was read."""

    partition: int
    until: Annotated[
        datetime | None, Meta(description="When the last message that was read was stored.")
    ]
    frames: int
    events: int
    bytes: int
    unreadable: int
    cut: Annotated[
        Literal["events", "bytes", "time"] | None,
        Meta(description="The bound that ended the reading before the window's end."),
    ]


class WindowOut(msgspec.Struct):
    """What was read of the log, by when messages were stored."""

    begin: datetime
    end: datetime
    events: int
    cut: Annotated[bool, Meta(description="Whether a partition was not read to the end.")]
    shortened: Annotated[
        bool,
        Meta(
            description="It begins later than asked for: the instrument sets that say what the "
            "consumer may receive have changed then."
        ),
    ]
    partitions: list[PartitionOut]


class PreviewOut(msgspec.Struct):
    """What a proposed change would do, by what the log holds of the last minutes."""

    plan: Annotated[int, Meta(description="The plan that it was compared with: the newest one.")]
    window: WindowOut
    subscriptions: list[SubscriptionPreview]
    subscriptions_cut: Annotated[
        bool, Meta(description="Whether more subscriptions are affected than are told of.")
    ]
