"""Comparisons with literals, evaluated for all views at once on pairs of view and row.

Ten thousand views that each ask for `price > …` with a bound of their own differ only in the
bound: one array operation per column and operator compares every pair's value with its view's
bound. Semantics are those of `marketdata.filters.evaluate`.
"""

import operator
from collections.abc import Sequence
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


def is_bulk_term(node: Expression) -> bool:
    """Whether a term is a comparison that `BulkTerms` evaluates."""
    return any(term(node) is not None for term in (_text_term, _list_term, _number_term))


def _text_term(node: Expression) -> tuple[str, str] | None:
    """Column and text of `column = text`."""
    match node:
        case Compare("=", Column(name), Text(text)) if name != "kind":
            return name, text
        case _:
            return None


def _list_term(node: Expression) -> tuple[str, tuple[str, ...]] | None:
    """Column and texts of `column IN (texts)`, None where they are too many."""
    match node:
        case In(Column(name), (Text(), *_) as values) if len(values) <= _BITS and name != "kind":
            return name, tuple(value.value for value in values if isinstance(value, Text))
        case _:
            return None


def _number_term(node: Expression) -> tuple[CompareOp, str, int] | None:
    """Operator, column and integer bound of a comparison, None where integers do not do."""
    match node:
        case Compare(op, Column(name), (Number() | Time()) as literal):
            field = COLUMNS[name]
            # uint64 may exceed what is compared here, floats round their literals.
            if pa.types.is_uint64(field.type) or pa.types.is_floating(field.type):
                return None
            unit = 10 ** (decimal_scale(field) or 0)
            exact = literal.ns if isinstance(literal, Time) else literal.decimal
            op, bound = threshold(op, Fraction(exact) * unit)
            return (op, name, bound) if abs(bound) < _BOUND else None
        case _:
            return None


class _NumberGroup:
    """`column op bound`, with a bound per filter."""

    def __init__(self, op: CompareOp, name: str, filters: int) -> None:
        self._op = op
        self._name = name
        self._bounds = np.zeros(filters, np.int64)
        self.has = np.zeros(filters, np.bool_)

    def add(self, number: int, bound: int) -> None:
        self._bounds[number] = bound
        self.has[number] = True

    def holds(self, numbers: Pairs, rows: Pairs, columns: FrameColumns) -> Mask:
        x = columns.numbers(self._name)
        found: Mask = _COMPARE[self._op](x.values[rows], self._bounds[numbers])
        return found if x.null is None else found & ~x.null[rows]


class _TextGroup:
    """`column = text`, with a text per filter."""

    def __init__(self, name: str, filters: int) -> None:
        self._name = name
        self._texts: dict[str, int] = {}
        self._wanted = np.zeros(filters, np.int64)
        self.has = np.zeros(filters, np.bool_)

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


class BulkTerms:
    """Terms of many filters, grouped by their shape."""

    def __init__(self, terms: Sequence[tuple[int, Expression]], filters: int) -> None:
        """Group the terms.

        Args:
            terms: a filter's number and a term for which `is_bulk_term` holds.
            filters: how many filters there are; numbers are below.
        """
        self._groups: list[_NumberGroup | _TextGroup | _ListGroup] = []
        self._texts: dict[str, list[_TextGroup]] = {}
        self._lists: dict[str, list[_ListGroup]] = {}
        self._numbers: dict[tuple[CompareOp, str], list[_NumberGroup]] = {}
        for number, node in terms:
            text, texts, bound = _text_term(node), _list_term(node), _number_term(node)
            if text is not None:
                self._add_text(number, *text, filters)
            elif texts is not None:
                self._add_list(number, *texts, filters)
            elif bound is not None:
                self._add_number(number, *bound, filters)

    def _add_text(self, number: int, name: str, text: str, filters: int) -> None:
        alike = self._texts.setdefault(name, [])
        # A filter may have two terms of one shape: each goes to a group of its own.
        group = next((g for g in alike if not g.has[number]), None)
        if group is None:
            group = _TextGroup(name, filters)
            alike.append(group)
            self._groups.append(group)
        group.add(number, text)

    def _add_list(self, number: int, name: str, texts: tuple[str, ...], filters: int) -> None:
        alike = self._lists.setdefault(name, [])
        group = next((g for g in alike if g.takes(number, texts)), None)
        if group is None:
            group = _ListGroup(name, filters)
            alike.append(group)
            self._groups.append(group)
        group.add(number, texts)

    def _add_number(self, number: int, op: CompareOp, name: str, bound: int, filters: int) -> None:
        alike = self._numbers.setdefault((op, name), [])
        group = next((g for g in alike if not g.has[number]), None)
        if group is None:
            group = _NumberGroup(op, name, filters)
            alike.append(group)
            self._groups.append(group)
        group.add(number, bound)

    def keep(self, numbers: Pairs, rows: Pairs, columns: FrameColumns) -> tuple[Pairs, Pairs]:
        """The pairs on which all terms of the pair's filter are TRUE."""
        for group in self._groups:
            if not len(rows):
                break
            kept = group.holds(numbers, rows, columns) | ~group.has[numbers]
            numbers, rows = numbers[kept], rows[kept]
        return numbers, rows
