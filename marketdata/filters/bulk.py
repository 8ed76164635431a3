"""Comparisons with literals, evaluated for all views at once on pairs of view and row.

Ten thousand views that each ask for `price > …` with a bound of their own differ only in the
bound: one array operation per column and operator compares every pair's value with its view's
bound. Semantics are those of `marketdata.filters.evaluate`.
"""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.filters.columns import FrameColumns, Mask
from marketdata.filters.numbers import threshold
from marketdata.filters.tree import (
    Column,
    Compare,
    CompareOp,
    Expression,
    In,
    Number,
    Text,
    Time,
)
from marketdata.schemas import COLUMNS, decimal_scale

Pairs = npt.NDArray[np.int64]

_BOUND: Final = 2**62
_BITS: Final = 64
_COMPARE: Final[dict[CompareOp, Any]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class BulkTerm:
    """A term as it is evaluated for many filters.

    Attributes:
        shape: what terms that are evaluated together have in common: the operator (`in` for a
            list, `is` for a text) and the column.
        value: what each compares with: a bound in stored integers, a text, or texts.
    """

    shape: tuple[str, str]
    value: Any


def bulk_term(node: Expression) -> BulkTerm | None:
    """The term of a comparison that `BulkTerms` evaluates, None of any other."""
    match node:
        case Compare("=", Column(name), Text(text)) if name != "kind":
            return BulkTerm(("is", name), text)
        case In(Column(name), (Text(), *_) as values) if len(values) <= _BITS and name != "kind":
            texts = tuple(value.value for value in values if isinstance(value, Text))
            return BulkTerm(("in", name), texts)
        case Compare(op, Column(name), (Number() | Time()) as literal):
            return _number_term(op, name, literal)
        case _:
            return None


def _number_term(op: CompareOp, name: str, literal: Number | Time) -> BulkTerm | None:
    field = COLUMNS[name]
    # uint64 may exceed what is compared here, floats round their literals.
    if pa.types.is_uint64(field.type) or pa.types.is_floating(field.type):
        return None
    unit = 10 ** (decimal_scale(field) or 0)
    exact = literal.ns if isinstance(literal, Time) else literal.decimal
    op, bound = threshold(op, Fraction(exact) * unit)
    return BulkTerm((op, name), bound) if abs(bound) < _BOUND else None


class _NumberGroup:
    """`column op bound`, with a bound per filter."""

    def __init__(self, op: CompareOp, name: str, filters: int) -> None:
        self._compare = _COMPARE[op]
        self._name = name
        self._bounds = np.zeros(filters, np.int64)
        self.has = np.zeros(filters, np.bool_)

    def takes(self, number: int, _: int) -> bool:
        """Whether the filter may be added: each has one term in a group."""
        return not self.has[number]

    def add(self, number: int, bound: int) -> None:
        self._bounds[number] = bound
        self.has[number] = True

    def holds(self, numbers: Pairs, rows: Pairs, columns: FrameColumns) -> Mask:
        x = columns.numbers(self._name)
        found: Mask = self._compare(x.values[rows], self._bounds[numbers])
        return found if x.null is None else found & ~x.null[rows]


class _TextGroup:
    """`column = text`, with a text per filter."""

    def __init__(self, name: str, filters: int) -> None:
        self._name = name
        self._texts: dict[str, int] = {}
        self._wanted = np.zeros(filters, np.int64)
        self.has = np.zeros(filters, np.bool_)

    def takes(self, number: int, _: str) -> bool:
        """Whether the filter may be added: each has one term in a group."""
        return not self.has[number]

    def add(self, number: int, text: str) -> None:
        self._wanted[number] = self._texts.setdefault(text, len(self._texts))
        self.has[number] = True

    def holds(self, numbers: Pairs, rows: Pairs, columns: FrameColumns) -> Mask:
        text = columns.texts(self._name)
        wanted = np.array([self._texts.get(v, -1) for v in text.values.to_pylist()] + [-1])
        found: Mask = wanted[text.codes][rows] == self._wanted[numbers]
        return found


class _ListGroup:
    """`column IN (texts)`, with a list per filter, out of at most `_BITS` texts in all."""

    def __init__(self, name: str, filters: int) -> None:
        self._name = name
        self._texts: dict[str, int] = {}
        self._wanted = np.zeros(filters, np.uint64)
        self.has = np.zeros(filters, np.bool_)

    def takes(self, number: int, texts: tuple[str, ...]) -> bool:
        """Whether the filter may be added."""
        return not self.has[number] and len(self._texts.keys() | set(texts)) <= _BITS

    def add(self, number: int, texts: tuple[str, ...]) -> None:
        bits = (1 << self._texts.setdefault(text, len(self._texts)) for text in texts)
        self._wanted[number] = sum(bits)
        self.has[number] = True

    def holds(self, numbers: Pairs, rows: Pairs, columns: FrameColumns) -> Mask:
        text = columns.texts(self._name)
        places = (self._texts.get(value) for value in text.values.to_pylist())
        bits = [0 if place is None else 1 << place for place in places]
        found: Mask = self._wanted[numbers] & np.array([*bits, 0], np.uint64)[text.codes][rows] != 0
        return found


_Group = _NumberGroup | _TextGroup | _ListGroup


def _group(op: Any, name: str, filters: int) -> _Group:
    match op:
        case "is":
            return _TextGroup(name, filters)
        case "in":
            return _ListGroup(name, filters)
        case _:
            return _NumberGroup(op, name, filters)


class BulkTerms:
    """Terms of many filters, grouped by their shape."""

    def __init__(self, terms: Iterable[tuple[int, BulkTerm]], filters: int) -> None:
        """Group the terms.

        Args:
            terms: a filter's number and a term of it.
            filters: how many filters there are; numbers are below.
        """
        self._groups: list[_Group] = []
        shapes: dict[tuple[str, str], list[_Group]] = {}
        for number, term in terms:
            alike = shapes.setdefault(term.shape, [])
            group = next((g for g in alike if g.takes(number, term.value)), None)
            if group is None:
                group = _group(*term.shape, filters)
                alike.append(group)
                self._groups.append(group)
            group.add(number, term.value)

    def keep(self, numbers: Pairs, rows: Pairs, columns: FrameColumns) -> tuple[Pairs, Pairs]:
        """The pairs on which all terms of the pair's filter are TRUE."""
        for group in self._groups:
            if not len(rows):
                break
            kept = group.holds(numbers, rows, columns) | ~group.has[numbers]
            numbers, rows = numbers[kept], rows[kept]
        return numbers, rows
