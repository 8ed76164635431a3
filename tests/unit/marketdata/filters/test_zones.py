"""Clocks of time zones, against `zoneinfo` asked moment by moment.

Both read the `tzdata` package: the machine's zones may be older.
"""

from datetime import UTC, datetime, timedelta
from importlib import resources
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.filters import FilterTypeError, compile_filter
from marketdata.filters.zones import DAY_NS, check_zone, local, zone
from marketdata.schemas import SEQUENCED_SCHEMAS

SECOND = 1_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = ["America/New_York", "Europe/London", "Asia/Kolkata", "Africa/Casablanca", "Etc/GMT+3"]


def clock_of(name: str) -> ZoneInfo:
    with resources.files("tzdata").joinpath("zoneinfo", name).open("rb") as data:
        return ZoneInfo.from_file(data)


@given(
    st.lists(st.integers(-9_000_000_000, 9_000_000_000), min_size=1, max_size=30),
    st.sampled_from(ZONES),
    st.integers(0, SECOND - 1),
)
def test_time_and_weekday_are_those_of_the_zone(
    seconds: list[int], name: str, fraction: int
) -> None:
    moments = np.array(seconds, np.int64) * SECOND + fraction
    read = clock_of(name)
    there = [(EPOCH + timedelta(seconds=s)).astimezone(read) for s in seconds]
    clock = [3600 * t.hour + 60 * t.minute + t.second for t in there]
    assert local("time", moments, name).tolist() == [c * SECOND + fraction for c in clock]
    assert local("weekday", moments, name).tolist() == [t.isoweekday() for t in there]


@pytest.mark.parametrize("name", ZONES)
def test_offsets_change_at_the_very_second(name: str) -> None:
    found, read = zone(name), clock_of(name)
    for n, change in enumerate((found.changes // SECOND).tolist()):
        for second, offset in ((change - 1, found.offsets[n]), (change, found.offsets[n + 1])):
            there = (EPOCH + timedelta(seconds=second)).astimezone(read).utcoffset()
            assert there == timedelta(seconds=int(offset) // SECOND)


def test_the_ends_of_time_do_not_overflow() -> None:
    ends = np.array([-(2**63) + 1, 2**63 - 1])
    for name in ZONES:
        clock = local("time", ends, name)
        assert ((clock >= 0) & (clock < DAY_NS)).all()


@pytest.mark.parametrize(
    ("name", "hint"), [("America/NewYork", "America/New_York"), ("../x", "write a name"), ("", "")]
)
def test_a_name_that_is_no_zone_is_refused(name: str, hint: str) -> None:
    with pytest.raises(FilterTypeError, match="no time zone") as caught:
        check_zone(name)
    assert hint in caught.value.hint


def test_a_session_follows_the_clocks_of_its_city() -> None:
    field = SEQUENCED_SCHEMAS["trade"].field("ts_event")
    schema = pa.schema([field], metadata=SEQUENCED_SCHEMAS["trade"].metadata)
    moments = [
        datetime(2026, 1, 5, 14, 29, 59, tzinfo=UTC),  # a Monday in winter: 09:29:59
        datetime(2026, 1, 5, 14, 30, tzinfo=UTC),
        datetime(2026, 7, 6, 13, 30, tzinfo=UTC),  # a Monday in summer: 09:30
        datetime(2026, 7, 6, 20, 0, tzinfo=UTC),  # 16:00, when the session has ended
        datetime(2026, 7, 5, 15, 0, tzinfo=UTC),  # a Sunday
    ]
    batch = pa.RecordBatch.from_arrays([pa.array(moments, field.type)], schema=schema)
    session = compile_filter(
        "local_time(ts_event, 'America/New_York') >= TIME '09:30'"
        " AND local_time(ts_event, 'America/New_York') < TIME '16:00'"
        " AND local_weekday(ts_event, 'America/New_York') BETWEEN 1 AND 5"
    )
    assert session.mask(batch).tolist() == [False, True, True, False, False]
    assert compile_filter(session.canonical) == session
