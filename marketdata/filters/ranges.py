"""Whether terms joined by AND exclude each other: one value cannot meet them all.

Only terms that compare one value with literals are weighed, value by value: the interval that
orderings leave, the set that equalities leave, what inequalities take out, and whether NULL is
asked for. Columns are weighed in their stored integers, so a gap finer than a price's last digit
counts as empty, and so does what lies outside the column's type.
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Any, Final

import numpy as np
import pyarrow as pa

from marketdata.filters.normalize import literal_value
from marketdata.filters.tree import (
    Column,
    Compare,
    Expression,
    In,
    IsNull,
    Like,
    Literals,
    Local,
    Not,
)
from marketdata.filters.typecheck import Type, result_type
from marketdata.filters.zones import DAY_NS
from marketdata.schemas import COLUMNS, decimal_scale

Conflict = tuple[Expression, Expression]

_MOST: Final = 2**63 - 1


class _Range:
    """What one value may still be, and the term that last narrowed each end."""

    def __init__(self) -> None:
        self.low: tuple[Any, bool, Expression] | None = None
        self.high: tuple[Any, bool, Expression] | None = None
        self.allowed: tuple[set[Any], Expression] | None = None
        self.excluded: dict[Any, Expression] = {}
        self.is_null: Expression | None = None
        self.not_null: Expression | None = None

    def conflict(self) -> Conflict | None:
        if self.is_null is not None and self.not_null is not None:
            return self.is_null, self.not_null
        if self.low and self.high:
            (low, low_open, first), (high, high_open, second) = self.low, self.high
            if low > high or (low == high and (low_open or high_open or low in self.excluded)):
                return first, second
        if self.allowed is not None:
            return self._emptied(*self.allowed)
        return None

    def _emptied(self, allowed: set[Any], term: Expression) -> Conflict | None:
        culprit = term
        for value in allowed:
            if value in self.excluded:
                culprit = self.excluded[value]
            elif self.low and (value < self.low[0] or (value == self.low[0] and self.low[1])):
                culprit = self.low[2]
            elif self.high and (value > self.high[0] or (value == self.high[0] and self.high[1])):
                culprit = self.high[2]
            else:
                return None
        return term, culprit

    def narrow_low(self, value: Any, term: Expression, *, is_open: bool) -> None:
        if self.low is None or (value, is_open) > self.low[:2]:
            self.low = (value, is_open, term)

    def narrow_high(self, value: Any, term: Expression, *, is_open: bool) -> None:
        if self.high is None or (value, not is_open) < (self.high[0], not self.high[1]):
            self.high = (value, is_open, term)

    def narrow_allowed(self, values: set[Any], term: Expression) -> Conflict | None:
        if self.allowed is None:
            self.allowed = (values, term)
            return None
        common, earlier = self.allowed[0] & values, self.allowed[1]
        self.allowed = (common, term)
        return (earlier, term) if not common else None


def contradiction(parts: Iterable[Expression]) -> Conflict | None:
    """Two of the parts that exclude each other (one part twice if it excludes itself)."""
    ranges: dict[Expression, _Range] = {}
    seen: set[Expression] = set()
    for part in parts:
        opposite = part.operand if isinstance(part, Not) else Not(part)
        if opposite in seen:
            return opposite, part
        seen.add(part)
        found = _weigh(part, ranges)
        if found is not None:
            return found
    for one in ranges.values():
        found = one.conflict()
        if found is not None:
            return found
    return None


def _weigh(part: Expression, ranges: dict[Expression, _Range]) -> Conflict | None:
    term = part.operand if isinstance(part, Not) else part
    match term:
        case Compare(op, left, right) if left == right and op in ("<>", "<", ">"):
            return part, part
        case Compare(op, left, right):
            if isinstance(right, Literals):
                return _weigh_comparison(op, left, literal_value(right), part, ranges)
            for side in (left, right):
                _range_of(side, ranges).not_null = part
        case In(operand, values):
            one = _range_of(operand, ranges)
            one.not_null = part
            scaled = _scaling(operand)
            stored = (scaled(literal_value(value)) for value in values)
            exact = {value for value in stored if _fits(value, operand)}
            if isinstance(part, Not):
                one.excluded |= dict.fromkeys(exact, part)
                return None
            return (part, part) if not exact else one.narrow_allowed(exact, part)
        case Like(operand):
            _range_of(operand, ranges).not_null = part
        case IsNull(operand):
            one = _range_of(operand, ranges)
            if isinstance(part, Not):
                one.not_null = part
            else:
                one.is_null = part
        case _:
            pass
    return None


def _weigh_comparison(
    op: str, operand: Expression, value: Any, part: Expression, ranges: dict[Expression, _Range]
) -> Conflict | None:
    one = _range_of(operand, ranges)
    one.not_null = part
    scaled = _scaling(operand)(value)
    fits = _fits(scaled, operand)
    domain = _domain(operand)
    match op:
        case "=":
            return (part, part) if not fits else one.narrow_allowed({scaled}, part)
        case "<>":
            one.excluded |= {scaled: part} if fits else {}
        case "<" | "<=" if domain:
            top = ceil(scaled) - 1 if op == "<" else floor(scaled)
            if top < domain[0]:
                return part, part
            one.narrow_high(top, part, is_open=False)
        case ">" | ">=" if domain:
            bottom = floor(scaled) + 1 if op == ">" else ceil(scaled)
            if bottom > domain[1]:
                return part, part
            one.narrow_low(bottom, part, is_open=False)
        case "<" | "<=":
            one.narrow_high(scaled, part, is_open=op == "<")
        case _:
            one.narrow_low(scaled, part, is_open=op == ">")
    return None


def _range_of(operand: Expression, ranges: dict[Expression, _Range]) -> _Range:
    return ranges.setdefault(operand, _Range())


def _domain(operand: Expression) -> tuple[int, int] | None:
    """Least and greatest integer of what is stored as integers, or counted in them."""
    if isinstance(operand, Local):
        return (0, DAY_NS - 1) if operand.part == "time" else (1, 7)
    if not isinstance(operand, Column) or operand.name == "kind":
        return None
    kind = COLUMNS[operand.name].type
    if pa.types.is_timestamp(kind):
        return -_MOST, _MOST
    if not pa.types.is_integer(kind):
        return None
    limits = np.iinfo(kind.to_pandas_dtype())
    return int(limits.min), int(limits.max)


def _fits(value: Any, operand: Expression) -> bool:
    domain = _domain(operand)
    if domain is None:
        return True
    return bool(domain[0] <= value <= domain[1] and value == int(value))


def _scaling(operand: Expression) -> Callable[[Any], Any]:
    """How a literal becomes what a column stores; for other values it stays as it is."""
    if not isinstance(operand, Column) or operand.name == "kind":
        exact = result_type(operand) is not Type.FLOAT
        return lambda value: (
            (Fraction(value) if exact else float(value)) if isinstance(value, Decimal) else value
        )
    field = COLUMNS[operand.name]
    if pa.types.is_floating(field.type):
        rounded = field.type.to_pandas_dtype()
        return lambda value: float(rounded(float(value)))
    scale = 10 ** (decimal_scale(field) or 0)
    return lambda value: Fraction(value) * scale if isinstance(value, Decimal) else value
