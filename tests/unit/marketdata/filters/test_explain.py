"""Explanations: every part has the value that the filter gives it, and what that was made of."""

import pyarrow as pa
import pytest
from events import trades
from hypothesis import assume, given
from oracle import evaluate, rows_of
from strategies import batches, conditions

from marketdata.filters import FilterError, UnknownSet, compile_filter
from marketdata.filters import tree as t
from marketdata.filters.explain import Part
from marketdata.filters.filter import compile_tree
from marketdata.filters.parse import parse
from marketdata.frames import frame_kind


@given(conditions(2), batches())
def test_every_part_has_the_value_that_the_oracle_gives_it(
    tree: t.Expression, batch: pa.RecordBatch
) -> None:
    try:
        found = compile_tree(tree)
    except FilterError:
        assume(False)
    assume(batch.num_rows and found.canonical)
    (row,) = rows_of(batch.slice(0, 1), frame_kind(batch))
    whole = found.explain(batch.slice(0, 1))
    assert whole.value == evaluate(tree, row)
    assert (whole.value is True) == bool(found.mask(batch)[0])
    waiting = [whole]
    while waiting:
        part = waiting.pop()
        waiting += part.parts
        written = parse(part.sql).tree
        assert written is not None
        assert part.value == evaluate(written, row)
        for name, value in part.columns.items():
            assert (value is None) == (row.get(name) is None)


def test_the_parts_name_what_the_event_had() -> None:
    batch = trades(["AAPL"], price=[187_250_000_000], side=[None])
    found = compile_filter(
        "instrument IN SET 'mine' AND NOT (price > 200 OR side = 'buy') AND bid_price > 1"
        " OR kind = 'trade' AND quality > 0.5 AND ts_event > TIMESTAMP '2020-01-01'"
    )
    whole = found.explain(batch, sets={"mine": ["AAPL"]})
    leaves: dict[str, Part] = {}
    waiting = [whole]
    while waiting:
        part = waiting.pop()
        waiting += part.parts
        if not part.parts:
            leaves[part.sql] = part
    assert whole.value is True
    assert leaves["instrument IN SET 'mine'"].value is True
    assert leaves["instrument IN SET 'mine'"].columns == {"instrument": "AAPL"}
    assert leaves["price <= 200"].columns == {"price": "187.250000000"}
    assert leaves["side <> 'buy'"].value is None
    assert leaves["bid_price > 1"].columns == {"bid_price": None}
    assert leaves["kind = 'trade'"].columns == {"kind": "trade"}
    assert leaves["quality > 0.5"].columns == {"quality": "1.0"}
    (time,) = leaves["ts_event > TIMESTAMP '2020-01-01T00:00:00.000000000Z'"].columns.values()
    assert time == "2023-11-14T22:13:20.000000000Z"
    with pytest.raises(UnknownSet):
        found.explain(batch)


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("{} / 2 > 1", [None, None, True]),
        ("1 / ({}) < 1", [True, True, True]),
        ("abs({} / 2) > 1 OR price > 0", [True, None, True]),
        ("round({} / 3, 2) * 1.5 > price / 2", [None, None, True]),
        ("{} > price / 2", [True, False, True]),
        ("coalesce({}, price / 2) > 1", [True, False, True]),
        ("CASE WHEN true THEN {} ELSE price / 2 END < 0", [False, True, False]),
    ],
)
def test_numbers_beyond_all_doubles_fail_no_filter(
    template: str, values: list[bool | None]
) -> None:
    # Odd powers: a price of all digits gives more than 10^308, with either sign.
    batch = trades(["A", "B", "C"], price=[2**63 - 1, -(2**63) + 1, 2_000_000_000])
    found = compile_filter(template.format(" * ".join(["price"] * 31)))
    assert found.mask(batch).tolist() == [value is True for value in values]
    assert [found.explain(batch.slice(row, 1)).value for row in range(3)] == values
