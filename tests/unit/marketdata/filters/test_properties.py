"""What filters promise, on generated conditions and batches, against the oracle."""

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, assume, event, given, settings
from oracle import row_matches, rows_of
from strategies import batches, conditions

from marketdata.filters import (
    Filter,
    FilterError,
    FilterNeverTrue,
    FilterTypeError,
    compile_filter,
)
from marketdata.filters import tree as t
from marketdata.filters.filter import compile_tree
from marketdata.filters.index import FilterIndex
from marketdata.filters.parse import parse
from marketdata.frames import frame_kind

THOROUGH = settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def expected(tree: t.Expression, batch: pa.RecordBatch) -> list[bool]:
    return [row_matches(tree, row) for row in rows_of(batch, frame_kind(batch))]


@THOROUGH
@given(conditions(2), batches())
def test_mask_is_what_the_oracle_says_row_by_row(tree: t.Expression, batch: pa.RecordBatch) -> None:
    want = expected(tree, batch)
    try:
        found = compile_tree(tree)
    except FilterNeverTrue:
        event("never true")
        assert not any(want)
        return
    except FilterTypeError:  # a text that folds to no kind's name
        assume(False)
    mask = found.mask(batch)
    event(f"matches: {mask.any()}")
    assert mask.dtype == np.bool_
    assert mask.tolist() == want


@THOROUGH
@given(conditions(2))
def test_canonical_form_and_json_give_the_same_filter(tree: t.Expression) -> None:
    try:
        found = compile_tree(tree)
    except FilterError:
        assume(False)
    again = compile_filter(found.canonical)
    assert again.canonical == found.canonical
    assert again == found
    assert Filter.from_json(found.to_json()) == found


@THOROUGH
@given(conditions(2), batches())
def test_text_of_any_tree_parses_to_a_filter_with_the_same_meaning(
    tree: t.Expression, batch: pa.RecordBatch
) -> None:
    parsed = parse(t.to_sql(tree)).tree
    assert parsed is not None
    assert expected(parsed, batch) == expected(tree, batch)


@THOROUGH
@given(conditions(1), conditions(1), batches())
def test_index_gives_every_view_what_its_filter_gives(
    one: t.Expression, other: t.Expression, batch: pa.RecordBatch
) -> None:
    leading = t.In(t.Column("instrument"), (t.Text("AAPL"), t.Text("MSFT"), t.Text("ß")))
    price = t.Compare(">", t.Column("price"), t.Number("0.5"))
    venue = t.Compare("=", t.Column("venue"), t.Text("AAPL"))
    trees = (one, other, leading, t.And((leading, price)), t.And((leading, venue)))
    trees += (t.And((leading, one)), t.And((venue, other, price)), t.Truth(True), price)
    filters: dict[str, Filter] = {}
    for i, tree in enumerate(trees):
        try:
            filters[str(i)] = compile_tree(tree)
        except FilterError:
            continue
    found = dict(FilterIndex(filters).match(batch))
    for view_id, one_filter in filters.items():
        mask = one_filter.mask(batch)
        if view_id not in found:
            assert not mask.any()
        else:
            got = found[view_id]
            assert (np.ones(batch.num_rows, bool) if got is None else got).tolist() == mask.tolist()
