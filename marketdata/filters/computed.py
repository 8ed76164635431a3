"""Computed columns: the expressions of filters as columns of a delivered frame.

Exact are `+ - * %`, abs, round, CASE and coalesce over prices, sizes, integers and literals, and a
division by a literal whose reciprocal is a finite decimal: `x / 2` is `x * 0.5` here. Every other
division, and whatever involves `quality`, is computed in doubles as in filters.

A number is delivered as int64 with a stated number of digits behind the point: as many as the exact
result may have, at most nine, to which it is rounded half-even; `round(x, n)` as the outermost
function says n. What int64 cannot hold is NULL, as is a division by zero: nothing is raised while
events flow. Texts are strings, times timestamps.
"""

from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.arrays import array_of
from marketdata.filters import numbers
from marketdata.filters.columns import FrameColumns, Texts
from marketdata.filters.cost import check_cost
from marketdata.filters.errors import FilterError, FilterTooComplex, FilterTypeError
from marketdata.filters.evaluate import values
from marketdata.filters.literals import EXACT, MAX_DIGITS, number
from marketdata.filters.normalize import normalize_value
from marketdata.filters.sets import sets_of
from marketdata.filters.tree import (
    Arithmetic,
    Case,
    Column,
    Expression,
    Local,
    Null,
    Number,
    Reference,
    References,
    Round,
    children,
    to_sql,
    walk,
)
from marketdata.filters.typecheck import MAX_ROUND_DIGITS, Type, result_type, type_of
from marketdata.schemas import COLUMNS, TIMESTAMP, decimal_field, decimal_scale, declared_digits

MAX_CHARACTERS: Final = 4_000
"""Longest text of an expression."""

_INSTEAD: Final = {
    Type.NULL: "to deliver a column without its values, name it in mask",
    Type.TRUTH: "write CASE WHEN … THEN 1 ELSE 0 END",
    Type.TIME_OF_DAY: "deliver the time itself, or compare the time of day in a CASE",
}


@lru_cache(maxsize=1024)
def compile_computed(sql: str, references: References = ()) -> Expression:
    """The normal tree of an expression; the SQL of the tree compiles to the same tree.

    Args:
        sql: over the columns of events, and of `references`.
        references: columns that come from reference tables: name and type.

    Raises:
        FilterError: with `position`, `line`, `column` and `hint`.
    """
    # As for filters: only who takes SQL pays for the SQL parser.
    from marketdata.filters.parse import check_limits, parse_value  # noqa: PLC0415

    try:
        if len(sql) > MAX_CHARACTERS:
            raise FilterTooComplex(f"the text has more than {MAX_CHARACTERS} characters")
        parsed = parse_value(sql, references)
        if parsed.tree is None:
            raise FilterTypeError("the text holds no expression", hint="write (a + b) / 2")
        found = compile_tree(parsed.tree)
        check_limits(to_sql(found))
    except FilterError as error:
        error.locate(sql, 0)
        raise
    return found


def compile_tree(tree: Expression) -> Expression:
    """The normal form of an expression, rounded where its result would have too many digits.

    Args:
        tree: any tree, normal or not.

    Raises:
        FilterError: it does not type-check, or gives nothing that can be delivered.
    """
    given = type_of(tree)
    if given in _INSTEAD:
        raise FilterTypeError(
            f"{to_sql(tree)} is a {given}, which cannot be delivered", hint=_INSTEAD[given]
        )
    if sets_of(tree):
        raise FilterTypeError(
            "IN SET stands in filters only", hint="list the instruments: IN ('AAPL', 'MSFT')"
        )
    normal = normalize_value(tree)
    # Divisors become literals by folding, and by exact divisions: x / (2 / (1 + 1)).
    while (divided := normalize_value(_exactly_divided(normal))) != normal:
        normal = divided
    given = type_of(normal)
    for part in walk(normal):
        if isinstance(part, Arithmetic) and result_type(part) is Type.NUMBER:
            _digits(part)
    check_cost(normal)
    if given is Type.FLOAT or (given is Type.NUMBER and _digits(normal) > MAX_ROUND_DIGITS):
        return Round(normal, MAX_ROUND_DIGITS)
    return normal


def computed_field(name: str, tree: Expression) -> pa.Field:
    """The column of a compiled expression: nullable utf8, timestamp[ns, UTC] or int64.

    Numbers say in their metadata how many digits stand behind the point (`decimal_scale`).
    """
    match result_type(tree):
        case Type.TEXT:
            return pa.field(name, pa.utf8())
        case Type.TIME:
            return pa.field(name, TIMESTAMP)
        case _:
            return decimal_field(name, _digits(tree))


def computed_column(tree: Expression, events: FrameColumns) -> pa.Array:
    """The values of a compiled expression, one a row, of the type of `computed_field`.

    Columns that the events lack are NULL.
    """
    found = values(tree, events)
    if isinstance(found, Texts):
        return _texts(found)
    is_time = result_type(tree) is Type.TIME
    stored, null = numbers.stored(found, 0 if is_time else _digits(tree), events.rows)
    return array_of(stored, TIMESTAMP if is_time else pa.int64(), null)


def _texts(found: Texts) -> pa.StringArray:
    table = pa.concat_arrays([found.values, pa.nulls(1, pa.utf8())])
    rows = np.where(found.codes < 0, len(found.values), found.codes).astype(np.int64)
    return pc.take(table, array_of(rows, pa.int64()), boundscheck=False)


def _exactly_divided(value: Any) -> Any:
    """The tree with exact divisions by literals as multiplications."""
    match value:
        case Arithmetic("/", left, Number() as divisor):
            left = _exactly_divided(left)
            exact = result_type(left) is Type.NUMBER and _reciprocal(divisor)
            return Arithmetic("*", left, exact) if exact else Arithmetic("/", left, divisor)
        case tuple():
            return tuple(_exactly_divided(part) for part in value)
        case msgspec.Struct():
            parts = (getattr(value, name) for name in value.__struct_fields__)
            return type(value)(*(_exactly_divided(part) for part in parts))
        case _:
            return value


def _reciprocal(divisor: Number) -> Number | None:
    """1 / divisor, where that is a decimal that a literal can hold."""
    numerator, denominator = divisor.decimal.as_integer_ratio()
    rest = abs(numerator)
    for prime in (2, 5):
        while rest and rest % prime == 0:
            rest //= prime
    if rest != 1:
        return None
    try:
        return number(EXACT.divide(denominator, numerator))
    except FilterTooComplex:
        return None


def _digits(node: Expression) -> int:  # noqa: PLR0911 - a case per node
    """Most digits behind the point of an exact number.

    Raises:
        FilterTooComplex: without a position; more than a literal may have.
    """
    match node:
        case Null() | Local():
            return 0
        case Column(name):
            return decimal_scale(COLUMNS[name]) or 0
        case Reference(_, declared):
            return declared_digits(declared) or 0
        case Number():
            return max(0, -int(node.decimal.as_tuple().exponent))
        case Round(_, digits):
            return digits
        case Arithmetic("*", left, right):
            digits = _digits(left) + _digits(right)
            if digits > MAX_DIGITS:
                raise FilterTooComplex(
                    f"a product has more than {MAX_DIGITS} digits behind the point",
                    hint="round its factors: round(price * size, 2) * …",
                )
            return digits
        case Case(whens, otherwise):
            return max(_digits(result) for result in (*(w.result for w in whens), otherwise))
        case _:
            return max(map(_digits, children(node)))
