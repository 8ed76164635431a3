"""What distinguishes two views, or two plans. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import msgspec

from control_plane.domains.plans.schemas import PartOut
from marketdata.plans import Plan, View, ViewSpec, sets_of, tables_of
from marketdata.reference import TableRef

PARTS = ("filter", "transformation", "format", "delivery")
"""What a view is named by."""


def parts_of(before: ViewSpec | None, after: ViewSpec | None) -> list[PartOut]:
    """The parts in which two views differ; of none, every part is null."""
    told = ((part, _part(before, part), _part(after, part)) for part in PARTS)
    return [PartOut(part, old, new) for part, old, new in told if old != new]


@dataclass(frozen=True, slots=True)
class PlanDifference:
    """The views, sets and tables in which two plans differ, each in the order of ids and names.

    Attributes:
        changed: views of both plans that name a set or table that holds something else.
        sets: name -> what the set gained, and what it lost. A set that only one plan holds gained
            or lost everything.
        tables: name of a reference table -> the version before and after; None where a plan does
            not name it.
    """

    added: list[View]
    removed: list[View]
    changed: list[View]
    sets: dict[str, tuple[list[str], list[str]]]
    tables: dict[str, tuple[TableRef | None, TableRef | None]]


def difference(before: Plan, after: Plan) -> PlanDifference:
    """What is added, removed and changed from one plan to another, in either order."""
    old, new = ({view.id: view for view in plan.views} for plan in (before, after))
    sets = {}
    for name in sorted(before.sets.keys() | after.sets.keys()):
        held, holds = (set(plan.sets.get(name, ())) for plan in (before, after))
        if held != holds:
            sets[name] = (sorted(holds - held), sorted(held - holds))
    there, now = (plan.tables or {} for plan in (before, after))
    tables = {
        name: (there.get(name), now.get(name))
        for name in sorted(there.keys() | now.keys())
        if there.get(name) != now.get(name)
    }
    return PlanDifference(
        added=[view for view_id, view in new.items() if view_id not in old],
        removed=[view for view_id, view in old.items() if view_id not in new],
        changed=[
            view
            for view_id, view in new.items()
            if view_id in old
            and (names_any(view, sets) or not tables_of([view]).isdisjoint(tables))
        ],
        sets=sets,
        tables=tables,
    )


def names_any(spec: ViewSpec, names: Collection[str]) -> bool:
    """Whether a view's filter names one of some sets."""
    return not sets_of([spec]).isdisjoint(names)


def _part(spec: ViewSpec | None, part: str) -> Any:
    return None if spec is None else msgspec.to_builtins(getattr(spec, part))
