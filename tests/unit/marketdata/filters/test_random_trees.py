"""Thousands of seeded random conditions against the oracle, deep in arithmetic, CASE and text.

Hypothesis (`test_properties`) looks for small counterexamples; this reaches every kernel in every
combination, on batches where columns exist and values lie close to each other.
"""

import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from oracle import row_matches, rows_of
from strategies import HUGE, NUMBERS, TEXTS, TIMES, column_of

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
from marketdata.schemas import SEQUENCED_SCHEMAS

ROWS = 12
STORED = [0, 1, -1, 500_000_000, -(10**9), 10**8, 187_250_000_000, 2**62, 2**63 - 1, -(2**63)]
PLAIN = [0, 10**9, -(10**9), 3 * 10**8, 187_250_000_000, 25 * 10**7, 7 * 10**9]


def batch_of(rng: random.Random, kind: str) -> pa.RecordBatch:
    stored = PLAIN if rng.random() < 0.5 else STORED
    columns = []
    for field in SEQUENCED_SCHEMAS[kind]:
        if pa.types.is_dictionary(field.type) or pa.types.is_string(field.type):
            some: list[object] = list(TEXTS)
        elif pa.types.is_timestamp(field.type):
            some = list(TIMES)
        elif pa.types.is_floating(field.type):
            some = [0.0, 0.5, 0.25, 1.0, 0.9, float("nan")]
        elif pa.types.is_unsigned_integer(field.type):
            some = [0, 1, 2, 3, 2**field.type.bit_width - 1]
        else:
            some = list(stored)
        if field.nullable:
            some += [None] * 2
        columns.append(column_of(field, rng.choices(some, k=ROWS)))
    return pa.RecordBatch.from_arrays(columns, schema=SEQUENCED_SCHEMAS[kind])


class Trees:
    """Random type-correct trees over one kind's columns and a few of others."""

    def __init__(self, rng: random.Random, kind: str) -> None:
        self.rng = rng
        self.columns = {
            "trade": (["price", "size", "sequence"], ["instrument", "side", "trade_id"]),
            "quote": (["bid_price", "ask_price", "bid_size"], ["instrument", "region"]),
            "book": (["price", "size", "level", "order_id"], ["action", "side", "venue"]),
        }[kind]

    def number(self, depth: int) -> t.Expression:
        rng = self.rng
        if depth <= 0 or rng.random() < 0.2:
            if rng.random() < 0.65:
                return t.Column(rng.choice([*self.columns[0], "vwap", "quality_flags"]))
            return t.Number(str(rng.choice([*NUMBERS, *HUGE[:2], "3", "0.3", "25"])))
        one, other = self.number(depth - 1), self.number(depth - 1)
        match rng.randrange(8):
            case 0 | 1 | 2:
                op = rng.choice(["+", "-", "*", "/", "%"])
                if rng.random() < 0.15:
                    other = t.Column("quality")
                return t.Arithmetic(op, one, other)
            case 3:
                return t.Negative(one)
            case 4:
                return t.Function("abs", (one,))
            case 5:
                return t.Function("coalesce", (one, other))
            case 6:
                return t.Round(one, rng.choice([0, 2, 8, 9]))
            case _:
                last = t.Null() if rng.random() < 0.5 else other
                return t.Case((t.When(self.condition(depth - 1), one),), last)

    def text(self, depth: int) -> t.Expression:
        rng = self.rng
        if depth <= 0 or rng.random() < 0.3:
            if rng.random() < 0.7:
                return t.Column(rng.choice([*self.columns[1], "status"]))
            return t.Text(rng.choice(TEXTS))
        one, other = self.text(depth - 1), self.text(depth - 1)
        match rng.randrange(4):
            case 0 | 1:
                return t.Function(rng.choice(["lower", "upper"]), (one,))
            case 2:
                return t.Function("coalesce", (one, other))
            case _:
                last = t.Null() if rng.random() < 0.5 else other
                return t.Case((t.When(self.condition(depth - 1), one),), last)

    def condition(self, depth: int) -> t.Expression:
        rng = self.rng
        op = rng.choice(["=", "<>", "<", "<=", ">", ">="])
        match rng.randrange(6 if depth <= 0 else 13):
            case 0:
                return t.Compare(op, self.number(depth), self.number(depth))
            case 1:
                return t.Compare(op, self.text(depth), self.text(depth))
            case 2:
                values = rng.sample(NUMBERS, 3)
                return t.In(self.number(depth), tuple(map(t.Number, values)))
            case 3:
                return t.In(self.text(depth), tuple(map(t.Text, rng.sample(TEXTS, 4))))
            case 4:
                return t.Like(self.text(depth), rng.choice(["a%", "%l", "_b", "A!%%", "%"]), "!")
            case 5:
                return t.Compare(op, t.Column("ts_event"), t.Time(rng.choice(TIMES)))
            case 6 | 7:
                return t.And((self.condition(depth - 1), self.condition(depth - 1)))
            case 8:
                return t.Or((self.condition(depth - 1), self.condition(depth - 1)))
            case 9:
                return t.Not(self.condition(depth - 1))
            case 10:
                operand = rng.choice([self.number, self.text, self.condition])(depth - 1)
                return t.IsNull(operand)
            case 11:
                one, other = self.condition(depth - 1), self.condition(depth - 1)
                return t.Compare(rng.choice(["=", "<>"]), one, other)
            case _:
                one, other = self.condition(depth - 1), self.condition(depth - 1)
                if rng.random() < 0.5:
                    return t.Function("coalesce", (one, other))
                return t.Case((t.When(self.condition(depth - 1), one),), other)


@pytest.mark.parametrize("kind", ["trade", "quote", "book"])
@pytest.mark.parametrize("seed", range(4))
def test_masks_are_what_the_oracle_says(seed: int, kind: str) -> None:
    rng = random.Random(f"{seed}/{kind}")
    trees = Trees(rng, kind)
    seen: Counter[str] = Counter()
    for _ in range(150):
        tree = trees.condition(3)
        batch = batch_of(rng, kind)
        want = [row_matches(tree, row) for row in rows_of(batch, kind)]
        try:
            found = compile_tree(tree)
        except FilterNeverTrue:
            assert not any(want), t.to_sql(tree)
            seen["never"] += 1
            continue
        except FilterTypeError:
            continue
        assert found.mask(batch).tolist() == want, t.to_sql(tree)
        assert compile_filter(found.canonical) == found
        seen["all" if all(want) else "some" if any(want) else "none"] += 1
    assert seen["some"] > 30


@pytest.mark.parametrize("seed", range(6))
def test_index_gives_every_view_what_its_mask_gives(seed: int) -> None:
    rng = random.Random(seed)
    kind = rng.choice(["trade", "quote", "book"])
    trees, batch = Trees(rng, kind), batch_of(rng, kind)
    filters: dict[str, Filter] = {}
    for i in range(60):
        leading = t.In(t.Column("instrument"), tuple(map(t.Text, rng.sample(TEXTS, 3))))
        parts = (leading, trees.condition(2), trees.condition(0))[: rng.randint(1, 3)]
        try:
            filters[str(i)] = compile_tree(t.And(parts) if i % 3 else trees.condition(2))
        except FilterError:
            continue
    found = dict(FilterIndex(filters).match(batch))
    for view_id, one in filters.items():
        mask = one.mask(batch)
        got = found.get(view_id, np.zeros(ROWS, np.bool_))
        assert (np.ones(ROWS, np.bool_) if got is None else got).tolist() == mask.tolist()
    assert len(found) > 5
