"""Publishers as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from control_plane.domains.consumers.schemas import Labels, Name, Region, Text
from marketdata.entitlements import Kinds, Sources, Venues

OwnSources = Annotated[
    Sources,
    Meta(
        description="Its sources, as its events name them; a source is of one publisher. Routing "
        "rules that ask for regions of origin go by them.",
        examples=[["feed-a"]],
    ),
]
OwnVenues = Annotated[
    Venues | None, Meta(description="Venues that it is registered for; null for any.")
]
OwnKinds = Annotated[
    Kinds | None, Meta(description="Kinds that it is registered for; null for any.")
]
OwnRegion = Annotated[Region, Meta(description="Where its events originate; '' for nowhere.")]


class PublisherCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A publisher to register; its name is the subject of its tokens."""

    name: Annotated[Name, Meta(examples=["data-quality"])]
    owner: Annotated[Text, Meta(description="Team or person responsible.")] = ""
    contact: Annotated[Text, Meta(description="How to reach the owner.")] = ""
    region: OwnRegion = ""
    labels: Labels = {}
    sources: OwnSources = ()
    venues: OwnVenues = None
    kinds: OwnKinds = None


ORIGIN_FIELDS = frozenset({"region", "sources"})
"""What routing rules by region of origin go by."""


class PublisherUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """What to change of a publisher; absent fields stay, and those that are named are replaced."""

    owner: Text | UnsetType = UNSET
    contact: Text | UnsetType = UNSET
    region: OwnRegion | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    sources: OwnSources | UnsetType = UNSET
    venues: OwnVenues | UnsetType = UNSET
    kinds: OwnKinds | UnsetType = UNSET
    suspended: Annotated[
        bool | UnsetType,
        Meta(
            description="Whether it may not publish: its tokens are revoked and none are issued, "
            "and the broker lets it write no more."
        ),
    ] = UNSET


class PublisherOut(msgspec.Struct):
    """A registered publisher."""

    id: str
    name: str
    owner: str
    contact: str
    region: str
    labels: dict[str, str]
    sources: list[str]
    venues: list[str] | None
    kinds: list[str] | None
    suspended: bool
    created_at: datetime
    updated_at: datetime
