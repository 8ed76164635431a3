"""Lanes: which function serves which view.

A lane is an instance of the distributor's function with a subscription of its own to the log. Every
view belongs to one lane, which follows from its delivery, and so from its name: a view never
changes its lane. The lane without a name is that of the function `distributor`, which also serves
the priorities that no function has. What is delayed is served by the function of that delay only,
and what is conflated by the conflator. What should be both is served by nobody.
"""

import re
from collections.abc import Callable, Collection
from typing import Final

import msgspec
from msgspec import UNSET

from marketdata.plans import Delivery, Plan, ViewSpec, sets_of, tables_of

DEFAULT_LANE: Final = ""
CONFLATED_LANE: Final = "conflated"
LANE_PATTERN: Final = r"^(priority-[023]|delay-[1-9][0-9]{0,5}|conflated)$(?!\n)"
"""The names of lanes but for the default one."""

_PRIORITY: Final = "priority-"
_DELAY: Final = "delay-"


def lane_of(delivery: Delivery) -> str:
    """The lane of a view by its delivery.

    >>> lane_of(Delivery()), lane_of(Delivery(priority=3)), lane_of(Delivery(delay_seconds=900))
    ('', 'priority-3', 'delay-900')
    >>> lane_of(Delivery(max_rate=9)), lane_of(Delivery(max_rate=9, delay_seconds=900))
    ('conflated', 'conflated-delay-900')
    """
    delivery = delivery.canonical()
    if delivery.conflates:
        delayed = delivery.delay_seconds is not UNSET
        return f"{CONFLATED_LANE}-{_DELAY}{delivery.delay_seconds}" if delayed else CONFLATED_LANE
    if delivery.delay_seconds is not UNSET:
        return f"{_DELAY}{delivery.delay_seconds}"
    if delivery.priority is not UNSET:
        return f"{_PRIORITY}{delivery.priority}"
    return DEFAULT_LANE


def delay_of(lane: str) -> int:
    """How many seconds old an event is when a lane takes it.

    >>> delay_of("delay-900"), delay_of("priority-3"), delay_of("")
    (900, 0, 0)
    """
    _, delayed, seconds = lane.rpartition(_DELAY)
    return int(seconds) if delayed else 0


def is_lane(name: str) -> bool:
    """Whether a name is one that a lane can have, but for the default one."""
    return re.match(LANE_PATTERN, name) is not None


def served_by(lane: str, elsewhere: Collection[str] = ()) -> Callable[[ViewSpec], bool]:
    """Which views the function of a lane serves.

    Args:
        elsewhere: the lanes that other functions have; matters to the default lane only.
    """

    def serves(view: ViewSpec) -> bool:
        found = lane_of(view.delivery)
        if lane == DEFAULT_LANE and found.startswith(_PRIORITY):
            return found not in elsewhere
        return found == lane

    return serves


def part_of(plan: Plan, serves: Callable[[ViewSpec], bool]) -> Plan:
    """The plan with those views only that a function serves, under the same number and digest."""
    views = tuple(view for view in plan.views if serves(view))
    if len(views) == len(plan.views):
        return plan
    sets, tables = sets_of(views), tables_of(views)
    named = {name: one for name, one in (plan.tables or {}).items() if name in tables}
    return msgspec.structs.replace(
        plan,
        views=views,
        sets={name: held for name, held in plan.sets.items() if name in sets},
        tables=named or UNSET,
    )
