"""Lanes: which function serves which view.

A lane is an instance of the distributor's function with a subscription of its own to the log. Every
view belongs to one lane, which follows from its delivery, and so from its name: a view never
changes its lane. The lane without a name is that of the function `distributor`, which also serves
the priorities that no function has. What is delayed is served by the function of that delay only,
what follows a workflow by the one that waits for that, and what is conflated by the conflator. What
should be two of these is served by nobody.
"""

import re
from collections.abc import Callable, Collection
from typing import Final

import msgspec
from msgspec import UNSET

from marketdata.names import NAME
from marketdata.plans import Delivery, Plan, ViewSpec, sets_of, tables_of

DEFAULT_LANE: Final = ""
CONFLATED_LANE: Final = "conflated"
LANE_PATTERN: Final = rf"^(priority-[023]|delay-[1-9][0-9]{{0,5}}|conflated|follows-{NAME})$(?!\n)"
"""The names of lanes but for the default one."""

_PRIORITY: Final = "priority-"
_DELAY: Final = "delay-"
_FOLLOWS: Final = "follows-"
_BOTH: Final = "+"
"""Stands in no name of a lane or workflow."""


def lane_of(delivery: Delivery) -> str:
    """The lane of a view by its delivery.

    >>> lane_of(Delivery()), lane_of(Delivery(priority=3)), lane_of(Delivery(delay_seconds=900))
    ('', 'priority-3', 'delay-900')
    >>> lane_of(Delivery(max_rate=9)), lane_of(Delivery(max_rate=9, delay_seconds=900))
    ('conflated', 'conflated-delay-900')
    >>> lane_of(Delivery(follows="analysis")), lane_of(Delivery(follows="a", delay_seconds=900))
    ('follows-analysis', 'follows-a+delay-900')
    """
    delivery = delivery.canonical()
    if delivery.follows is not UNSET:
        other = lane_of(msgspec.structs.replace(delivery, follows=UNSET))
        return f"{_FOLLOWS}{delivery.follows}{_BOTH if other else ''}{other}"
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
    >>> delay_of("follows-a-delay-900"), delay_of("follows-a+delay-900")
    (0, 900)
    """
    _, _, own = lane.rpartition(_BOTH)
    _, delayed, seconds = own.rpartition(_DELAY)
    return int(seconds) if delayed and not own.startswith(_FOLLOWS) else 0


def followed_by(lane: str) -> str:
    """The workflow that a lane waits for; "" for none.

    >>> followed_by("follows-analysis"), followed_by("delay-900")
    ('analysis', '')
    """
    workflow, _, _ = lane.removeprefix(_FOLLOWS).partition(_BOTH)
    return workflow if lane.startswith(_FOLLOWS) else ""


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


def served_in(lane: str, there: Collection[str]) -> list[str]:
    """Those of the lanes that functions have which may serve the views of one.

    While the function of a priority is new, or was taken away, it is not said which of two does.

    >>> served_in("priority-3", ["", "priority-3"]), served_in("delay-900", ["", "priority-3"])
    (['priority-3', ''], [])
    """
    usual = lane == DEFAULT_LANE or lane.startswith(_PRIORITY)
    able = dict.fromkeys((lane, DEFAULT_LANE) if usual else (lane,))
    return [each for each in able if each in there]


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
