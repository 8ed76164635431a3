"""Hypothesis strategies: batches of any kind, and type-correct expressions of any shape."""

from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa

from marketdata.filters import tree as t
from marketdata.filters.literals import number
from marketdata.schemas import KEY_COLUMNS, KINDS, SEQUENCED_SCHEMAS

TEXTS = ["AAPL", "MSFT", "aapl", "A%L", "a_b", "", "ß", "Σς", 'q"\\', "x'y", "new\nline", "€"]
NUMBERS = ["0", "1", "-1", "187.25", "0.000000001", "-0.5", "1.0000000005", "2.00000001", "100"]
HUGE = ["9223372036.854775807", "92233720368547758.08", "1e30", "-1e30", "18446744073709551615"]
TIMES = [0, 1, -1, 1_700_000_000_123_456_789, -(2**63) + 1, 2**63 - 1]

INT64 = st.sampled_from([0, 1, -1, 187_250_000_000, 10**9, -(2**63), 2**63 - 1]) | st.integers(
    -(2**63), 2**63 - 1
)
SMALL = st.integers(-5, 5).map(lambda x: x * 500_000_000)


def values_of(field: pa.Field) -> st.SearchStrategy[Any]:
    kind = field.type
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        return st.sampled_from(TEXTS) | st.text(max_size=4)
    if pa.types.is_timestamp(kind):
        return st.sampled_from(TIMES)
    if pa.types.is_floating(kind):
        return st.sampled_from([0.0, 1.0, 0.5, 0.9, float("nan")]).map(np.float32)
    if pa.types.is_unsigned_integer(kind):
        top = int(np.iinfo(kind.to_pandas_dtype()).max)
        return st.integers(0, 3) | st.sampled_from([top, top // 2, top // 2 + 1])
    return SMALL | INT64


def column_of(field: pa.Field, values: list[Any]) -> pa.Array:
    if pa.types.is_dictionary(field.type):
        encoded = pa.array(values, pa.utf8()).dictionary_encode()
        return pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.int16()), encoded.dictionary)
    if pa.types.is_timestamp(field.type):
        return pa.array(values, pa.int64()).view(field.type)
    return pa.array(values, field.type)


@st.composite
def batches(draw: st.DrawFn, kind: str | None = None, *, finite: bool = False) -> pa.RecordBatch:
    """A batch of up to 6 events with the sequenced schema of its kind, nulls and extremes."""
    kind = kind or draw(st.sampled_from(KINDS))
    rows = draw(st.integers(1, 6))
    columns = []
    for field in SEQUENCED_SCHEMAS[kind]:
        some = values_of(field)
        if finite and pa.types.is_floating(field.type):
            some = st.floats(0, 1, width=32)
        if field.nullable and field.name not in KEY_COLUMNS:
            some = st.none() | some
        columns.append(column_of(field, draw(st.lists(some, min_size=rows, max_size=rows))))
    return pa.RecordBatch.from_arrays(columns, schema=SEQUENCED_SCHEMAS[kind])


TEXT_COLUMNS = ["instrument", "venue", "region", "side", "trade_id", "status", "kind"]
NUMBER_COLUMNS = ["price", "size", "bid_price", "sequence", "source_sequence", "level", "open"]
COMPARE = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])


def number_literals() -> st.SearchStrategy[t.Expression]:
    plain = st.sampled_from([*NUMBERS, *HUGE]) | st.decimals(
        -1000, 1000, places=10, allow_nan=False, allow_infinity=False
    ).map(str)
    return plain.map(_number)


def _number(text: str) -> t.Number:
    return number(Decimal(text))


def numbers(depth: int) -> st.SearchStrategy[t.Expression]:
    leaf = number_literals() | st.sampled_from(NUMBER_COLUMNS).map(t.Column)
    if depth <= 0:
        return leaf
    inner = numbers(depth - 1)
    wider = inner | st.just(t.Column("quality"))
    return st.one_of(
        leaf,
        inner.map(t.Negative),
        st.builds(t.Arithmetic, st.sampled_from(["+", "-", "*", "%"]), inner, inner),
        st.builds(t.Arithmetic, st.sampled_from(["+", "-", "*", "/", "%"]), wider, wider),
        inner.map(lambda x: t.Function("abs", (x,))),
        st.builds(t.Round, inner, st.integers(0, 9)),
        st.tuples(inner, inner).map(lambda xs: t.Function("coalesce", xs)),
        cases(conditions(depth - 1), inner),
    )


def texts(depth: int) -> st.SearchStrategy[t.Expression]:
    leaf = st.sampled_from(TEXT_COLUMNS).map(t.Column) | (
        st.sampled_from(TEXTS) | st.text(max_size=3)
    ).map(t.Text)
    if depth <= 0:
        return leaf
    inner = texts(depth - 1)
    return st.one_of(
        leaf,
        st.builds(lambda n, x: t.Function(n, (x,)), st.sampled_from(["lower", "upper"]), inner),
        st.tuples(inner, inner).map(lambda xs: t.Function("coalesce", xs)),
        cases(conditions(depth - 1), inner),
    )


def cases(
    conditions: st.SearchStrategy[t.Expression], results: st.SearchStrategy[t.Expression]
) -> st.SearchStrategy[t.Expression]:
    whens = st.lists(st.builds(t.When, conditions, results), min_size=1, max_size=2).map(tuple)
    return st.builds(t.Case, whens, results | st.just(t.Null()))


@st.composite
def likes(draw: st.DrawFn, depth: int) -> t.Expression:
    some = st.sampled_from(["%", "_", "A", "a", "\n", "!!", "!%", "!_", "ß"])
    parts = draw(st.lists(some, max_size=4))
    escape = "!" if any(len(p) > 1 for p in parts) else ""
    return t.Like(draw(texts(depth)), "".join(parts), escape)


def conditions(depth: int) -> st.SearchStrategy[t.Expression]:
    """Type-correct conditions; not necessarily ones that can be true."""
    deeper = max(depth - 1, 0)
    known_kind = st.sampled_from(KINDS).map(lambda k: t.Compare("=", t.Column("kind"), t.Text(k)))
    not_kind = texts(deeper).filter(lambda x: x != t.Column("kind"))
    time = st.sampled_from(["ts_event", "ts_sequenced"]).map(t.Column) | st.sampled_from(TIMES).map(
        t.Time
    )
    quality = st.builds(
        t.Compare,
        COMPARE,
        st.just(t.Column("quality")),
        number_literals() | st.just(t.Number("0.9")),
    )
    leaf = st.one_of(
        st.builds(t.Compare, COMPARE, numbers(deeper), numbers(deeper)),
        st.builds(t.Compare, COMPARE, not_kind, not_kind),
        st.builds(t.Compare, COMPARE, time, time),
        quality,
        known_kind,
        st.builds(
            t.In,
            numbers(deeper),
            st.lists(number_literals(), min_size=1, max_size=3).map(tuple),
        ),
        st.builds(
            t.In,
            not_kind,
            st.lists(st.sampled_from(TEXTS).map(t.Text), min_size=1, max_size=3).map(tuple),
        ),
        likes(deeper),
        st.builds(t.IsNull, st.one_of(numbers(deeper), texts(deeper), time)),
        st.booleans().map(t.Truth),
    )
    if depth <= 0:
        return leaf
    inner = conditions(depth - 1)
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(
        leaf,
        several.map(t.And),
        several.map(t.Or),
        inner.map(t.Not),
        cases(inner, inner),
        st.tuples(inner, inner).map(lambda xs: t.Function("coalesce", xs)),
        st.builds(t.Compare, st.sampled_from(["=", "<>"]), inner, inner),
        st.builds(t.IsNull, inner),
    )
