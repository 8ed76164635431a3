"""Exact conversion of columns."""

import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.sources.columns import fixed_point, power_of_ten, timestamps_ns
from marketdata.sources.errors import ColumnError

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.none() | INT64, min_size=1, max_size=20))
def test_decimal_text_with_nine_digits_is_kept_exactly(units: list[int | None]) -> None:
    text = [None if u is None else str(Decimal(u).scaleb(-9)) for u in units]
    assert fixed_point(pa.array(text, pa.string()), 9).to_pylist() == units


@given(st.lists(INT64, min_size=3, max_size=20), st.integers(0, 2))
def test_slices_convert_like_whole_arrays(units: list[int], offset: int) -> None:
    text = pa.array([str(Decimal(u).scaleb(-8)) for u in units])
    assert fixed_point(text.slice(offset), 8).to_pylist() == units[offset:]


@given(st.lists(st.decimals(-1_000_000, 1_000_000, places=4), min_size=1, max_size=10))
def test_floats_become_the_decimal_they_were_written_as(values: list[Decimal]) -> None:
    expected = [int(value.scaleb(9)) for value in values]
    assert fixed_point(pa.array([float(v) for v in values]), 9).to_pylist() == expected


def test_blanks_and_empty_text_are_null_and_exponents_are_read() -> None:
    text = pa.array([" 2.5 ", "", "  ", None, "1e-5", "-0.000000001"])
    assert fixed_point(text, 9).to_pylist() == [2_500_000_000, None, None, None, 10_000, -1]


@pytest.mark.parametrize(
    ("values", "unit_exponent", "expected"),
    [
        (pa.array([18725]), -2, 187_250_000_000),
        (pa.array([187_250_000_000]), -9, 187_250_000_000),
        (pa.array(["18725.5"]), -2, 187_255_000_000),
        (pa.array([2], pa.uint8()), 3, 2_000_000_000_000),
        (pa.array([Decimal("187.25")]), 0, 187_250_000_000),
        (pa.array([187.1], pa.float32()), 0, 187_100_000_000),
    ],
)
def test_units_are_applied_exactly(values: pa.Array, unit_exponent: int, expected: int) -> None:
    assert fixed_point(values, 9, unit_exponent).to_pylist() == [expected]


@pytest.mark.parametrize("bad", ["1.0000000001", "abc", "nan", "1,5", "9223372036.854775808"])
def test_what_cannot_be_kept_exactly_is_refused_with_row_and_value(bad: str) -> None:
    with pytest.raises(ColumnError) as caught:
        fixed_point(pa.array(["1"] * 37 + [bad] + ["2"] * 11), 9)
    assert caught.value.row == 37
    assert bad in caught.value.reason


def test_other_types_and_units_are_refused() -> None:
    with pytest.raises(ColumnError, match="holds bool"):
        fixed_point(pa.array([True]), 9)
    with pytest.raises(ColumnError, match="do not fit"):
        fixed_point(pa.array([1]), 9, -10)
    for unit in ("0.05", "x", "0", "-1", "inf"):
        with pytest.raises(ColumnError, match="power of ten"):
            power_of_ten(unit)
    assert [power_of_ten(unit) for unit in ("1", "0.01", "1e-9", "100")] == [0, -2, -9, 2]


@pytest.mark.parametrize(
    ("values", "unit", "timezone", "expected"),
    [
        (pa.array(["2024-01-02T09:30:00.123456789Z"]), None, "UTC", 1_704_187_800_123_456_789),
        (pa.array(["2024-01-02T09:30:00+02:00"]), None, "UTC", 1_704_180_600_000_000_000),
        (pa.array(["2024-01-02 09:30"]), None, "UTC", 1_704_187_800_000_000_000),
        (pa.array(["2024-01-02 09:30:00"]), None, "America/New_York", 1_704_205_800_000_000_000),
        (pa.array(["1700000000.123456789"]), "s", "UTC", 1_700_000_000_123_456_789),
        (pa.array([1_700_000_000_000]), "ms", "UTC", 1_700_000_000_000_000_000),
        (pa.array([1.5]), "s", "UTC", 1_500_000_000),
        (pa.array([dt.date(2024, 1, 2)]), None, "UTC", 1_704_153_600_000_000_000),
        (pa.array([5], pa.timestamp("us")), None, "UTC", 5_000),
        (pa.array([5], pa.timestamp("ms", "Asia/Tokyo")), None, "UTC", 5_000_000),
    ],
)
def test_times_become_nanoseconds(
    values: pa.Array, unit: str | None, timezone: str, expected: int
) -> None:
    assert timestamps_ns(values, unit, timezone).to_pylist() == [expected]


@pytest.mark.parametrize(
    ("values", "unit", "timezone", "match"),
    [
        (pa.array([1]), None, "UTC", "without a unit"),
        (pa.array([1]), "h", "UTC", "unknown"),
        (pa.array(["today"]), None, "UTC", "'today'; needs an ISO 8601"),
        (pa.array(["2024-01-02T09:30:00Z", "2024-01-02T09:30:00"]), None, "UTC", "ISO 8601"),
        (pa.array(["2024-03-10T02:30:00"]), None, "America/New_York", "America/New_York has"),
        (pa.array([10**15], pa.timestamp("s")), None, "UTC", "1677"),
        (pa.array([1], pa.timestamp("s")), None, "Mars/Olympus", "Mars"),
    ],
)
def test_times_that_are_none_are_refused(
    values: pa.Array, unit: str | None, timezone: str, match: str
) -> None:
    with pytest.raises(ColumnError, match=match):
        timestamps_ns(values, unit, timezone)
