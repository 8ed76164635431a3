"""The same SQL text, read by a database that is not ours: DuckDB must choose the same rows.

Values stay where both count exactly: times in microseconds, which is DuckDB's resolution of a time
in a zone, numbers within its decimals, texts in ASCII, of which both have one lower case.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import duckdb
import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from strategies import column_of

from marketdata.filters import FilterNeverTrue, compile_filter
from marketdata.schemas import COLUMNS, KINDS, SEQUENCED_SCHEMAS, decimal_scale

ROWS = 16
ZONES = ("America/New_York", "Europe/London", "Asia/Kolkata", "Africa/Casablanca", "UTC")
TEXTS = ("AAPL", "MSFT", "aapl", "A%L", "a_b", "", "buy", "sell", "it's")
NUMBERS = (0, 1, -1, 2, 187_250_000_000, -500_000_000, 250_000_000, 10**9, 3 * 10**9)
# A winter's day and a summer's, around the change of clocks in New York, around midnight.
MOMENTS = tuple(
    base * 1_000_000_000 + step * 1_800_000_000_000 + 1_000
    for base in (1_704_204_000, 1_720_000_800, 1_710_054_000, 1_730_613_600)
    for step in range(-24, 25)
)


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            "CREATE MACRO local_time(t, zone)"
            " AS CAST(timezone(zone, CAST(t AS TIMESTAMPTZ)) AS TIME)"
        )
        connection.execute(
            "CREATE MACRO local_weekday(t, zone) AS isodow(timezone(zone, CAST(t AS TIMESTAMPTZ)))"
        )
        yield connection


def values_of(field: pa.Field) -> st.SearchStrategy[Any]:
    if pa.types.is_dictionary(field.type) or pa.types.is_string(field.type):
        return st.sampled_from(TEXTS)
    if pa.types.is_timestamp(field.type):
        return st.sampled_from(MOMENTS)
    if pa.types.is_floating(field.type):
        return st.sampled_from([0.0, 0.5, 0.25, 1.0])
    if pa.types.is_unsigned_integer(field.type):
        return st.integers(0, 5)
    return st.sampled_from(NUMBERS)


@st.composite
def batches(draw: st.DrawFn) -> tuple[str, pa.RecordBatch]:
    kind = draw(st.sampled_from(KINDS))
    schema = SEQUENCED_SCHEMAS[kind]
    columns = []
    for field in schema:
        some = values_of(field)
        some = some | st.none() if field.nullable else some
        columns.append(column_of(field, draw(st.lists(some, min_size=ROWS, max_size=ROWS))))
    return kind, pa.RecordBatch.from_arrays(columns, schema=schema)


def table_of(kind: str, batch: pa.RecordBatch) -> pa.Table:
    """What filters may name, in units: every column of every kind, NULL where the kind lacks it."""
    columns: dict[str, pa.Array] = {"kind": pa.array([kind] * ROWS)}
    for name, field in COLUMNS.items():
        at = batch.schema.get_field_index(name)
        scale = decimal_scale(field)
        if pa.types.is_dictionary(field.type):
            type_ = pa.utf8()
        elif pa.types.is_timestamp(field.type):
            type_ = pa.timestamp("us")
        elif pa.types.is_floating(field.type) or pa.types.is_string(field.type):
            type_ = field.type
        else:
            type_ = pa.decimal128(24, scale) if scale else pa.int64()
        if at < 0:
            columns[name] = pa.nulls(ROWS, type_)
        elif scale:
            exact = [
                None if v is None else Decimal(v).scaleb(-scale) for v in batch[at].to_pylist()
            ]
            columns[name] = pa.array(exact, type_)
        elif pa.types.is_timestamp(type_):
            columns[name] = batch[at].cast(pa.timestamp("us", "UTC")).cast(type_)
        else:
            columns[name] = batch[at].cast(type_)
    return pa.table(columns)


NUMBER_COLUMNS = tuple(n for n, f in COLUMNS.items() if decimal_scale(f) is not None)
COUNT_COLUMNS = ("sequence", "level", "trade_count", "quality_flags", "source_sequence")
TEXT_COLUMNS = tuple(
    n for n, f in COLUMNS.items() if pa.types.is_dictionary(f.type) or pa.types.is_string(f.type)
)
TIME_COLUMNS = tuple(n for n, f in COLUMNS.items() if pa.types.is_timestamp(f.type))


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def numbers(depth: int) -> st.SearchStrategy[str]:
    leaf = st.sampled_from(NUMBER_COLUMNS + COUNT_COLUMNS) | st.sampled_from(
        ["0", "1", "2", "187.25", "0.5", "-1", "3"]
    )
    if depth <= 0:
        return leaf
    inner = numbers(depth - 1)
    return st.one_of(
        leaf,
        # One product only: DuckDB's decimals end at 38 digits.
        st.builds("({} * {})".format, numbers(0), st.sampled_from([*COUNT_COLUMNS, "2", "-1"])),
        st.builds("({} {} {})".format, inner, st.sampled_from("+-"), inner),
        st.builds("({} % {})".format, numbers(0), st.sampled_from(["2", "0.5", "-3"])),
        inner.map("abs({})".format),
        inner.map("(-({}))".format),
        st.builds("coalesce({}, {})".format, inner, inner),
        st.builds("CASE WHEN {} THEN {} ELSE {} END".format, conditions(depth - 1), inner, inner),
        st.builds("CASE WHEN {} THEN {} END".format, conditions(depth - 1), inner),
    )


def texts(depth: int) -> st.SearchStrategy[str]:
    leaf = st.sampled_from(TEXT_COLUMNS) | st.sampled_from(TEXTS).map(quoted)
    if depth <= 0:
        return leaf
    inner = texts(depth - 1)
    return st.one_of(
        leaf,
        st.builds("{}({})".format, st.sampled_from(["lower", "upper"]), inner),
        st.builds("coalesce({}, {})".format, inner, inner),
        st.builds("CASE {} WHEN {} THEN {} END".format, inner, inner, inner),
    )


def times() -> st.SearchStrategy[str]:
    def literal(ns: int) -> str:
        return f"TIMESTAMP '{pa.scalar(ns, pa.timestamp('ns')).as_py():%Y-%m-%d %H:%M:%S.%f}'"

    return st.sampled_from(TIME_COLUMNS) | st.sampled_from(MOMENTS).map(literal)


def clocks() -> st.SearchStrategy[str]:
    read = st.builds("local_time({}, '{}')".format, times(), st.sampled_from(ZONES))
    fixed = ["00:00", "09:30", "16:00", "23:59:59.999999", "14:00:00.000001"]
    return read | st.sampled_from(fixed).map("TIME '{}'".format)


COMPARE = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
NEGATION = st.sampled_from(["", "NOT "])


def conditions(depth: int) -> st.SearchStrategy[str]:
    deeper = max(depth - 1, 0)
    weekdays = st.builds("local_weekday({}, '{}')".format, times(), st.sampled_from(ZONES))
    patterns = st.sampled_from(["A%", "%l", "_b", "a!_b", "A!%L", "%", "", "%s%"]).map(quoted)
    leaf = st.one_of(
        st.builds("({} {} {})".format, numbers(deeper), COMPARE, numbers(deeper)),
        st.builds("({} {} {})".format, texts(deeper), COMPARE, texts(deeper)),
        st.builds("({} {} {})".format, times(), COMPARE, times()),
        st.builds("({} {} {})".format, clocks(), COMPARE, clocks()),
        st.builds("({} {}BETWEEN {} AND {})".format, clocks(), NEGATION, clocks(), clocks()),
        st.builds("({} {}IN (1, {}, 7))".format, weekdays, NEGATION, st.integers(2, 6)),
        st.builds("({} {} {})".format, st.just("quality"), COMPARE, st.sampled_from(["0.5", "0"])),
        st.builds(
            "({} {}BETWEEN {} AND {})".format, numbers(deeper), NEGATION, numbers(0), numbers(0)
        ),
        st.builds("({} {}IN ({}, {}))".format, numbers(deeper), NEGATION, numbers(0), numbers(0)),
        st.builds("({} {}IN ({}, {}))".format, texts(deeper), NEGATION, texts(0), texts(0)),
        st.builds("({} {}LIKE {} ESCAPE '!')".format, texts(deeper), NEGATION, patterns),
        st.builds("({} {}ILIKE {} ESCAPE '!')".format, texts(deeper), NEGATION, patterns),
        st.builds(
            "({} IS {}NULL)".format,
            st.one_of(
                numbers(deeper), st.sampled_from(TEXT_COLUMNS), st.sampled_from(TIME_COLUMNS)
            ),
            NEGATION,
        ),
        st.builds("(kind {} '{}')".format, st.sampled_from(["=", "<>"]), st.sampled_from(KINDS)),
    )
    if depth <= 0:
        return leaf
    inner = conditions(depth - 1)
    return st.one_of(
        leaf,
        st.builds("({} {} {})".format, inner, st.sampled_from(["AND", "OR"]), inner),
        inner.map("(NOT {})".format),
        st.builds("({} IS {}{})".format, inner, NEGATION, st.sampled_from(["TRUE", "FALSE"])),
        st.builds("coalesce({}, {})".format, inner, inner),
        st.builds("CASE WHEN {} THEN {} ELSE {} END".format, inner, inner, inner),
    )


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(batches(), conditions(2))
def test_duckdb_chooses_the_same_rows(
    database: duckdb.DuckDBPyConnection, events: tuple[str, pa.RecordBatch], sql: str
) -> None:
    kind, batch = events
    database.register("events", table_of(kind, batch))
    found = database.execute(f"SELECT coalesce({sql}, FALSE) FROM events").fetchall()
    want = [row[0] for row in found]
    try:
        compiled = compile_filter(sql)
    except FilterNeverTrue:
        assert not any(want), sql
        return
    assert compiled.mask(batch).tolist() == want, sql
