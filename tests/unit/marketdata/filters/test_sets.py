"""Filters that name instrument sets: what they mean once the sets are known, and not before."""

from collections.abc import Mapping

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given
from strategies import batches

from marketdata.filters import Filter, FilterNeverTrue, FilterTypeError, UnknownSet, compile_filter

NAMES = st.sampled_from(["AAPL", "MSFT", "aapl", "A%L", "", "x'y"])
SHAPES = [
    "{set}",
    "NOT ({set})",
    "{set} AND price > 0",
    "({set}) = (venue = 'MSFT') OR {set} IS NULL",
    "CASE WHEN {set} THEN venue = 'AAPL' ELSE sequence > 1 END",
    "coalesce(price > 1, {set})",
    "instrument IN ('AAPL', 'ZZZ') AND {set}",
]


@given(batches(), st.frozensets(NAMES), st.sampled_from(SHAPES))
def test_a_set_means_what_a_list_of_its_instruments_means(
    batch: pa.RecordBatch, members: frozenset[str], shape: str
) -> None:
    named = compile_filter(shape.format(set="instrument IN SET 'mine'"))
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in sorted(members))
    listed = f"instrument IN ({quoted})" if members else "coalesce(venue < venue, FALSE)"
    bound = named.with_sets({"mine": members, "other": ()})
    try:
        want = compile_filter(shape.format(set=listed)).mask(batch).tolist()
    except FilterNeverTrue:
        want = [False] * batch.num_rows
    assert bound.mask(batch).tolist() == want
    assert not bound.sets
    assert named.sets == {"mine"}


def test_the_canonical_form_names_the_set() -> None:
    found = compile_filter("price > 5 and INSTRUMENT in set 'sp500'")
    assert found.canonical == "instrument IN SET 'sp500' AND price > 5"
    assert compile_filter(found.canonical) == found
    assert Filter.from_json(found.to_json()) == found
    negated = compile_filter("instrument NOT IN SET 'sp500'")
    assert negated == compile_filter("NOT instrument IN SET 'sp500'")


def test_a_filter_without_sets_stays_itself() -> None:
    found = compile_filter("price > 5")
    sets: Mapping[str, tuple[str, ...]] = {}
    assert found.with_sets(sets) is found


def test_a_set_that_is_not_there_is_named() -> None:
    with pytest.raises(UnknownSet, match="'sp500'"):
        compile_filter("instrument IN SET 'sp500'").with_sets({})


def test_a_filter_without_its_sets_is_not_run() -> None:
    batch = pa.RecordBatch.from_arrays([pa.array(["A"])], ["instrument"])
    with pytest.raises(TypeError, match="not been given its sets"):
        compile_filter("instrument IN SET 'sp500'").mask(batch, "trade")


@pytest.mark.parametrize(
    ("sql", "position", "says"),
    [
        ("price > 1 AND venue IN SET 'sp500'", 27, "sets hold instruments"),
        ("instrument IN SET 'S P'", 18, "no name of a set"),
    ],
)
def test_what_is_no_set_of_instruments_is_refused(sql: str, position: int, says: str) -> None:
    with pytest.raises(FilterTypeError, match=says) as caught:
        compile_filter(sql)
    assert caught.value.position == position
