"""Nobody sees what is not theirs: entitlements bound every view, whatever its filter says.

Random filters, entitlements and frames go through a plan and a router as they do in the
distributor. What must come out is told by the row-wise oracle for the filter, and by plain set
membership, which shares nothing with the code under test, for the entitlements.
"""

from collections.abc import Mapping
from typing import Any, get_args

import hypothesis.strategies as st
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from oracle import row_matches, rows_of
from strategies import TEXTS, batches, conditions

from functions.operators.route import Router
from marketdata.entitlements import (
    EVERYTHING,
    NOTHING,
    Entitlements,
    Kind,
    bounded,
    receives_nothing,
)
from marketdata.filters import Filter, FilterError, compile_filter
from marketdata.filters import tree as t
from marketdata.filters.filter import compile_tree
from marketdata.frames import frame_kind
from marketdata.plans import (
    Delivery,
    Sample,
    ViewSpec,
    compile_plan,
    decode_plan,
    encode_plan,
    view_of,
)
from marketdata.schemas import KINDS

Sets = Mapping[str, tuple[str, ...]]

SET_NAMES = ("mine", "other")


def bounds(values: list[str]) -> st.SearchStrategy[tuple[str, ...] | None]:
    # Most lists hold most values, so that something is left of most frames.
    return st.none() | st.lists(st.sampled_from(values), min_size=len(values) // 2).map(tuple)


ENTITLEMENTS = st.builds(
    Entitlements,
    venues=bounds(TEXTS),
    kinds=bounds(list(KINDS)),
    sources=bounds(TEXTS),
    instruments=bounds(TEXTS),
    instrument_sets=st.none() | st.lists(st.sampled_from(SET_NAMES), max_size=2).map(tuple),
)
SETS = st.fixed_dictionaries(
    {name: st.lists(st.sampled_from(TEXTS), max_size=6).map(tuple) for name in SET_NAMES}
)


def allowed(row: Mapping[str, Any], entitlements: Entitlements, sets: Sets) -> bool:
    """Whether an event is within entitlements: the independent reading."""
    for column, values in (
        ("venue", entitlements.venues),
        ("kind", entitlements.kinds),
        ("source", entitlements.sources),
    ):
        if values is not None and row[column] not in values:
            return False
    if entitlements.instruments is None and entitlements.instrument_sets is None:
        return True
    by_set = (row["instrument"] in sets[name] for name in entitlements.instrument_sets or ())
    return row["instrument"] in (entitlements.instruments or ()) or any(by_set)


def asked(sql: str) -> ViewSpec:
    return as_spec(compile_filter(sql))


def as_spec(found: Filter) -> ViewSpec:
    return ViewSpec(filter=found.canonical, predicate=found.to_json())


def delivered(spec: ViewSpec, batch: pa.RecordBatch, sets: Sets) -> list[bool]:
    """The rows that a view gets, by the plan as it travels to the functions."""
    plan = decode_plan(encode_plan(compile_plan(1, [spec], created_at_ns=0, sets=sets)))
    mask = np.zeros(batch.num_rows, np.bool_)
    for _, rows in Router(plan).route(batch, frame_kind(batch)):
        mask[slice(None) if rows is None else rows] = True
    return [bool(value) for value in mask]


@settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(conditions(2), ENTITLEMENTS, SETS, batches())
def test_delivered_is_what_the_filter_and_the_entitlements_both_let_pass(
    tree: t.Expression, entitlements: Entitlements, sets: Sets, batch: pa.RecordBatch
) -> None:
    try:
        found = compile_tree(tree)
    except FilterError:
        assume(False)
    spec = bounded(as_spec(found), entitlements.bounds())
    rows = rows_of(batch, frame_kind(batch))
    want = [row_matches(tree, row) and allowed(row, entitlements, sets) for row in rows]
    event(f"delivers: {any(want)}")
    event(f"withholds: {any(row_matches(tree, row) for row in rows) and not all(want)}")
    assert delivered(spec, batch, sets) == want
    if receives_nothing(spec):
        event("receives nothing")


@settings(deadline=None, derandomize=True)
@given(ENTITLEMENTS, SETS, batches())
def test_without_a_filter_the_entitlements_alone_decide(
    entitlements: Entitlements, sets: Sets, batch: pa.RecordBatch
) -> None:
    rows = rows_of(batch, frame_kind(batch))
    want = [allowed(row, entitlements, sets) for row in rows]
    assert delivered(bounded(ViewSpec(), entitlements.bounds()), batch, sets) == want


WIDENING = [
    "venue = 'XLON'",
    "venue = 'XNAS' OR TRUE",
    "price > 0 OR NOT (price > 0) OR price IS NULL",
    "NOT (venue = 'XNAS')",
    "NOT (venue IN ('XNAS') AND price > 0)",
    "CASE WHEN venue = 'XNAS' THEN FALSE ELSE TRUE END",
    "coalesce(venue = 'XLON', TRUE)",
    "(venue = 'XNAS') IS NULL OR venue IS NOT NULL",
    "(price > 1) = (price > 1) OR size IS NULL",
    "venue LIKE '%' OR venue IN ('XLON', 'XNAS')",
    "lower(venue) = 'xlon' OR venue > 'A'",
]


def trades(venues: list[str | None]) -> pa.RecordBatch:
    """A frame of trades at 1.5 that has only these columns."""
    columns = {
        "instrument": ["A"] * len(venues),
        "venue": venues,
        "price": pa.array([1_500_000_000] * len(venues), pa.int64()),
    }
    made = pa.RecordBatch.from_pydict(columns)
    return made.replace_schema_metadata({"kind": "trade", "schema_version": "1"})


@pytest.mark.parametrize("sql", WIDENING)
def test_no_filter_gets_an_event_of_a_venue_that_is_not_allowed(sql: str) -> None:
    frame = trades(["XLON", "XNAS", None, "XNYS"])
    spec = bounded(asked(sql), Entitlements(venues=("XNAS", "XPAR")).bounds())
    got = delivered(spec, frame, {})
    assert got[:1] + got[2:] == [False] * 3


@pytest.mark.parametrize("name", ["venues", "sources", "instruments"])
def test_a_row_whose_column_is_null_is_not_delivered(name: str) -> None:
    column = {"venues": "venue", "sources": "source", "instruments": "instrument"}[name]
    frame = trades(["XNAS"])
    without = frame.select([each for each in frame.schema.names if each != column])
    without = without.replace_schema_metadata(frame.schema.metadata)
    spec = bounded(asked("price > 1"), Entitlements(**{name: ("XNAS", "A")}).bounds())
    assert delivered(spec, without, {}) == [False]
    assert delivered(asked("price > 1"), without, {}) == [True]


def test_equal_effective_views_are_one_and_others_are_not() -> None:
    nasdaq, both = Entitlements(venues=("XNAS",)), Entitlements(venues=("XNYS", "XNAS"))
    ids = [
        view_of(bounded(asked(sql), entitlements.bounds())).id
        for sql, entitlements in [
            ("price > 1", nasdaq),
            ("venue = 'XNAS' AND price > 1", both),
            ("price > 1 AND venue IN ('XNAS', 'XLON')", nasdaq),
            ("price > 1 AND venue = 'XNAS'", EVERYTHING),
        ]
    ]
    assert len(set(ids)) == 1
    assert view_of(bounded(asked("price > 1"), both.bounds())).id not in ids


def test_what_can_never_come_is_one_view_that_receives_nothing() -> None:
    lists = Entitlements(venues=("XNAS",))
    left = bounded(asked("venue = 'XLON' AND price > 1"), lists.bounds())
    assert receives_nothing(left)
    assert left == bounded(ViewSpec(), NOTHING.bounds())
    assert delivered(left, trades(["XLON", "XNAS"]), {}) == [False, False]
    assert not receives_nothing(bounded(asked("price > 1"), lists.bounds()))


def test_without_bounds_a_view_stays_what_it_was() -> None:
    spec = asked("price > 1")
    assert bounded(spec, EVERYTHING.bounds()) is spec
    assert bounded(ViewSpec(), EVERYTHING.bounds()) == ViewSpec()


def test_a_set_that_changes_changes_what_the_same_view_gets() -> None:
    spec = bounded(ViewSpec(), Entitlements(instrument_sets=("mine",)).bounds())
    frame = trades(["XNAS"])
    assert delivered(spec, frame, {"mine": ("A", "B")}) == [True]
    assert delivered(spec, frame, {"mine": ("B",)}) == [False]
    assert delivered(spec, frame, {"mine": ()}) == [False]


def test_entitlements_are_kept_in_one_form_and_checked_where_they_come_in() -> None:
    one = msgspec.convert({"venues": ["XNYS", "XNAS", "XNYS"]}, Entitlements)
    assert one.venues == ("XNAS", "XNYS")
    assert msgspec.structs.replace(one, kinds=("trade", "book")).kinds == ("book", "trade")
    assert set(get_args(Kind)) == set(KINDS)
    for bad in (
        {"venues": ["xnas"]},
        {"kinds": ["order"]},
        {"sources": [""]},
        {"instruments": ["a\0"]},
        {"instrument_sets": ["S P"]},
        {"venue": ["XNAS"]},
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, Entitlements)


def test_a_rate_that_is_allowed_cannot_be_widened() -> None:
    allowed = Entitlements(maximum_rate=10).bounds()

    def left(delivery: Delivery) -> Delivery:
        return bounded(ViewSpec(delivery=delivery), allowed).delivery

    assert left(Delivery()).max_rate == 10
    assert left(Delivery(max_rate=100, kinds="together")) == Delivery(max_rate=10)
    assert left(Delivery(max_rate=5)).max_rate == 5
    spec = bounded(ViewSpec(delivery=Delivery(sample=Sample(10))), allowed)
    assert spec.filter == "sequence % 10 = 0"
    assert bounded(spec, allowed) == spec


@given(
    asked=st.sampled_from([msgspec.UNSET, 0, 1, 900, 86_400]),
    priority=st.sampled_from([msgspec.UNSET, 0, 1, 3]),
    least=st.sampled_from([None, 0, 1, 900, 86_400]),
)
def test_a_view_is_delayed_by_the_larger_of_what_is_asked_and_what_must_be(
    asked: Any, priority: Any, least: int | None
) -> None:
    spec = ViewSpec(delivery=Delivery(priority=priority, delay_seconds=asked).canonical())
    entitlements = Entitlements(minimum_delay_seconds=least)
    view = bounded(spec, entitlements.bounds())
    assert (view.delivery.delay_seconds or 0) == max(asked or 0, least or 0)
    assert view.delivery == view.delivery.canonical()
    assert bounded(view, entitlements.bounds()) == view
    assert entitlements == Entitlements(minimum_delay_seconds=least or None)
