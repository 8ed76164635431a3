"""Arithmetic and comparison of columns of exact numbers, and of floats.

`+ - * %`, abs and minus are exact: int64 while the results surely fit, Python integers where they
may not. Products that would overflow first drop the trailing zeros that all their values share
(real prices and sizes use few of their digits), so notional values mostly stay in int64 too.
`/` and whatever has a float operand is computed in doubles, each exact number first rounded to the
nearest double, or to infinity beyond all of them. Division by zero, and any result that is not
finite, is NULL: filters never fail.
"""

import operator
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor, inf
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from marketdata.filters.columns import Mask, Numbers
from marketdata.filters.tree import ArithmeticOp, CompareOp

_MOST: Final = 2**63 - 1
_EXACT_DOUBLE: Final = 2**53
_EXACT_POWER: Final = 22  # the greatest power of ten that a double holds exactly
_COMPARE: Final[dict[CompareOp, Callable[[Any, Any], Any]]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def constant(value: Decimal | int) -> Numbers:
    """A literal as a column of one row, to be broadcast."""
    if isinstance(value, int):
        return Numbers(_integers([value]), 0, None)
    scale = max(-int(value.as_tuple().exponent), 0)
    return Numbers(_integers([int(Fraction(value) * 10**scale)]), scale, None)


def negate(x: Numbers) -> Numbers:
    """-x."""
    return Numbers(-_roomy(x.values), x.scale, x.null)


def absolute(x: Numbers) -> Numbers:
    """|x|."""
    return Numbers(np.abs(_roomy(x.values)), x.scale, x.null)


def rounded(x: Numbers, digits: int) -> Numbers:
    """The nearest numbers of so many digits behind the point, of two the even one; exact.

    Of doubles the product with 10^digits is rounded; where that is not finite the result is NULL.
    """
    if x.scale is None:
        return _fixed(x, digits)
    if x.scale <= digits:
        return x
    unit = 10 ** (x.scale - digits)
    values = x.values if unit <= _MOST // 2 else x.values.astype(object)
    whole = values // unit
    twice = 2 * (values - whole * unit)
    up = (twice > unit) | ((twice == unit) & (whole % 2 == 1))
    return Numbers(whole + up, digits, x.null)


def stored(
    x: Numbers, scale: int, rows: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]:
    """Exact numbers of at most so many digits behind the point as int64 in units of 10^-scale.

    Returns:
        `rows` values, and where they are NULL (None: nowhere): what int64 cannot hold is.
    """
    values, null = _scaled(x.values, scale - (x.scale or 0)), x.null
    if values.dtype != np.int64:
        over = ((values < -_MOST - 1) | (values > _MOST)).astype(np.bool_)
        null = either_null(null, over)
        values = np.where(over, 0, values).astype(np.int64)
    values = np.ascontiguousarray(np.broadcast_to(values, (rows,)))
    return values, None if null is None else np.broadcast_to(null, (rows,))


def combine(op: ArithmeticOp, x: Numbers, y: Numbers) -> Numbers:
    """Compute x op y, row by row; rows of one are broadcast."""
    null = either_null(x.null, y.null)
    if op == "/" or x.scale is None or y.scale is None:
        return _finite(op, as_floats(x), as_floats(y), null)
    if op == "*":
        return _multiply(x, y, null)
    a, b, scale = _aligned(x, y)
    if op == "%":
        zero = b == 0
        if zero.any():
            b = np.where(zero, 1, b)
            null = either_null(null, np.broadcast_to(zero, np.broadcast_shapes(a.shape, b.shape)))
        a, b = _roomy(a), _roomy(b)
        # Python's remainder of integers has the sign of the divisor, SQL's that of the dividend.
        rest = np.abs(a) % np.abs(b)
        return Numbers(np.where(a < 0, -rest, rest), scale, null)
    if _peak(a) + _peak(b) > _MOST:
        a, b = a.astype(object), b.astype(object)
    return Numbers(a + b if op == "+" else a - b, scale, null)


def compare(op: CompareOp, x: Numbers, y: Numbers) -> Mask:
    """Where x op y is TRUE; rows of one are broadcast."""
    if x.scale is None or y.scale is None:
        found = _COMPARE[op](as_floats(x), as_floats(y))
    else:
        a, b, _ = _aligned(x, y)
        found = _COMPARE[op](a, b)
    return _not_null(found.astype(np.bool_, copy=False), either_null(x.null, y.null))


def compare_literal(op: CompareOp, x: Numbers, literal: Decimal | float) -> Mask:
    """Where x op literal is TRUE. A float literal has been rounded as the column demands."""
    if x.scale is None:
        return _not_null(_COMPARE[op](x.values, float(literal)), x.null)
    op, bound = threshold(op, Fraction(literal) * 10**x.scale)
    if x.values.dtype == np.int64 and not -_MOST - 1 <= bound <= _MOST:
        # Beyond every int64: the answer is the same as for 0 against the bound.
        same = bool(_COMPARE[op](0, bound))
        return _not_null(np.full(x.values.shape, same, np.bool_), x.null)
    found = _COMPARE[op](x.values, bound)
    return _not_null(found.astype(np.bool_, copy=False), x.null)


def threshold(op: CompareOp, exact: Fraction) -> tuple[CompareOp, int]:
    """The comparison with an integer that holds for the same integers as with `exact`."""
    if exact.denominator == 1:
        return op, exact.numerator
    if op in ("=", "<>"):
        # No integer is a fraction: beyond int64 nothing is equal and everything differs.
        return op, 2**64
    return (op, ceil(exact)) if op in ("<", ">=") else (op, floor(exact))


def is_member(x: Numbers, exact: list[Fraction]) -> Mask:
    """Where x is one of some numbers given in units; NULL is FALSE."""
    if x.scale is None:
        return _not_null(np.isin(x.values, [float(v) for v in exact]), x.null)
    scaled = [v * 10**x.scale for v in exact]
    whole = [v.numerator for v in scaled if v.denominator == 1]
    if x.values.dtype == np.int64:
        whole = [v for v in whole if -_MOST - 1 <= v <= _MOST]
        return _not_null(np.isin(x.values, np.array(whole, np.int64)), x.null)
    wanted = set(whole)
    return _not_null(np.array([v in wanted for v in x.values.tolist()], np.bool_), x.null)


def choose(at: Mask, x: Numbers, y: Numbers) -> Numbers:
    """Take x where `at`, else y."""
    null = None
    if x.null is not None or y.null is not None:
        null = np.where(at, _nulls(x), _nulls(y))
    if x.scale is None or y.scale is None:
        return Numbers(np.where(at, as_floats(x), as_floats(y)), None, null)
    a, b, scale = _aligned(x, y)
    return Numbers(np.where(at, a, b), scale, null)


def as_floats(x: Numbers) -> npt.NDArray[np.float64]:
    """The nearest doubles; infinite where a number is beyond all of them."""
    if x.scale is None:
        return x.values
    if x.values.dtype == np.int64 and x.scale <= _EXACT_POWER and _peak(x.values) <= _EXACT_DOUBLE:
        return x.values / 10.0**x.scale
    values, unit = x.values.astype(object), 10**x.scale
    try:
        exact: npt.NDArray[np.float64] = (values / unit).astype(np.float64)
    except OverflowError:
        exact = np.array([_nearest(value, unit) for value in values.tolist()], np.float64)
    return exact


def _nearest(value: int, unit: int) -> float:
    try:
        return value / unit
    except OverflowError:
        return inf if value > 0 else -inf


def either_null(x: Mask | None, y: Mask | None) -> Mask | None:
    """Where one of two is NULL."""
    return y if x is None else x if y is None else x | y


def _nulls(x: Numbers) -> Mask:
    return np.zeros(x.values.shape, np.bool_) if x.null is None else x.null


def _not_null(found: Mask, null: Mask | None) -> Mask:
    return found if null is None else found & ~null


def _fixed(x: Numbers, digits: int) -> Numbers:
    with np.errstate(over="ignore"):
        values = np.rint(x.values * 10.0**digits)
    null, bad = x.null, ~np.isfinite(values)
    if bad.any():
        null = either_null(null, bad)
        values = np.where(bad, 0.0, values)
    if len(values) and np.abs(values).max() >= 2.0**63:
        whole = np.empty(len(values), object)
        whole[:] = [int(value) for value in values.tolist()]
        return Numbers(whole, digits, null)
    return Numbers(values.astype(np.int64), digits, null)


def _finite(
    op: ArithmeticOp,
    a: npt.NDArray[np.float64],
    b: npt.NDArray[np.float64],
    null: Mask | None,
) -> Numbers:
    with np.errstate(all="ignore"):
        match op:
            case "+":
                values = a + b
            case "-":
                values = a - b
            case "*":
                values = a * b
            case "/":
                values = a / b
            case "%":
                values = np.fmod(a, b)
    bad = ~np.isfinite(values)
    if bad.any():
        null = either_null(null, bad)
        values = np.where(bad, 0.0, values)
    return Numbers(values, None, null)


def _multiply(x: Numbers, y: Numbers, null: Mask | None) -> Numbers:
    scale_x, scale_y = x.scale or 0, y.scale or 0
    a, b, scale = x.values, y.values, scale_x + scale_y
    if _peak(a) * _peak(b) > _MOST:
        a, dropped_x = _shortened(a, scale_x)
        b, dropped_y = _shortened(b, scale_y)
        scale -= dropped_x + dropped_y
    if _peak(a) * _peak(b) > _MOST:
        a, b = a.astype(object), b.astype(object)
    return Numbers(a * b, scale, null)


def _shortened(values: npt.NDArray[Any], scale: int) -> tuple[npt.NDArray[Any], int]:
    """Drop the decimal zeros, up to `scale`, at which all values end."""
    if not len(values) or values.dtype != np.int64 or _peak(values) > _MOST:
        return values, 0
    common, dropped = abs(int(np.gcd.reduce(values))), 0
    while dropped < scale and common and common % 10 == 0:
        common, dropped = common // 10, dropped + 1
    return (values // 10**dropped if dropped else values), dropped


def _aligned(x: Numbers, y: Numbers) -> tuple[npt.NDArray[Any], npt.NDArray[Any], int]:
    scale_x, scale_y = x.scale or 0, y.scale or 0
    scale = max(scale_x, scale_y)
    return _scaled(x.values, scale - scale_x), _scaled(y.values, scale - scale_y), scale


def _scaled(values: npt.NDArray[Any], digits: int) -> npt.NDArray[Any]:
    peak = _peak(values)
    if not digits or not peak:
        return values  # zero is zero in every unit, also in one that int64 cannot hold
    if peak * 10**digits > _MOST:
        values = values.astype(object)
    scaled: npt.NDArray[Any] = values * 10**digits
    return scaled


def _roomy(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same, in Python integers if the least int64 is among them: it has no negative."""
    if values.dtype == np.int64 and _peak(values) > _MOST:
        return values.astype(object)
    return values


def _peak(values: npt.NDArray[Any]) -> int:
    return max(-int(values.min()), int(values.max())) if len(values) else 0


def _integers(values: list[int]) -> npt.NDArray[Any]:
    fits = all(-_MOST <= value <= _MOST for value in values)
    return np.array(values, np.int64 if fits else object)
