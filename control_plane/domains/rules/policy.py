"""What routing rules say of a consumer: one condition, which rule decided, and priorities.

Pure: rules and the sources of regions are given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import msgspec

from control_plane.domains.consumers.models import Consumer
from marketdata.entitlements import Bounds, Entitlements
from marketdata.filters import Filter
from marketdata.routing_rules import Decision, Effect, Selector, decision, of_sources

Origins = Mapping[str, Collection[str]]
"""Region -> the sources of the publishers that are registered there."""


class Rule(msgspec.Struct, frozen=True):
    """A routing rule; `condition` is that of `when`."""

    id: str
    name: str
    description: str
    when: str
    condition: Filter
    origin_regions: tuple[str, ...] | None
    origin_regions_except: tuple[str, ...] | None
    consumers: Selector
    effect: Effect
    enabled: bool
    priority: int | None = None

    @property
    def prioritizes(self) -> bool:
        """Whether it gives views a priority, and neither allows nor denies anything."""
        return self.effect == "prioritize"

    @property
    def matches_all(self) -> bool:
        """Whether every event matches, of whatever origin."""
        return (
            self.condition == Filter.everything()
            and self.origin_regions is None
            and self.origin_regions_except is None
        )

    @property
    def by_origin(self) -> bool:
        """Whether it asks for regions of origin."""
        return self.origin_regions is not None or self.origin_regions_except is not None

    @property
    def regions(self) -> frozenset[str]:
        """The regions of origin that it names."""
        return frozenset((*(self.origin_regions or ()), *(self.origin_regions_except or ())))


class Selected(NamedTuple):
    """A rule that selects a consumer, with its whole condition."""

    rule: Rule
    condition: Filter


class Policy:
    """Ordered rules.

    Args:
        rules: in their order; those that are not enabled say nothing.
        origins: at least the regions that the rules name.
    """

    def __init__(self, rules: Sequence[Rule], origins: Origins) -> None:
        self.rules = tuple(rules)
        self._enabled = [
            Selected(rule, condition_of(rule, origins)) for rule in rules if rule.enabled
        ]

    def of(self, consumer: Consumer) -> list[Selected]:
        """The enabled rules that select a consumer, in their order."""
        party = consumer.party
        return [each for each in self._enabled if each.rule.consumers.selects(party)]

    def selecting(self, consumer: Consumer) -> list[Rule]:
        """The same, with those that are not enabled: they may be at any time."""
        party = consumer.party
        return [rule for rule in self.rules if rule.consumers.selects(party)]

    def routed(self, consumer: Consumer) -> Filter:
        """What the rules let a consumer receive."""
        return _decided(
            tuple(
                (each.rule.effect, each.condition)
                for each in self.of(consumer)
                if each.rule.effect != "prioritize"
            )
        )

    def priorities(self, consumer: Consumer) -> tuple[tuple[Filter, int], ...]:
        """Condition and priority of the rules that prioritize, for `priority_of`."""
        return tuple(
            (each.condition, each.rule.priority)
            for each in self.of(consumer)
            if each.rule.priority is not None
        )

    def allowed(self, consumer: Consumer) -> Bounds:
        """What a consumer may receive, by its entitlements and by the rules."""
        return self.within(consumer, consumer.allowed)

    def within(self, consumer: Consumer, entitlements: Entitlements) -> Bounds:
        """The same, were these its entitlements."""
        return _both(entitlements, self.routed(consumer), self.priorities(consumer))


def condition_of(rule: Rule, origins: Origins) -> Filter:
    """A rule's whole condition: `when`, and that the source is one of its regions of origin."""
    found = rule.condition
    for regions, excepted in ((rule.origin_regions, False), (rule.origin_regions_except, True)):
        if regions is not None:
            sources = chain.from_iterable(origins.get(region, ()) for region in regions)
            found &= of_sources(sources, excepted=excepted)
    return found


def shadow_of(rule: Rule, rules: Sequence[Rule]) -> Rule | None:
    """The first enabled rule ahead of one that decides all that it could; None for none.

    Rules that prioritize and rules that allow or deny leave each other what they decide.
    """
    for ahead in rules:
        if ahead.id == rule.id:
            return None
        everybody = ahead.consumers in (Selector(), rule.consumers)
        alike = ahead.prioritizes == rule.prioritizes
        if ahead.enabled and ahead.matches_all and everybody and alike:
            return ahead
    return None


@lru_cache(maxsize=1024)
def _decided(rules: tuple[tuple[Decision, Filter], ...]) -> Filter:
    return decision(rules)


@lru_cache(maxsize=1024)
def _both(
    entitlements: Entitlements, routed: Filter, priorities: tuple[tuple[Filter, int], ...]
) -> Bounds:
    return entitlements.bounds().within(routed, priorities)
