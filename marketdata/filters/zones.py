"""Clocks on the wall: what a moment in UTC is in a time zone, for many moments at once.

Zones come from the `tzdata` package and not from the machine, so that every instance of a function
reads one and the same clock. Of each zone the changes of its offset are listed once, over all times
that events may have; a moment then finds its offset by binary search.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from marketdata.filters.errors import FilterTypeError

Part = Literal["time", "weekday"]

DAY_NS: Final = 86_400_000_000_000
_SECOND_NS: Final = 1_000_000_000
_WEEK_S: Final = 7 * 86_400
_FIRST_S, _LAST_S = -(2**63) // _SECOND_NS + _WEEK_S, 2**63 // _SECOND_NS - _WEEK_S
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_THURSDAY: Final = 3
"""The weekday of 1970-01-01, Monday being 0."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Zone:
    """A time zone.

    Attributes:
        changes: ascending moments, int64 ns since the epoch.
        offsets: int64 ns from UTC to local time; one before the first change and one from each on.
    """

    changes: Integers
    offsets: Integers


@cache
def zone_names() -> frozenset[str]:
    """The zones that there are, by their names in the IANA database."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text("utf-8").split())


def check_zone(name: str) -> None:
    """Refuse a name that is no time zone's.

    Raises:
        FilterTypeError: without a position.
    """
    names = zone_names()
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "write a name such as 'America/New_York'"
        raise FilterTypeError(f"there is no time zone {name!r}", hint=hint)
    zone(name)  # no frame has to wait for it later


@cache
def zone(name: str) -> Zone:
    """A zone by a name that `check_zone` lets pass."""
    with resources.files("tzdata").joinpath("zoneinfo", name).open("rb") as data:
        found = ZoneInfo.from_file(data, key=name)

    def offset(second: int) -> int:
        return int(_offset(found, second).total_seconds())

    changes, offsets = [], [offset(_FIRST_S)]
    # No zone has ever changed twice within a week.
    for begin in range(_FIRST_S, _LAST_S, _WEEK_S):
        low, high = begin, begin + _WEEK_S
        after = offset(high)
        if after == offsets[-1]:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            if offset(middle) == offsets[-1]:
                low = middle
            else:
                high = middle
        changes.append(high)
        offsets.append(after)
    scale = np.int64(_SECOND_NS)
    return Zone(np.array(changes, np.int64) * scale, np.array(offsets, np.int64) * scale)


def _offset(found: ZoneInfo, second: int) -> timedelta:
    return (_EPOCH + timedelta(seconds=second)).astimezone(found).utcoffset() or timedelta()


def local(part: Part, values: npt.NDArray[Any], name: str) -> Integers:
    """The time of day or the day of the week of moments.

    Args:
        part: `time` for nanoseconds since midnight, `weekday` for 1 (Monday) to 7 (Sunday).
        values: int64 ns since the epoch, UTC.
        name: of the zone.
    """
    there = zone(name)
    offsets = there.offsets[np.searchsorted(there.changes, values, side="right")]
    # Day and rest apart: with the offset added, the first and last moments would overflow.
    day, rest = np.divmod(values, DAY_NS)
    rest = rest + offsets
    if part == "time":
        return rest % DAY_NS
    return (day + rest // DAY_NS + _THURSDAY) % 7 + 1
