"""Routing rules are what they say: the first rule that matches decides, and nothing widens it.

The compiled condition goes through a plan and a router as in the distributor; the model walks the
rules one after the other for each event, with the row-wise oracle.
"""

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from oracle import row_matches, rows_of
from strategies import TEXTS, batches, conditions

from functions.operators.route import Router
from marketdata.entitlements import Bounds, bounded
from marketdata.filters import Filter, FilterError, compile_filter
from marketdata.filters import tree as t
from marketdata.filters.filter import compile_tree
from marketdata.frames import frame_kind
from marketdata.plans import ViewSpec, compile_plan, decode_plan, encode_plan
from marketdata.routing_rules import Effect, Party, Selector, decision, of_sources, turns

Rules = list[tuple[Effect, t.Expression]]

RULES = st.lists(
    st.tuples(st.sampled_from(["allow", "deny"]), conditions(1) | st.just(t.Truth(True))),
    max_size=5,
)


def compiled(tree: t.Expression) -> Filter:
    if tree == t.Truth(True):
        return Filter.everything()
    try:
        return compile_tree(tree)
    except FilterError:
        assume(False)
        raise


def spec_of(found: Filter) -> ViewSpec:
    return ViewSpec(filter=found.canonical, predicate=found.to_json())


def delivered(spec: ViewSpec, batch: pa.RecordBatch) -> list[bool]:
    """The rows that a view gets, by the plan as it travels to the functions."""
    plan = decode_plan(encode_plan(compile_plan(1, [spec], created_at_ns=0)))
    mask = np.zeros(batch.num_rows, np.bool_)
    for _, rows in Router(plan).route(batch, frame_kind(batch)):
        mask[slice(None) if rows is None else rows] = True
    return [bool(value) for value in mask]


def allowed(rules: Rules, row: dict[str, Any]) -> bool:
    """The independent reading: rule after rule, no match is allowed."""
    for effect, tree in rules:
        if row_matches(tree, row):
            return effect == "allow"
    return True


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(RULES, conditions(1), batches())
def test_the_first_rule_that_matches_decides_what_of_a_filter_is_delivered(
    rules: Rules, asked: t.Expression, batch: pa.RecordBatch
) -> None:
    routed = decision([(effect, compiled(tree)) for effect, tree in rules])
    rows = rows_of(batch, frame_kind(batch))
    want = [allowed(rules, row) for row in rows]
    event(f"denies some: {any(want) and not all(want)}")
    assert delivered(bounded(ViewSpec(), Bounds(routed)), batch) == want
    both = [row_matches(asked, row) and fits for row, fits in zip(rows, want, strict=True)]
    assert delivered(bounded(spec_of(compiled(asked)), Bounds(routed)), batch) == both


@pytest.mark.parametrize(
    ("rules", "want"),
    [
        ([], ""),
        ([("allow", "venue = 'XNAS'")], ""),
        ([("deny", "venue IN ('XETR', 'XFRA')")], "NOT (venue IN ('XETR', 'XFRA'))"),
        (
            [("deny", "venue = 'XETR'"), ("deny", "venue = 'XFRA'")],
            "NOT (venue IN ('XETR', 'XFRA'))",
        ),
        ([("allow", "venue = 'XNAS'"), ("deny", "")], "venue = 'XNAS'"),
        ([("deny", ""), ("allow", "venue = 'XNAS'")], "FALSE"),
        (
            [("allow", "kind = 'bar'"), ("deny", "venue = 'XETR'")],
            "kind = 'bar' OR venue <> 'XETR'",
        ),
        # A trade without a price is not above 100: the rule does not match it.
        ([("deny", "price > 100")], "CASE WHEN price > 100 THEN FALSE ELSE TRUE END"),
        ([("deny", "price IS NULL")], "NOT (price IS NULL)"),
        ([("deny", "lower(venue) = 'xnas'")], "lower(venue) <> 'xnas'"),
    ],
)
def test_rules_make_a_condition_that_the_index_can_use(
    rules: Sequence[tuple[Effect, str]], want: str
) -> None:
    assert decision([(effect, compile_filter(sql)) for effect, sql in rules]).canonical == want


def test_the_sources_of_a_region_are_a_condition_and_so_are_all_others() -> None:
    assert of_sources(["b", "a", "a"], excepted=False).canonical == "source IN ('a', 'b')"
    assert of_sources(["a"], excepted=True).canonical == "source <> 'a'"
    assert of_sources([], excepted=False).canonical == "FALSE"
    assert of_sources([], excepted=True).canonical == ""


def test_turns_are_runs_of_one_effect() -> None:
    assert turns([]) == 0
    assert turns(["deny", "deny", "allow", "deny"]) == 3


DESK = Party("desk", "us", "market-prediction", {"tier": "gold", "floor": "2"})
NOWHERE = Party("other", "", "", {})


@pytest.mark.parametrize(
    ("selector", "desk", "nowhere"),
    [
        (Selector(), True, True),
        (Selector(names=("desk", "x")), True, False),
        (Selector(names_except=("desk",)), False, True),
        (Selector(regions=("us",)), True, False),
        (Selector(regions_except=("eu",)), True, True),
        (Selector(regions_except=("us",)), False, True),
        (Selector(workflows=("market-prediction",), regions=("eu",)), False, False),
        (Selector(workflows_except=("market-prediction",)), False, True),
        (Selector(labels={"tier": "gold"}), True, False),
        (Selector(labels={"tier": "gold", "floor": "3"}), False, False),
    ],
)
def test_a_selector_asks_for_all_that_it_names(
    selector: Selector, *, desk: bool, nowhere: bool
) -> None:
    assert (selector.selects(DESK), selector.selects(NOWHERE)) == (desk, nowhere)


@settings(derandomize=True)
@given(
    st.lists(st.sampled_from(TEXTS), min_size=1).map(tuple),
    st.lists(st.sampled_from(TEXTS), min_size=1).map(tuple),
)
def test_a_selector_that_contradicts_itself_selects_nobody(
    among: tuple[str, ...], without: tuple[str, ...]
) -> None:
    selector = Selector(regions=among, regions_except=without)
    fitting = [name for name in TEXTS if selector.selects(Party("x", name, "", {}))]
    assert (selector.contradiction == "regions") == (not fitting)
