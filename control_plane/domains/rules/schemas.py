"""Routing rules as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from control_plane.domains.consumers.schemas import Name, Text
from marketdata.routing_rules import MAX_RULES, Effect, Regions, Selector

When = Annotated[
    str,
    Meta(
        max_length=4_000,
        pattern=r"^[^\x00]*$",
        description="SQL condition over an event's columns, as in filters; '' for every event.",
        examples=["venue IN ('XETR', 'XFRA')"],
    ),
]
Consumers = Annotated[
    Selector,
    Meta(
        description="Which consumers it is about; all of them where nothing is given.",
        examples=[{"regions_except": ["eu"]}],
    ),
]
OriginRegions = Annotated[
    Regions | None,
    Meta(description="Only events of the sources of publishers in these regions."),
]
OriginRegionsExcept = Annotated[
    Regions | None,
    Meta(
        description="Only events of all other sources, those of no registered publisher among them."
    ),
]
EffectName = Annotated[
    Effect,
    Meta(
        description="allow, deny: whether what matches may be delivered, whatever later rules say. "
        "prioritize: views of which every event matches have a priority, whatever they ask for and "
        "later rules of this effect say; nothing is allowed or denied by it."
    ),
]
Priority = Annotated[
    int,
    Meta(
        ge=0,
        le=3,
        description="Of a rule that prioritizes, and of no other: the views' `delivery.priority`. "
        "Does nothing for what is delayed, conflated or follows a workflow.",
        examples=[3],
    ),
]
Enabled = Annotated[
    bool, Meta(description="A rule that is not keeps its place, and matches nothing.")
]
Position = Annotated[
    int,
    Meta(ge=1, le=MAX_RULES, description="Its place, from 1; those behind it move on."),
]


class RuleCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A rule to make. The first rule that matches decides; without any, an event is allowed.

    Of rules that prioritize, the first one that every event of a view matches decides.
    """

    name: Annotated[Name, Meta(examples=["xetra-stays-in-europe"])]
    effect: EffectName
    priority: Priority | None = None
    description: Text = ""
    when: When = ""
    origin_regions: OriginRegions = None
    origin_regions_except: OriginRegionsExcept = None
    consumers: Consumers = Selector()
    enabled: Enabled = True
    position: Annotated[Position | UnsetType, Meta(description="Absent: the last one.")] = UNSET


class RuleUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """What to change of a rule; absent fields stay, and those that are named are replaced."""

    name: Name | UnsetType = UNSET
    effect: EffectName | UnsetType = UNSET
    priority: Priority | UnsetType | None = UNSET
    description: Text | UnsetType = UNSET
    when: When | UnsetType = UNSET
    origin_regions: OriginRegions | UnsetType = UNSET
    origin_regions_except: OriginRegionsExcept | UnsetType = UNSET
    consumers: Consumers | UnsetType = UNSET
    enabled: Enabled | UnsetType = UNSET
    position: Position | UnsetType = UNSET


RuleKey = Annotated[str, Meta(min_length=1, max_length=64)]
Order = Annotated[
    list[RuleKey],
    Meta(
        max_length=MAX_RULES,
        description="Every rule once, by name or id, the first one first.",
        examples=[["prediction-gets-all", "xetra-stays-in-europe"]],
    ),
]


class RuleOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The order of all rules."""

    rules: Order


class RuleOut(msgspec.Struct):
    """A routing rule."""

    id: str
    name: str
    description: str
    when: str
    canonical_when: Annotated[str, Meta(description="The condition in normal form.")]
    origin_regions: tuple[str, ...] | None
    origin_regions_except: tuple[str, ...] | None
    consumers: Selector
    effect: Effect
    priority: int | None
    enabled: bool
    position: int
    shadowed_by: Annotated[
        str | None,
        Meta(
            description="An enabled rule ahead of it, by name, that decides every event for every "
            "consumer that this one selects, so that it decides nothing."
        ),
    ]
    plan: Annotated[
        int,
        Meta(description="The plan from which it holds as it is; at once where it changes none."),
    ]
    created_at: datetime
    updated_at: datetime


class RulesOut(msgspec.Struct):
    """All rules in their order."""

    rules: list[RuleOut]
    plan: Annotated[int, Meta(description="The plan from which the order holds.")]
