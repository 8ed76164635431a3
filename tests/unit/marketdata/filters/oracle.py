"""A second, independent reading of filters: row by row, in Python, with exact fractions and None.

Shares only the tree's node classes with the code under test. NULL is None.
"""

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from marketdata.filters import tree as t
from marketdata.schemas import COLUMNS

FLOATS = {"quality"}


def row_matches(node: t.Expression, row: dict[str, Any]) -> bool:
    return evaluate(node, row) is True


def evaluate(node: t.Expression, row: dict[str, Any]) -> Any:
    """Value of a tree on one event; numbers are Fraction or float, times int, texts str."""
    match node:
        case t.Column(name):
            return row.get(name)
        case t.Text(value) | t.Truth(value):
            return value
        case t.Number(value):
            return Fraction(value)
        case t.Time(ns):
            return ns
        case t.Null():
            return None
        case t.Negative(x):
            value = evaluate(x, row)
            return None if value is None else -value
        case t.Arithmetic(op, left, right):
            return arithmetic(op, evaluate(left, row), evaluate(right, row))
        case t.Function(name, arguments):
            return function(name, [evaluate(a, row) for a in arguments])
        case t.Round(x, digits):
            value = evaluate(x, row)
            return rounded(float(value) if value is not None and is_float(x) else value, digits)
        case t.Case(whens, otherwise):
            for when in whens:
                if evaluate(when.condition, row) is True:
                    return evaluate(when.result, row)
            return evaluate(otherwise, row)
        case t.Compare(op, left, right):
            a, b = evaluate(left, row), evaluate(right, row)
            return compare(op, beside(a, left, right), beside(b, right, left))
        case t.In(x, values):
            value = evaluate(x, row)
            found = [compare("=", value, beside(evaluate(v, row), v, x)) for v in values]
            return None if value is None else any(found)
        case t.Like(x, pattern, escape):
            text = evaluate(x, row)
            return None if text is None else like(text, pattern, escape)
        case t.IsNull(x):
            return evaluate(x, row) is None
        case t.Not(x):
            value = evaluate(x, row)
            return None if value is None else not value
        case t.And(operands):
            values = [evaluate(o, row) for o in operands]
            return False if False in values else None if None in values else True
        case t.Or(operands):
            values = [evaluate(o, row) for o in operands]
            return True if True in values else None if None in values else False
    raise AssertionError(node)


def beside(value: Any, node: t.Expression, other: t.Expression) -> Any:
    """A literal beside a float column takes the column's precision."""
    if isinstance(node, t.Number) and isinstance(other, t.Column) and other.name in FLOATS:
        return float(np.float32(float(value)))
    return value


def compare(op: str, a: Any, b: Any) -> bool | None:
    if a is None or b is None:
        return None
    if isinstance(a, float) or isinstance(b, float):
        a, b = float(a), float(b)
    order = (a > b) - (a < b)
    return {
        "=": order == 0,
        "<>": order != 0,
        "<": order < 0,
        "<=": order <= 0,
        ">": order > 0,
        ">=": order >= 0,
    }[op]


def arithmetic(op: str, a: Any, b: Any) -> Any:
    if a is None or b is None:
        return None
    if op == "/" or isinstance(a, float) or isinstance(b, float):
        with np.errstate(all="ignore"):
            x, y = np.float64(float(a)), np.float64(float(b))
            value = {
                "+": np.add,
                "-": np.subtract,
                "*": np.multiply,
                "/": np.divide,
                "%": np.fmod,
            }[op](x, y)
        return float(value) if np.isfinite(value) else None
    if op == "%":
        if b == 0:
            return None
        rest = abs(a) % abs(b)
        return -rest if a < 0 else rest
    return {"+": a + b, "-": a - b, "*": a * b}[op]


def is_float(node: t.Expression) -> bool:
    """Whether an expression is computed in doubles, on every event."""
    match node:
        case t.Column(name):
            return name in FLOATS
        case t.Round():
            return False
        case t.Case(whens, otherwise):
            return any(map(is_float, (*(when.result for when in whens), otherwise)))
        case _:
            divided = isinstance(node, t.Arithmetic) and node.op == "/"
            return divided or any(map(is_float, t.children(node)))


def rounded(value: Any, digits: int) -> Any:
    if isinstance(value, float):
        scaled = value * 10.0**digits
        return Fraction(round(scaled), 10**digits) if math.isfinite(scaled) else None
    return None if value is None else round(value, digits)  # half-even


def function(name: str, arguments: list[Any]) -> Any:
    if name == "coalesce":
        return next((a for a in arguments if a is not None), None)
    (x,) = arguments
    if x is None:
        return None
    return {"abs": abs, "lower": str.lower, "upper": str.upper}[name](x)


def like(text: str, pattern: str, escape: str) -> bool:
    body, i = "", 0
    while i < len(pattern):
        if escape and pattern[i] == escape:
            i += 1
            body += re.escape(pattern[i])
        else:
            body += {"%": ".*", "_": "."}.get(pattern[i], re.escape(pattern[i]))
        i += 1
    return re.fullmatch(body, text, re.DOTALL) is not None


def rows_of(batch: Any, kind: str) -> list[dict[str, Any]]:
    """Events as dicts in the units that filters use."""
    rows: list[dict[str, Any]] = [{"kind": kind} for _ in range(batch.num_rows)]
    for field, column in zip(batch.schema, batch.columns, strict=True):
        unit = (COLUMNS[field.name].metadata or {}).get(b"unit")
        for row, scalar in zip(rows, column, strict=True):
            value = scalar.value if pa.types.is_timestamp(field.type) else scalar.as_py()
            if value is not None and not isinstance(value, str | float):
                scale = {b"price": 9, b"size": 8, None: 0}[unit]
                if not pa.types.is_timestamp(field.type):
                    value = Fraction(value, 10**scale)
            if isinstance(value, float) and math.isnan(value):
                value = None  # NaN is NULL
            row[field.name] = value
    return rows
