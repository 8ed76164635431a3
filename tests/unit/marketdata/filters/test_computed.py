"""Computed columns against an independent reading in Python's decimals, and what they refuse."""

import decimal
import re
import subprocess
import sys
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from oracle import row_matches, rows_of
from strategies import batches, column_of, conditions, number_literals, texts

from marketdata.filters import FilterError, compile_filter
from marketdata.filters import tree as t
from marketdata.filters.columns import FrameColumns
from marketdata.filters.computed import (
    MAX_CHARACTERS,
    compile_computed,
    compile_tree,
    computed_column,
    computed_field,
)
from marketdata.frames import frame_kind
from marketdata.schemas import SEQUENCED_SCHEMAS, TIMESTAMP, decimal_scale

THOROUGH = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
WIDE = decimal.Context(prec=1000, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
NUMBER_COLUMNS = ["price", "size", "bid_price", "ask_price", "bid_size", "sequence", "level"]
FINITE = ["2", "-4", "0.5", "8", "100", "0.0001", "1.25"]


def divisors() -> st.SearchStrategy[t.Expression]:
    """Literals with a finite reciprocal, written out or not."""
    given = st.sampled_from(FINITE).map(t.Number)
    two = st.just(t.Number("2"))
    return st.one_of(
        given,
        given.map(t.Negative),
        st.builds(t.Arithmetic, st.just("*"), given, two),
        given.map(lambda x: t.Function("abs", (x,))),
        given.map(lambda x: t.Function("coalesce", (t.Null(), x))),
    )


def exact_numbers(depth: int) -> st.SearchStrategy[t.Expression]:
    """Expressions that are promised to be exact up to the one rounding at their end."""
    leaf = st.sampled_from(NUMBER_COLUMNS).map(t.Column) | number_literals()
    if depth <= 0:
        return leaf
    inner = exact_numbers(depth - 1)
    return st.one_of(
        leaf,
        inner.map(t.Negative),
        st.builds(t.Arithmetic, st.sampled_from(["+", "-", "*", "%"]), inner, inner),
        st.builds(t.Arithmetic, st.just("/"), inner, divisors()),
        st.builds(t.Round, inner, st.integers(0, 9)),
        inner.map(lambda x: t.Function("abs", (x,))),
        st.tuples(inner, inner).map(lambda xs: t.Function("coalesce", xs)),
        st.builds(
            lambda when, one, other: t.Case((t.When(when, one),), other),
            conditions(1),
            inner,
            inner | st.just(t.Null()),
        ),
    )


def said(node: t.Expression, row: dict[str, Any]) -> Decimal | None:
    """The exact value of an expression on one event, without any array."""
    match node:
        case t.Column(name):
            value = row.get(name)
            return None if value is None else WIDE.divide(value.numerator, value.denominator)
        case t.Number(text):
            return Decimal(text)
        case t.Null():
            return None
        case t.Round(x, digits):
            value = said(x, row)
            return None if value is None else half_even(value, digits)
        case t.Function("coalesce", arguments):
            return next((v for v in (said(a, row) for a in arguments) if v is not None), None)
        case t.Case(((t.When(condition, result),)), otherwise):
            return said(result if row_matches(condition, row) else otherwise, row)
        case t.Negative(x) | t.Function("abs", (x,)):
            value = said(x, row)
            negate = isinstance(node, t.Negative)
            return None if value is None else -value if negate else abs(value)
        case t.Arithmetic(op, left, right):
            a, b = said(left, row), said(right, row)
            if a is None or b is None or (op in "/%" and b == 0):
                return None
            return {
                "+": WIDE.add,
                "-": WIDE.subtract,
                "*": WIDE.multiply,
                "/": WIDE.divide,
                "%": WIDE.remainder,
            }[op](a, b)
    raise AssertionError(node)


def half_even(value: Decimal, digits: int) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN, WIDE)


def values_of(sql: str, batch: pa.RecordBatch) -> list[Any]:
    return computed(compile_computed(sql), batch).to_pylist()


def computed(tree: t.Expression, batch: pa.RecordBatch) -> pa.Array:
    column = computed_column(tree, FrameColumns(batch, frame_kind(batch)))
    column.validate(full=True)
    assert column.type == computed_field("x", tree).type
    assert len(column) == batch.num_rows
    return column


@settings(THOROUGH, max_examples=150)
@given(exact_numbers(3), batches())
def test_numbers_are_the_exact_ones_rounded_once(tree: t.Expression, batch: pa.RecordBatch) -> None:
    with decimal.localcontext(WIDE):
        expected = [said(tree, row) for row in rows_of(batch, frame_kind(batch))]
        try:
            compiled = compile_tree(tree)
        except FilterError:
            assume(False)
        scale = decimal_scale(computed_field("x", compiled)) or 0
        found = computed(compiled, batch).to_pylist()
        for value, exact in zip(found, expected, strict=True):
            units = None if exact is None else half_even(exact, 9).scaleb(scale)
            if units is None or not -(2**63) <= units < 2**63:
                event("null")
                assert value is None
            else:
                event("a number")
                assert value == units


@THOROUGH
@given(texts(2), batches())
def test_texts_are_what_the_oracle_says(tree: t.Expression, batch: pa.RecordBatch) -> None:
    """`is distinct from` every other text: a condition that the oracle can judge row by row."""
    try:
        compiled = compile_tree(tree)
    except FilterError:
        assume(False)
    found = computed(compiled, batch).to_pylist()
    for value, row in zip(found, rows_of(batch, frame_kind(batch)), strict=True):
        is_null = row_matches(t.IsNull(tree), row)
        assert (value is None) == is_null
        assert is_null or row_matches(t.Compare("=", tree, t.Text(value)), row)


@THOROUGH
@given(exact_numbers(2) | texts(2))
def test_the_sql_of_a_tree_compiles_to_that_tree(tree: t.Expression) -> None:
    try:
        compiled = compile_tree(tree)
    except FilterError:
        assume(False)
    sql = t.to_sql(compiled)
    assume(len(sql) <= MAX_CHARACTERS)
    assert compile_computed(sql) == compiled


@pytest.mark.parametrize(
    "sql",
    [
        "price / (1 + 1)",
        "price / (3 - 1) / (2 * 2)",
        "1 / (1 + 1) / price",
        "price / (size / (4 * 2))",
        "price / (2 / (1 + 1))",
        "price / abs(-4)",
        "price / -(1 + 1)",
        "price / (1 / (1 / 2))",
        "coalesce(1 / 2, quality) / 2 * price",
    ],
)
def test_divisors_that_become_literals_divide_exactly_too(sql: str) -> None:
    compiled = compile_computed(sql)
    assert compile_computed(t.to_sql(compiled)) == compiled


def events(kind: str, **columns: list[Any]) -> pa.RecordBatch:
    rows = len(next(iter(columns.values())))
    given = {"instrument": ["A"] * rows, "venue": ["xnas"] * rows, **columns}
    schema = SEQUENCED_SCHEMAS[kind]
    arrays = [
        column_of(field, given[field.name]) if field.name in given else pa.nulls(rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


QUOTES = events(
    "quote",
    bid_price=[187_250_000_000, 1, 2, -3, None, 2**63 - 1],
    ask_price=[187_260_000_001, 2, 3, -2, 5, 2**63 - 1],
)
TRADES = events(
    "trade",
    price=[187_250_000_000, 3, -187_125_000_000, 2**63 - 1, None],
    size=[10_000_000_000, 50_000_000, 20_000_000, 2**63 - 1, 100_000_000],
    side=["buy", "sell", None, "buy", "Sell"],
    source_sequence=[1, 2**64 - 1, None, 4, 5],
    quality=[0.5, 0.1, None, 1.0, float("nan")],
)


@pytest.mark.parametrize(
    ("sql", "scale", "expected"),
    [
        # Between two numbers lies the even one: 1.5 → 2, 2.5 → 2, -2.5 → -2.
        (
            "(bid_price + ask_price) / 2",
            9,
            [187_255_000_000, 2, 2, -2, None, 2**63 - 1],
        ),
        ("ask_price - bid_price", 9, [10_000_001, 1, 1, 1, None, 0]),
        ("round((ask_price - bid_price) * 10000, 0)", None, [100, 0, 0, 0, None, 0]),
        ("coalesce(bid_price, ask_price)", 9, [187_250_000_000, 1, 2, -3, 5, 2**63 - 1]),
        ("bid_price + ask_price", 9, [374_510_000_001, 3, 5, -5, None, None]),
        ("abs(bid_price)", 9, [187_250_000_000, 1, 2, 3, None, 2**63 - 1]),
        ("price", 9, [None] * 6),
        ("coalesce(price, 1) * 2", 9, [2_000_000_000] * 6),
    ],
)
def test_of_quotes(sql: str, scale: int | None, expected: list[int | None]) -> None:
    assert values_of(sql, QUOTES) == expected
    assert decimal_scale(computed_field("x", compile_computed(sql))) == scale


@pytest.mark.parametrize(
    ("sql", "scale", "expected"),
    [
        # notional: exact, then rounded; what int64 cannot hold is NULL
        ("price * size", 9, [18_725_000_000_000, 2, -37_425_000_000, None, None]),
        ("round(price * size, 2)", 2, [1_872_500, 0, -3742, None, None]),
        # units and currencies by a constant factor
        ("size * 1000", 8, [10**13, 5 * 10**10, 2 * 10**10, None, 10**11]),
        ("price * 0.92", 9, [172_270_000_000, 3, -172_155_000_000,
                             8_485_502_273_906_393_742, None]),
        ("price / 100", 9, [1_872_500_000, 0, -1_871_250_000, 92_233_720_368_547_758, None]),
        ("round(price, 2)", 2, [18_725, 0, -18_712, 922_337_203_685, None]),
        ("round(price, 1)", 1, [1872, 0, -1871, 92_233_720_369, None]),
        ("round(price)", None, [187, 0, -187, 9_223_372_037, None]),
        ("CASE WHEN side = 'buy' THEN size ELSE -size END", 8,
         [10**10, -5 * 10**7, -2 * 10**7, 2**63 - 1, -(10**8)]),
        ("CASE WHEN size >= 1 THEN 1 ELSE 0 END", None, [1, 0, 0, 1, 1]),
        ("CASE WHEN side = 'buy' THEN 1 END", None, [1, None, None, 1, None]),
        ("source_sequence", None, [1, None, None, 4, 5]),
        ("1", None, [1] * 5),
        # doubles: NULL where nothing finite comes of it
        ("price / 1.0842", 9, [round(187.25 / 1.0842 * 1e9), 3, round(-187.125 / 1.0842 * 1e9),
                               None, None]),
        ("price / (size - size)", 9, [None] * 5),
        ("price % (size - size)", 9, [None] * 5),
        ("price / 0", 9, [None] * 5),
        ("price / 1e-60", 9, [None] * 5),
        ("quality", 9, [500_000_000, 100_000_001, None, 1_000_000_000, None]),
        ("round(quality / 3, 2)", 2, [17, 3, None, 33, None]),
        ("round(1e30 * quality, 2)", 2, [None] * 5),
    ],
)  # fmt: skip
def test_of_trades(sql: str, scale: int | None, expected: list[int | None]) -> None:
    found = values_of(sql, TRADES)
    if sql == "price / 1.0842":
        found[3] = None  # 8.5e9 in doubles: no nine digits are promised there
    assert found == expected
    assert decimal_scale(computed_field("x", compile_computed(sql))) == scale


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("upper(venue)", ["XNAS"] * 5),
        ("lower(side)", ["buy", "sell", None, "buy", "sell"]),
        ("coalesce(side, 'none')", ["buy", "sell", "none", "buy", "Sell"]),
        ("'hidden'", ["hidden"] * 5),
        ("kind", ["trade"] * 5),
        ("status", [None] * 5),
        ("CASE WHEN price > 100 THEN 'dear' WHEN price > 0 THEN 'cheap' END",
         ["dear", "cheap", None, "dear", None]),
    ],
)  # fmt: skip
def test_texts(sql: str, expected: list[str | None]) -> None:
    assert values_of(sql, TRADES) == expected
    assert computed_field("x", compile_computed(sql)).type == pa.utf8()


def test_times_stay_times() -> None:
    batch = events("trade", ts_event=[1, None, 3], ts_publish=[7, 8, 9])
    tree = compile_computed("coalesce(ts_event, ts_publish)")
    assert computed_field("x", tree).type == TIMESTAMP
    assert computed(tree, batch).view(pa.int64()).to_pylist() == [1, 8, 3]


@pytest.mark.parametrize("sql", ["(bid_price + ask_price) / 2", "upper(venue)", "'x'", "1.5"])
def test_no_events_give_no_values(sql: str) -> None:
    assert values_of(sql, QUOTES.slice(0, 0)) == []


def test_slices_are_computed_from_their_own_rows() -> None:
    assert values_of("ask_price - bid_price", QUOTES.slice(1, 3)) == [1, 1, 1]


@pytest.mark.parametrize(
    ("sql", "position", "says"),
    [
        ("prise * 2", 0, "did you mean price"),
        ("price * side", 0, "needs numbers"),
        ("size > 1", 0, "CASE WHEN"),
        ("CASE WHEN size > 1 THEN TRUE END", 0, "THEN 1 ELSE 0"),
        ("NULL", 0, "name it in mask"),
        ("local_time(ts_event, 'UTC')", 0, "deliver the time itself"),
        ("CASE WHEN instrument IN SET 'x' THEN 1 END", 0, "stands in filters only"),
        ("  ", 0, "holds no expression"),
        ("price *", 6, "something is missing"),
        ("price AS p", 6, "unexpected 'AS'"),
        ("sum(price)", 0, "SUM is not offered"),
        ("round(price, 12)", 0, "0 to 9"),
        ("round(price, -2)", 0, "0 to 9"),
        ("round(price, size)", 13, "write round(price, 2)"),
        ("round(side)", 0, "round needs a number"),
        ("CASE WHEN price > 1 THEN side ELSE size END", 10, "mixes number and text"),
        ("(" * 33 + "price" + ")" * 33, 32, "nested more than 32 deep"),
        ("price + " * 600 + "price", 0, "more than 4000 characters"),
        (" * ".join(["price"] * 7), 0, "more than 60 digits"),
        ("round(" + " * ".join(["price"] * 7) + ", 2)", 0, "more than 60 digits"),
        (" * ".join(["sequence"] * 5), 0, "can have 320 bits, more than 256"),
        (" * ".join(["sequence"] * 3 + ["9" * 20]), 0, "can have 259 bits, more than 256"),
        ("(size + 1) * (size + 1) * (size + 1) * (size + 1)", 0, "can have 260 bits"),
        (
            "CASE WHEN sequence * size * size * size * size > 1 THEN 1 END",
            0,
            "multiply at most four",
        ),
        ("1+" * 1900 + "1", 0, "more than 128 operators in a chain"),
        ("+".join(["size"] * 100), 0, "nested more than 32 deep"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_its_place(
    sql: str, position: int, says: str
) -> None:
    with pytest.raises(FilterError, match=re.escape(says)) as caught:
        compile_computed(sql)
    assert caught.value.position == position
    assert caught.value.column == position + 1


@pytest.mark.parametrize(
    "sql",
    [
        "price * size * sequence * level",
        "price * size * sequence * 9999999999999999999 % 7 + size",
        "CASE WHEN price * size * size * size > 1 THEN price ELSE size END * price * size * size",
        "round(price / size, 2) * size * size * size",
        "round(price * size * size * size / 3, 2) * size",
    ],
)
def test_sensible_products_are_taken(sql: str) -> None:
    compiled = compile_computed(sql)
    assert compile_computed(t.to_sql(compiled)) == compiled


def test_the_documents_examples_give_what_they_say() -> None:
    text = (Path(__file__).parents[4] / "docs" / "transformations.md").read_text("utf-8")
    table = re.findall(r"^\| [^|]+ \| `([^`]+)` \| (decimal, \d|integer|text)", text, re.MULTILINE)
    assert len(table) == 10
    for sql, result in table:
        field = computed_field("x", compile_computed(sql))
        scale = decimal_scale(field)
        given = "text" if field.type == pa.utf8() else f"decimal, {scale}" if scale else "integer"
        assert given == result, sql


def test_filters_round_too() -> None:
    assert compile_filter("round(price, 2) = 187.25").mask(TRADES).tolist() == [
        True, False, False, False, False,
    ]  # fmt: skip
    assert compile_filter("round(price) > 9000000000").canonical == "round(price, 0) > 9000000000"
    assert compile_filter("round(bid_price, 2) > 1 OR size > 1").kinds == ("trade", "quote", "book")


def test_plans_compute_without_the_sql_parser() -> None:
    """Functions load the trees; sqlglot is not imported for them."""
    program = """
import sys
import pyarrow as pa
from marketdata.plans import View, decode_plan
from functions.operators.render import max_rows, render
from marketdata.schemas import SEQUENCED_SCHEMAS
(view,) = decode_plan(sys.stdin.buffer.read()).views
schema = SEQUENCED_SCHEMAS["quote"]
given = {"bid_price": 1, "ask_price": 4}
batch = pa.RecordBatch.from_arrays(
    [
        pa.array([given[f.name]], f.type) if f.name in given else pa.nulls(1, f.type)
        for f in schema
    ],
    schema=schema,
)
assert max_rows(view) < 8192
assert b'"mid":"0.000000002"' in render(view, batch).messages[0], render(view, batch)
assert "sqlglot" not in sys.modules
"""
    from marketdata.plans import ViewSpec, compile_plan, encode_plan  # noqa: PLC0415
    from marketdata.transformations import Transformation  # noqa: PLC0415

    transformation = Transformation(compute={"mid": "(bid_price + ask_price) / 2"})
    spec = ViewSpec(
        transformation=transformation.canonical(),
        computed=dict(transformation.compiled()),
        format="json",
    )
    plan = compile_plan(1, [spec], created_at_ns=1)
    subprocess.run([sys.executable, "-c", program], input=encode_plan(plan), check=True)
