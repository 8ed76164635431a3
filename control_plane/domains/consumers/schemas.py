"""Consumers as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from marketdata.entitlements import (
    Entitlements,
    Instruments,
    InstrumentSets,
    Kinds,
    MaximumRate,
    MinimumDelay,
    Sources,
    Venues,
)

NAME_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"

Name = Annotated[
    str,
    Meta(
        pattern=NAME_PATTERN,
        max_length=64,
        description="1 to 64 of a-z, 0-9, '.', '_', '-'; begins and ends with a letter or digit.",
        examples=["instrument-analysis"],
    ),
]
Region = Annotated[
    str,
    Meta(
        pattern=r"^([a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?)?$(?!\n)",
        max_length=32,
        description="Where the consumer runs: a name that routing rules select by; '' for nowhere.",
        examples=["eu"],
    ),
]
Workflow = Annotated[
    str,
    Meta(
        pattern=r"^([a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?)?$(?!\n)",
        max_length=64,
        description="The downstream workflow it belongs to, for routing rules; '' for none.",
        examples=["market-prediction"],
    ),
]
# PostgreSQL text cannot hold U+0000.
Text = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00]*$")]
LabelKey = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[^\x00]*$")]
Labels = Annotated[
    dict[LabelKey, Text], Meta(max_length=32, description="Free labels, at most 32.")
]


class ConsumerCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A consumer to register."""

    name: Name
    owner: Annotated[Text, Meta(description="Team or person responsible.")] = ""
    contact: Annotated[Text, Meta(description="How to reach the owner.")] = ""
    region: Region = ""
    workflow: Workflow = ""
    labels: Labels = {}
    entitlements: Annotated[
        Entitlements | UnsetType,
        Meta(
            description="What the consumer may receive, whatever its filters ask for; a bound that "
            "is not named is none. Absent: what DDS_DEFAULT_ENTITLEMENTS says, nothing by default.",
            examples=[{"venues": ["XNAS", "XNYS"], "kinds": ["trade", "quote"]}],
        ),
    ] = UNSET


class EntitlementsUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """What to change of entitlements; absent bounds stay, null takes a bound away."""

    venues: Venues | UnsetType | None = UNSET
    kinds: Kinds | UnsetType | None = UNSET
    sources: Sources | UnsetType | None = UNSET
    instruments: Instruments | UnsetType | None = UNSET
    instrument_sets: InstrumentSets | UnsetType | None = UNSET
    maximum_rate: MaximumRate | UnsetType | None = UNSET
    minimum_delay_seconds: MinimumDelay | UnsetType | None = UNSET

    def applied_to(self, before: Entitlements) -> Entitlements:
        """The entitlements after the change."""
        bounds = {name: getattr(self, name) for name in self.__struct_fields__}
        named = {name: values for name, values in bounds.items() if values is not UNSET}
        return msgspec.structs.replace(before, **named)


OWN_FIELDS = frozenset({"contact", "labels"})
"""What a consumer may change of itself; everything else is the platform team's, and so are labels
by which routing rules select it."""


BOUNDING_FIELDS = frozenset({"entitlements", "suspended", "region", "workflow", "labels"})
"""What decides what a consumer may receive, by itself or by the rules that select it."""


class ConsumerUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """What to change of a consumer; absent fields stay."""

    owner: Text | UnsetType = UNSET
    contact: Text | UnsetType = UNSET
    region: Region | UnsetType = UNSET
    workflow: Workflow | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    entitlements: Annotated[
        EntitlementsUpdate | UnsetType,
        Meta(
            description="Live, for all subscriptions of the consumer at once.",
            examples=[{"venues": ["XNAS"], "kinds": None}],
        ),
    ] = UNSET
    suspended: Annotated[
        bool | UnsetType,
        Meta(
            description="Whether the consumer receives nothing, whatever its entitlements; live. "
            "What it has not read by then is lost to it."
        ),
    ] = UNSET


class ConsumerOut(msgspec.Struct):
    """A registered consumer."""

    id: str
    name: str
    owner: str
    contact: str
    region: str
    workflow: str
    labels: dict[str, str]
    entitlements: Annotated[
        Entitlements, Meta(description="What the consumer may receive; null is no bound.")
    ]
    suspended: Annotated[bool, Meta(description="It receives nothing as long as this is so.")]
    created_at: datetime
    updated_at: datetime
