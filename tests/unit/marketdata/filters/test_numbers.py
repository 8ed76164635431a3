"""Numbers at the ends of their ranges, where property tests seldom come."""

from math import inf
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from strategies import column_of

from marketdata.filters import compile_filter
from marketdata.filters.columns import Numbers
from marketdata.filters.numbers import as_floats, combine, compare, constant, rounded
from marketdata.schemas import SEQUENCED_SCHEMAS

HUGE = " * ".join(["sequence"] + ["9" * 30] * 12)
"""A positive sequence makes it greater than any double."""


def events(*sequences: int) -> pa.RecordBatch:
    schema = SEQUENCED_SCHEMAS["trade"]
    rows = len(sequences)
    given: dict[str, list[Any]] = {
        "instrument": ["A"] * rows,
        "venue": ["xnas"] * rows,
        "sequence": list(sequences),
    }
    arrays = [
        column_of(field, given[field.name]) if field.name in given else pa.nulls(rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def test_beyond_the_greatest_double_lies_infinity() -> None:
    exact = Numbers(np.array([10**400, -(10**400), 10**100, 5], object), 1, None)
    assert as_floats(exact).tolist() == [inf, -inf, 1e99, 0.5]


def test_what_is_computed_of_it_is_null_and_comparisons_are_right() -> None:
    huge = Numbers(np.array([10**400, -(10**400), 6], object), 0, None)
    third = combine("/", huge, constant(3))
    assert third.null is not None
    assert third.null.tolist() == [True, True, False]
    whole = rounded(Numbers(as_floats(huge), None, None), 2)
    assert whole.null is not None
    assert whole.null.tolist() == [True, True, False]
    found = compare(">", huge, Numbers(np.array([0.5]), None, None))
    assert found.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (f"{HUGE} / 3 > 1", [False, False]),
        (f"({HUGE} / 3) IS NULL", [True, False]),
        (f"{HUGE} > 1", [True, False]),
        (f"{HUGE} > 1 / 3", [True, False]),
        ("sequence * 0.0000000000000000000000001 + 0 > 0", [True, False]),
        ("sequence * 0.0000000000000000000000001 > level", [False, False]),
        ("coalesce(sequence * 0.0000000000000000000000001, 0) = 0", [False, True]),
    ],
)
def test_filters_never_fail(sql: str, expected: list[bool]) -> None:
    assert compile_filter(sql).mask(events(7, 0)).tolist() == expected
