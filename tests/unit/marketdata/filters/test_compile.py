"""What is accepted, what is refused, and where errors point."""

import numpy as np
import pyarrow as pa
import pytest

from marketdata.filters import (
    Filter,
    FilterError,
    FilterNeverTrue,
    FilterSyntaxError,
    FilterTooComplex,
    FilterTypeError,
    UnknownColumn,
    compile_filter,
)
from marketdata.schemas import KINDS, SEQUENCED_SCHEMAS


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("instrument IN ('B', 'A')", "INSTRUMENT in ('A','B','A')"),
        ("price > 187.25 AND kind = 'trade'", "'trade' = kind\n  and 187.250 < price"),
        ("NOT (price > 5 OR size IS NULL)", "size IS NOT NULL AND price <= 5"),
        ("price BETWEEN 1 AND 2", "price >= 1 AND 2 >= price"),
        ("venue = 'X' OR venue = 'Y'", "venue IN ('Y', 'X')"),
        ("venue <> 'X' AND NOT venue = 'Y'", "venue NOT IN ('X', 'Y')"),
        ("instrument ILIKE 'aA%'", "lower(instrument) LIKE 'aa%%'"),
        ("instrument LIKE 'a!%' ESCAPE '!'", "instrument = 'a%'"),
        ("price + size > 1", "1 < size + price"),
        ("bid_price < ask_price", "ask_price > bid_price"),
        ("price > 1 + 2 * 3", "price > 7"),
        ("(price > 1) = TRUE", "price > 1 -- comment"),
        ("(price > 1) <> TRUE", "price <= 1"),
        ("price IN (size, 1)", "price = 1 OR size = price"),
        ("CASE side WHEN 'buy' THEN 1 END = 1", "CASE WHEN side = 'buy' THEN 1 ELSE NULL END = 1"),
        (
            "ts_event >= TIMESTAMP '2026-01-31T14:30:00.1+01:00'",
            "TIMESTAMP '2026-01-31 13:30:00.100' <= ts_event",
        ),
        ("venue NOT LIKE 'A%'", "NOT (venue LIKE 'A%')"),
        ("venue NOT LIKE 'A!_%' ESCAPE '!'", "NOT venue LIKE 'A\\_%' ESCAPE '\\'"),
        ("venue NOT ILIKE 'A%'", "NOT lower(venue) LIKE 'a%'"),
        ("price NOT IN (1, 2)", "price <> 1 AND price <> 2"),
        ("price NOT BETWEEN 1 AND 2", "price < 1 OR price > 2"),
        ("price IS NOT NULL", "NOT price IS NULL"),
        ("price NOTNULL", "NOT price IS NULL"),
        ("(price > 1) IS NOT TRUE", "NOT coalesce(price > 1, FALSE)"),
        ("nvl(price, 1) > 2", "coalesce(price, 1) > 2"),
        (
            "local_time(ts_event, 'UTC') IN (TIME '09:30', TIME '10:00:00.5')",
            "Local_Time(TS_EVENT, 'UTC') IN (TIME '10:00:00.500', TIME '09:30:00')",
        ),
        (
            "coalesce(local_time(ts_event, 'UTC'), TIME '09:00') > TIME '10:00'",
            "TIME '10:00' < coalesce(local_time(ts_event, 'UTC'), TIME '09:00')",
        ),
        ("TRUE", ""),
        ("price > 1 OR 1 = 1", "  "),
        ("coalesce(price, NULL, 1, size) > 2", "coalesce(price, 1) > 2"),
        ("-(-price) > abs(-1)", "price > 1"),
        ("(price > 1) IS FALSE", "coalesce(price <= 1, FALSE)"),
    ],
)
def test_equal_filters_written_differently_have_one_canonical_form(one: str, other: str) -> None:
    assert compile_filter(one).canonical == compile_filter(other).canonical
    assert compile_filter(one) == compile_filter(other)
    assert hash(compile_filter(one)) == hash(compile_filter(other))
    canonical = compile_filter(one).canonical
    assert compile_filter(canonical).canonical == canonical


@pytest.mark.parametrize(
    ("sql", "error", "position", "says"),
    [
        ("price >", FilterSyntaxError, 6, "missing"),
        ("price > 1 )", FilterSyntaxError, 10, "unexpected"),
        ("(price > 1", FilterSyntaxError, 9, "Expecting"),
        ("price > 1 size", FilterSyntaxError, 10, "unexpected 'size'"),
        ("venue = 'x", FilterSyntaxError, 8, "never closed"),
        ("venue = 'x' /* no", FilterSyntaxError, 12, "never closed"),
        ("price > 1; price > 2", FilterSyntaxError, 9, "unexpected ';'"),
        ("price > 1 AND sqrt(price) > 1", FilterSyntaxError, 14, "SQRT is not offered"),
        ("price::int = 1", FilterSyntaxError, 0, "cast"),
        ("venue IN (SELECT 1)", FilterSyntaxError, 0, "IN needs a list"),
        ("venue IN ()", FilterSyntaxError, 0, "at least one value"),
        ("a.price = 1", FilterSyntaxError, 0, "no column"),
        ("ts_event > TIMESTAMP 'soon'", FilterSyntaxError, 21, "no time"),
        ("ts_event > TIMESTAMP '2026-13-01'", FilterSyntaxError, 21, "month"),
        ("ts_event > TIMESTAMP '1500-01-01'", FilterSyntaxError, 21, "out of range"),
        ("venue LIKE instrument", FilterSyntaxError, 11, "pattern"),
        ("venue LIKE 'a!b' ESCAPE '!'", FilterSyntaxError, 11, "must stand before"),
        ("venue LIKE 'a' ESCAPE '!!'", FilterSyntaxError, 0, "one character"),
        ("abs(price, size) > 1", FilterSyntaxError, None, "too many arguments"),
        ("price > 1 AND\n prise > 2", UnknownColumn, 15, "did you mean price"),
        ('venue = "XNAS"', UnknownColumn, 8, "single quotes: 'XNAS'"),
        ("zzzzzz = 1", UnknownColumn, 0, "columns are:"),
        ("price > 'x'", FilterTypeError, 0, "without quotes"),
        ("venue > price", FilterTypeError, 0, "single quotes"),
        ("size > 1 AND price = NULL", FilterTypeError, 13, "IS NULL"),
        ("price", FilterTypeError, 0, "condition is needed"),
        ("price > 1 AND size", FilterTypeError, 14, "condition is needed"),
        ("NOT price", FilterTypeError, 4, "condition is needed"),
        ("ts_event > '2026-01-01'", FilterTypeError, 0, "TIMESTAMP"),
        ("ts_event + 1 > ts_event", FilterTypeError, 0, "only be compared"),
        ("venue + 1 > 2", FilterTypeError, 0, "needs numbers"),
        ("price BETWEEN SYMMETRIC 2 AND 1", FilterSyntaxError, 0, "not offered"),
        ("price IS DISTINCT FROM 1", FilterSyntaxError, 0, "not offered"),
        ("local_time(ts_event) = TIME '09:30'", FilterSyntaxError, 0, "name of a zone"),
        ("local_time(ts_event, venue) = TIME '09:30'", FilterSyntaxError, 0, "name of a zone"),
        ("local_time(price, 'UTC') = TIME '09:30'", FilterTypeError, 0, "needs a time"),
        ("local_weekday(ts_event, 'Mars') = 1", FilterTypeError, 0, "no time zone 'Mars'"),
        ("local_time(ts_event, 'UTC') = '09:30'", FilterTypeError, 0, "write times of day as"),
        ("local_time(ts_event, 'UTC') = TIME '24:00'", FilterSyntaxError, 35, "no time of day"),
        ("local_weekday(ts_event, 'UTC') = 8", FilterNeverTrue, 0, "never true"),
        ("local_time(ts_event, 'UTC') < TIME '9:00'", FilterSyntaxError, 35, "no time of day"),
        (
            "local_weekday(ts_event, 'UTC') > 4\nAND local_weekday(ts_event, 'UTC') < 5",
            FilterNeverTrue,
            39,
            "exclude each other",
        ),
        ("CAST(price AS TIME) = TIME '09:00'", FilterSyntaxError, 5, "cannot be cast"),
        ("price LIKE '1%'", FilterTypeError, 0, "LIKE needs text"),
        ("lower(price) = 'a'", FilterTypeError, 0, "lower needs text"),
        ("abs(venue) = 1", FilterTypeError, 0, "abs needs a number"),
        ("coalesce(price, 'x') = 1", FilterTypeError, 0, "mixes"),
        ("coalesce(NULL) = 1", FilterTypeError, 0, "only NULL"),
        ("NULL IS NULL", FilterTypeError, 0, "says nothing"),
        ("(price > 1) < (size > 1)", FilterTypeError, 1, "ordered"),
        ("CASE WHEN price THEN 1 END = 1", FilterTypeError, 10, "WHEN needs"),
        ("price IN (1, 'x')", FilterTypeError, 13, "is a text"),
        ("kind = 'trde'", FilterTypeError, 0, "did you mean 'trade'"),
        ("kind IN ('zzzz')", FilterTypeError, 9, "kinds: trade"),
        ("price > 5 AND price < 3", FilterNeverTrue, 14, "exclude each other"),
        ("kind = 'trade' AND kind = 'quote'", FilterNeverTrue, 19, "exclude each other"),
        ("kind = 'trade' AND bid_price > 1", FilterNeverTrue, 0, "a column of quote"),
        ("venue = 'A' AND venue IN ('B', 'C')", FilterNeverTrue, 16, "exclude"),
        ("venue = 'A' AND venue <> 'A'", FilterNeverTrue, 16, "exclude"),
        ("venue = 'A' AND venue < 'A'", FilterNeverTrue, 16, "exclude"),
        ("price > 1 AND price IS NULL", FilterNeverTrue, 14, "exclude"),
        ("price = 1.0000000001", FilterNeverTrue, 0, "never true"),
        ("price > 1 AND price < 1.000000001", FilterNeverTrue, 14, "exclude"),
        ("price > 9300000000", FilterNeverTrue, 0, "never true"),
        ("sequence < 0", FilterNeverTrue, 0, "never true"),
        ("price <> price", FilterNeverTrue, 0, "never true"),
        ("price > 5 AND (price < 3 OR price = 4)", FilterNeverTrue, 0, ""),
        ("price IN (1.00000000001, 1e20)", FilterNeverTrue, 0, "never true"),
        ("venue LIKE 'A%' AND venue NOT LIKE 'A%'", FilterNeverTrue, None, "exclude"),
        ("instrument IS NULL", FilterNeverTrue, 0, ""),
        ("FALSE", FilterNeverTrue, 0, ""),
        ("price > 1e70", FilterTooComplex, 8, "digits"),
        ("(" * 40 + "price > 1" + ")" * 40, FilterTooComplex, 32, "nested"),
        (" OR ".join(["price > size"] * 1100), FilterTooComplex, None, "terms"),
        (" + ".join(["price"] * 60) + " > 1", FilterTooComplex, None, "deep"),
        ("kind LIKE 'x'", FilterTypeError, 0, "no kind"),
        ("price > " + "1" * 300_000, FilterTooComplex, 0, "characters"),
        ("NOT " * 50 + "price > 1", FilterTooComplex, None, "nested"),
        ("1+" * 1900 + "1 > price", FilterTooComplex, 0, "in a chain"),
    ],
)
def test_what_is_wrong_is_refused_with_position_and_hint(
    sql: str, error: type[FilterError], position: int | None, says: str
) -> None:
    with pytest.raises(error) as caught:
        compile_filter(sql)
    found = caught.value
    assert says in str(found)
    assert found.position is not None
    if position is not None:
        assert found.position == position
    assert found.line == sql[: found.position].count("\n") + 1
    assert found.column is not None
    assert isinstance(found, ValueError)


@pytest.mark.parametrize("value", [1, {"node": "column"}, {"node": "no"}, [], {"node": "and"}])
def test_json_that_is_no_tree_is_refused(value: object) -> None:
    with pytest.raises(FilterTypeError):
        Filter.from_json(value)


def test_everything_has_no_tree_and_an_empty_text() -> None:
    found = compile_filter("")
    assert (found.canonical, found.to_json()) == ("", None)
    assert Filter.from_json(None) == Filter.everything() == found
    assert found.kinds == KINDS


def test_filter_knows_its_kinds_and_columns() -> None:
    found = compile_filter("price > 1 OR kind = 'quote'")
    assert found.kinds == ("trade", "quote", "book")
    assert found.columns == {"price", "kind"}


def test_long_in_lists_are_accepted_and_longer_ones_refused() -> None:
    names = ", ".join(f"'I{i}'" for i in range(10_000))
    assert len(compile_filter(f"instrument IN ({names})").canonical) > 10_000
    with pytest.raises(FilterTooComplex, match="IN has more"):
        compile_filter(f"instrument IN ({names}, 'x')")


def test_mask_takes_its_kind_from_the_batch_and_missing_columns_as_null() -> None:
    schema = pa.schema(
        [SEQUENCED_SCHEMAS["trade"].field("price")], metadata=SEQUENCED_SCHEMAS["trade"].metadata
    )
    batch = pa.RecordBatch.from_arrays([pa.array([187_250_000_000, None, 1])], schema=schema)
    assert compile_filter("price >= 187.25").mask(batch).tolist() == [True, False, False]
    assert not compile_filter("size > 0 OR venue = 'X'").mask(batch).any()
    assert compile_filter("size IS NULL").mask(batch).all()
    assert not compile_filter("bid_price > 0").mask(batch, "trade").any()
    assert compile_filter("quality IS NULL").mask(batch).dtype == np.bool_


def test_negated_pattern_matches_what_the_pattern_does_not() -> None:
    schema = SEQUENCED_SCHEMAS["trade"]
    one = pa.schema([schema.field("trade_id")], metadata=schema.metadata)
    batch = pa.RecordBatch.from_arrays([pa.array(["AB", "BA", None])], schema=one)
    assert compile_filter("trade_id LIKE 'A%'").mask(batch).tolist() == [True, False, False]
    assert compile_filter("trade_id NOT LIKE 'A%'").mask(batch).tolist() == [False, True, False]
    assert compile_filter("trade_id NOT ILIKE 'a_'").mask(batch).tolist() == [False, True, False]


def test_quality_is_found_as_it_is_written() -> None:
    field = SEQUENCED_SCHEMAS["trade"].field("quality")
    schema = pa.schema([field], metadata=SEQUENCED_SCHEMAS["trade"].metadata)
    batch = pa.RecordBatch.from_arrays([pa.array([0.9, 0.5], pa.float32())], schema=schema)
    assert compile_filter("quality = 0.9").mask(batch).tolist() == [True, False]
    assert compile_filter("quality IN (0.9, 0.7)").mask(batch).tolist() == [True, False]
