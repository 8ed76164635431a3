"""What conditions say of an event that the log holds, and of its view: filters, routing rules.

Pure: the event, the rules and what sets hold are given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
import pyarrow as pa
from msgspec import UnsetType

from control_plane.domains.explain.schemas import PriorityOut, PriorityRuleOut, RuleOut
from control_plane.domains.rules.policy import Selected
from marketdata.filters import Filter, UnknownSet
from marketdata.plans import USUAL_PRIORITY, ViewSpec
from marketdata.routing_rules import share_of

Sets = Mapping[str, Collection[str]]


def passes(condition: Filter, event: pa.RecordBatch, sets: Sets) -> bool | None:
    """Whether a condition is TRUE for an event; None when a set of it is not there any more."""
    try:
        return bool(condition.with_sets(sets).mask(event)[0])
    except UnknownSet:
        return None


def parts(condition: Filter, event: pa.RecordBatch, sets: Sets) -> dict[str, Any]:
    """A condition taken apart, with its values; all of its sets are there."""
    told: dict[str, Any] = msgspec.to_builtins(condition.explain(event, sets=sets))
    return told


def ruling(
    rules: Iterable[tuple[int, Selected]], event: pa.RecordBatch, sets: Sets
) -> list[RuleOut]:
    """The rules that allow or deny something to a consumer up to the one that decides.

    Args:
        rules: with their places among all rules, in order.
        event: a batch of one row.
    """
    told = []
    for place, (rule, condition) in rules:
        if rule.effect == "prioritize":
            continue
        matches = passes(condition, event, sets)
        taken = None if matches is None else parts(condition, event, sets)
        told.append(RuleOut(rule.name, rule.id, place, rule.effect, matches, taken))
        if matches:
            break
    return told


def priority(view: ViewSpec, rules: Iterable[tuple[int, Selected]]) -> PriorityOut:
    """The priority of a view, and where it is from.

    Args:
        rules: those that select its consumer, with their places among all rules, in order.
    """
    condition, told = Filter.from_json(view.predicate), []
    for place, (rule, matched) in rules:
        if rule.priority is None:
            continue
        covers = share_of(condition, matched)
        told.append(PriorityRuleOut(rule.name, rule.id, place, rule.priority, covers))
        if covers == "every":
            break
    delivery = view.delivery.canonical()
    if delivery.delay_seconds or delivery.conflates or delivery.follows:
        reason = "What is delayed, conflated or follows a workflow has no other one."
    elif told and told[-1].covers == "every":
        reason = f"The routing rule {told[-1].name!r} gives it."
    else:
        reason = "It is what was asked for, or the usual one."
        partly = [repr(rule.name) for rule in told if rule.covers == "some"]
        if partly:
            reason += f" Only some of the view's events match {', '.join(partly)}."
    given = USUAL_PRIORITY if isinstance(delivery.priority, UnsetType) else delivery.priority
    return PriorityOut(given, reason, told)
