"""What conditions say of an event that the log holds: a view's filter, and routing rules.

Pure: the event, the rules and what sets hold are given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
import pyarrow as pa

from control_plane.domains.explain.schemas import RuleOut
from control_plane.domains.rules.policy import Selected
from marketdata.filters import Filter, UnknownSet

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
    """The rules that select a consumer up to the one that decides.

    Args:
        rules: with their places among all rules, in order.
        event: a batch of one row.
    """
    told = []
    for place, (rule, condition) in rules:
        matches = passes(condition, event, sets)
        taken = None if matches is None else parts(condition, event, sets)
        told.append(RuleOut(rule.name, rule.id, place, rule.effect, matches, taken))
        if matches:
            break
    return told
