"""Evaluation of conditions on whole frames, three-valued and exact.

`holds(node, columns, want)` gives the rows on which a condition definitely is `want`; NULL is on
neither side, so negation never needs to know more. Texts are looked at once per distinct value and
mapped to rows through their codes; numbers are compared as integers (`marketdata.filters.numbers`).
"""

from fractions import Fraction
from functools import reduce
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.filters import like, numbers
from marketdata.filters.columns import FrameColumns, Mask, Numbers, Texts
from marketdata.filters.normalize import literal_value
from marketdata.filters.tree import (
    MIRRORED,
    NEGATED,
    And,
    Arithmetic,
    Case,
    Column,
    Compare,
    CompareOp,
    Expression,
    Function,
    In,
    InSet,
    IsNull,
    Like,
    Local,
    Negative,
    Not,
    Null,
    Number,
    Or,
    Reference,
    Round,
    Text,
    Time,
    TimeOfDay,
    Truth,
    to_sql,
)
from marketdata.filters.typecheck import Type, result_type
from marketdata.filters.zones import local
from marketdata.schemas import COLUMNS

_TEXT_COMPARE: Final = {
    "=": pc.equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def values(node: Expression, columns: FrameColumns) -> Numbers | Texts:
    """What an expression that is no condition gives.

    Returns:
        Texts of a code per row; or numbers or times, of which one value stands for every row where
        no column has a part in it.
    """
    if result_type(node) is Type.TEXT:
        return _texts(node, columns)
    return _numbers(node, columns)


def holds(node: Expression, columns: FrameColumns, *, want: bool = True) -> Mask:  # noqa: PLR0911 - a case per node
    """Where a condition is TRUE (or, with want=False, FALSE); never where it is NULL."""
    match node:
        case Truth(value):
            return np.full(columns.rows, value is want, np.bool_)
        case Null():
            return np.zeros(columns.rows, np.bool_)
        case Not(operand):
            return holds(operand, columns, want=not want)
        case And(operands) | Or(operands):
            masks = (holds(operand, columns, want=want) for operand in operands)
            return reduce(np.logical_and if isinstance(node, And) is want else np.logical_or, masks)
        case Compare(op, left, right):
            return _compare(op if want else NEGATED[op], left, right, columns)
        case In(operand):
            return _is_member(node, operand, columns, want=want)
        case Like(operand, pattern, escape):
            text = _texts(operand, columns)
            found = pc.match_substring_regex(text.values, like.regex(pattern, escape))
            return _by_code(text, _mask(found), want=want)
        case IsNull(operand):
            null = _null(operand, columns)
            return null if want else ~null
        case InSet():
            raise TypeError(f"{to_sql(node)}: the filter has not been given its sets")
        case _:
            return _truths(node, columns, want=want)


def _compare(op: CompareOp, left: Expression, right: Expression, columns: FrameColumns) -> Mask:
    match result_type(left):
        case Type.TEXT:
            return _compare_texts(op, left, right, columns)
        case Type.TRUTH:
            same = [
                holds(left, columns, want=value) & holds(right, columns, want=value is (op == "="))
                for value in (True, False)
            ]
            return same[0] | same[1]
        case _:
            pass
    if isinstance(right, Number | Time | TimeOfDay):
        x = _numbers(left, columns)
        bound = right.decimal if isinstance(right, Number) else right.ns
        rounded = _rounded(left, float(bound)) if x.scale is None else bound
        return _rows(numbers.compare_literal(op, x, rounded), columns)
    return _rows(numbers.compare(op, _numbers(left, columns), _numbers(right, columns)), columns)


def _rounded(operand: Expression, literal: float) -> float:
    """A literal beside a float column has that column's precision: quality = 0.9 finds 0.9."""
    if isinstance(operand, Column):
        with np.errstate(over="ignore"):
            return float(COLUMNS[operand.name].type.to_pandas_dtype()(literal))
    return literal


def _compare_texts(
    op: CompareOp, left: Expression, right: Expression, columns: FrameColumns
) -> Mask:
    if isinstance(left, Text):
        op, left, right = MIRRORED[op], right, left
    text = _texts(left, columns)
    if isinstance(right, Text):
        return _by_code(text, _mask(_TEXT_COMPARE[op](text.values, right.value)))
    other = _texts(right, columns)
    # Ranks over both dictionaries let rows be compared as integers.
    both = pa.chunked_array([text.values, other.values], pa.utf8()).combine_chunks()
    ranks = pc.rank(both, sort_keys="ascending", tiebreaker="dense").to_numpy().astype(np.int64)
    split = len(text.values)
    a, b = np.append(ranks[:split], 0)[text.codes], np.append(ranks[split:], 0)[other.codes]
    null = (text.codes < 0) | (other.codes < 0)
    return numbers.compare(op, Numbers(a, 0, null), Numbers(b, 0, None))


def _is_member(node: In, operand: Expression, columns: FrameColumns, *, want: bool) -> Mask:
    if result_type(operand) is Type.TEXT:
        text = _texts(operand, columns)
        wanted = pa.array([value.value for value in node.values], pa.utf8())  # type: ignore[union-attr]
        return _by_code(text, _mask(pc.is_in(text.values, value_set=wanted)), want=want)
    x = _numbers(operand, columns)
    values = [Fraction(literal_value(value)) for value in node.values]
    if x.scale is None:
        values = [Fraction(_rounded(operand, float(value))) for value in values]
    found = numbers.is_member(x, values)
    if not want:
        found = ~found if x.null is None else ~found & ~x.null
    return _rows(found, columns)


def _null(node: Expression, columns: FrameColumns) -> Mask:
    match result_type(node):
        case Type.TEXT:
            return np.broadcast_to(_texts(node, columns).codes < 0, (columns.rows,))
        case Type.TRUTH:
            return ~(holds(node, columns) | holds(node, columns, want=False))
        case _:
            null = _numbers(node, columns).null
            return np.zeros(columns.rows, np.bool_) if null is None else _rows(null, columns)


def _truths(node: Expression, columns: FrameColumns, *, want: bool) -> Mask:
    """CASE and coalesce that give conditions, and columns that hold them."""
    match node:
        case Reference(name):
            told = columns.numbers(name)
            found = (told.values != 0) == want
            return found if told.null is None else found & ~told.null
        case Function(_, arguments):
            found = np.zeros(columns.rows, np.bool_)
            for argument in reversed(arguments):
                here = holds(argument, columns, want=want)
                found = here | (found & ~holds(argument, columns, want=not want))
            return found
        case Case(whens, otherwise):
            found = holds(otherwise, columns, want=want)
            for when in reversed(whens):
                at = holds(when.condition, columns)
                found = np.where(at, holds(when.result, columns, want=want), found)
            return found
        case _:
            raise TypeError(f"not a condition: {node!r}")


def _numbers(node: Expression, columns: FrameColumns) -> Numbers:  # noqa: C901, PLR0911, PLR0912 - a case per node
    match node:
        case Column(name) | Reference(name):
            return columns.numbers(name)
        case Number():
            return numbers.constant(node.decimal)
        case Time(ns) | TimeOfDay(ns):
            return numbers.constant(ns)
        case Local(part, operand, zone):
            x = _numbers(operand, columns)
            return Numbers(local(part, x.values, zone), 0, x.null)
        case Null():
            return Numbers(np.zeros(1, np.int64), 0, np.ones(1, np.bool_))
        case Negative(operand):
            return numbers.negate(_numbers(operand, columns))
        case Arithmetic(op, left, right):
            return numbers.combine(op, _numbers(left, columns), _numbers(right, columns))
        case Round(operand, digits):
            return numbers.rounded(_numbers(operand, columns), digits)
        case Function("abs", (argument,)):
            return numbers.absolute(_numbers(argument, columns))
        case Function("coalesce", arguments):
            found = _numbers(arguments[-1], columns)
            for argument in reversed(arguments[:-1]):
                x = _numbers(argument, columns)
                known = np.ones(1, np.bool_) if x.null is None else ~x.null
                found = numbers.choose(known, x, found)
            return found
        case Case(whens, otherwise):
            found = _numbers(otherwise, columns)
            for when in reversed(whens):
                at = holds(when.condition, columns)
                found = numbers.choose(at, _numbers(when.result, columns), found)
            return found
        case _:
            raise TypeError(f"not a number: {node!r}")


def _texts(node: Expression, columns: FrameColumns) -> Texts:  # noqa: PLR0911 - a case per node
    match node:
        case Column("kind"):
            return columns.kinds()
        case Column(name) | Reference(name):
            return columns.texts(name)
        case Text(value):
            return Texts(np.zeros(columns.rows, np.intp), pa.array([value], pa.utf8()))
        case Null():
            return Texts(np.full(columns.rows, -1, np.intp), pa.array([], pa.utf8()))
        case Function("coalesce", arguments):
            found = _texts(arguments[-1], columns)
            for argument in reversed(arguments[:-1]):
                text = _texts(argument, columns)
                found = _choose_texts(text.codes >= 0, text, found)
            return found
        case Function(("lower" | "upper") as case, (argument,)):
            text = _texts(argument, columns)
            return Texts(text.codes, columns.folded(text.values, case))
        case Case(whens, otherwise):
            found = _texts(otherwise, columns)
            for when in reversed(whens):
                at = holds(when.condition, columns)
                found = _choose_texts(at, _texts(when.result, columns), found)
            return found
        case _:
            raise TypeError(f"not a text: {node!r}")


def _choose_texts(at: Mask, x: Texts, y: Texts) -> Texts:
    shifted = np.where(y.codes < 0, -1, y.codes + len(x.values))
    values = pa.chunked_array([x.values, y.values], pa.utf8()).combine_chunks()
    return Texts(np.where(at, x.codes, shifted), values)


def _by_code(text: Texts, of_value: Mask, *, want: bool = True) -> Mask:
    """From a mask of the distinct values to one of the rows; NULL (code -1) is never in it."""
    table = np.append(of_value if want else ~of_value, False)
    return table[text.codes]


def _mask(found: pa.BooleanArray) -> Mask:
    mask: Mask = found.to_numpy(zero_copy_only=False)
    return mask


def _rows(mask: Mask, columns: FrameColumns) -> Mask:
    return mask if mask.shape == (columns.rows,) else np.broadcast_to(mask, (columns.rows,))
