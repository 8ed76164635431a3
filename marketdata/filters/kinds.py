"""What is left of a condition on events of one kind, and whether that can be true at all.

On a given kind the pseudo-column `kind` is a constant and columns that the kind lacks are NULL.
`specialize` computes with that; its result gives TRUE on exactly the same events of that kind.
Along the way, conditions that contradict each other are found by simple reasoning on the interval
and the set of values that each column may take; what is not found is merely evaluated.
"""

from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from marketdata.filters import like
from marketdata.filters.normalize import (
    compare_literals,
    conjunction,
    disjunction,
    normalize,
)
from marketdata.filters.ranges import contradiction
from marketdata.filters.tree import (
    And,
    Arithmetic,
    Case,
    Column,
    Compare,
    Expression,
    Function,
    In,
    IsNull,
    Like,
    Literals,
    Local,
    Negative,
    Not,
    Null,
    Or,
    Round,
    Text,
    Truth,
    When,
)
from marketdata.schemas import SEQUENCED_SCHEMAS

_NEVER: Final = Truth(False)
MOST_WEIGHED: Final = 20_000
"""Terms that are weighed against one another, beside once each, in looking for alternatives that
their neighbours exclude. Beyond, those stay and are evaluated: the filter is the same."""


def specialize(node: Expression, kind: str) -> Expression:
    """A normal condition on events of one kind.

    Returns:
        `Truth(True)` if all events match, `Truth(False)` if none can, else what to evaluate.
    """
    return _only_true(_reduce(node, kind), _Budget())


class _Budget:
    """Bounds the work of one filter, as it is counted and not as long as it takes."""

    def __init__(self) -> None:
        self._left = MOST_WEIGHED

    def take(self, terms: int) -> bool:
        """Whether so many more terms may be weighed."""
        self._left -= terms
        return self._left >= 0


def conflict(node: Expression, kind: str | None) -> tuple[Expression, Expression] | None:
    """Two terms of a condition that exclude each other, where such are found.

    Args:
        node: a normal condition.
        kind: on events of this kind; None for any.
    """
    reduced = node if kind is None else _reduce(node, kind)
    parts = reduced.operands if isinstance(reduced, And) else (reduced,)
    return contradiction(parts)


def _only_true(node: Expression, budget: _Budget) -> Expression:
    """Drop what can only be FALSE or NULL; both mean that an event does not match."""
    match node:
        case Null():
            return _NEVER
        case Or(operands):
            return disjunction([_only_true(operand, budget) for operand in operands])
        case And(operands):
            parts = [_only_true(operand, budget) for operand in operands]
            joined = conjunction(parts)
            if isinstance(joined, And) and contradiction(joined.operands):
                return _NEVER
            return _pruned(joined, budget) if isinstance(joined, And) else joined
        case _:
            return _NEVER if contradiction((node,)) else node


def _pruned(node: And, budget: _Budget) -> Expression:
    """Drop the alternatives of an OR that its neighbours exclude."""
    for i, part in enumerate(node.operands):
        if isinstance(part, Or) and budget.take(len(part.operands) * len(node.operands)):
            others = node.operands[:i] + node.operands[i + 1 :]
            possible = [o for o in part.operands if not contradiction(_flat((*others, o)))]
            if len(possible) < len(part.operands):
                return _only_true(conjunction((*others, disjunction(possible))), budget)
    return node


def _flat(parts: Sequence[Expression]) -> tuple[Expression, ...]:
    flat: list[Expression] = []
    for part in parts:
        flat += part.operands if isinstance(part, And) else (part,)
    return tuple(flat)


def _reduce(node: Expression, kind: str) -> Expression:  # noqa: C901, PLR0911, PLR0912 - a case per node
    """The same three-valued result on every event of the kind, `Null()` where it is always NULL."""
    match node:
        case Column("kind"):
            return Text(kind)
        case Column(name):
            return node if SEQUENCED_SCHEMAS[kind].get_field_index(name) >= 0 else Null()
        case And(operands):
            return _connect([_reduce(o, kind) for o in operands], And)
        case Or(operands):
            return _connect([_reduce(o, kind) for o in operands], Or)
        case Not(operand):
            inner = _reduce(operand, kind)
            return inner if isinstance(inner, Null) else normalize(inner, negate=True)
        case IsNull(operand):
            return _is_null(_reduce(operand, kind), kind)
        case Compare(op, left, right):
            left, right = _reduce(left, kind), _reduce(right, kind)
            if isinstance(left, Null) or isinstance(right, Null):
                return Null()
            if isinstance(left, Literals) and isinstance(right, Literals):
                return Truth(compare_literals(op, left, right))
            return Compare(op, left, right)
        case In(operand, values):
            operand = _reduce(operand, kind)
            if isinstance(operand, Literals):
                return Truth(any(compare_literals("=", operand, value) for value in values))
            return operand if isinstance(operand, Null) else In(operand, values)
        case Like(operand, pattern, escape):
            operand = _reduce(operand, kind)
            if isinstance(operand, Text):
                found = pc.match_substring_regex(
                    pa.scalar(operand.value), like.regex(pattern, escape)
                )
                return Truth(found.as_py())
            return operand if isinstance(operand, Null) else Like(operand, pattern, escape)
        case _:
            return _reduce_value(node, kind)


def _reduce_value(node: Expression, kind: str) -> Expression:  # noqa: C901, PLR0911 - a case per node
    match node:
        case Negative(operand):
            operand = _reduce(operand, kind)
            return operand if isinstance(operand, Null) else Negative(operand)
        case Arithmetic(op, left, right):
            left, right = _reduce(left, kind), _reduce(right, kind)
            missing = isinstance(left, Null) or isinstance(right, Null)
            return Null() if missing else Arithmetic(op, left, right)
        case Local(part, operand, zone):
            operand = _reduce(operand, kind)
            return operand if isinstance(operand, Null) else Local(part, operand, zone)
        case Round(operand, digits):
            operand = _reduce(operand, kind)
            return operand if isinstance(operand, Null) else Round(operand, digits)
        case Function("coalesce", arguments):
            kept = [a for a in (_reduce(a, kind) for a in arguments) if not isinstance(a, Null)]
            if not kept:
                return Null()
            single = len(kept) == 1 or isinstance(kept[0], Literals | Truth)
            return kept[0] if single else Function("coalesce", tuple(kept))
        case Function(name, (argument,)):
            argument = _reduce(argument, kind)
            if isinstance(argument, Null):
                return argument
            if isinstance(argument, Text):
                lower = name == "lower"
                return Text(argument.value.lower() if lower else argument.value.upper())
            return Function(name, (argument,))
        case Case(whens, otherwise):
            return _reduce_case(whens, otherwise, kind)
        case _:
            return node


def _reduce_case(whens: tuple[When, ...], otherwise: Expression, kind: str) -> Expression:
    kept: list[When] = []
    last = _reduce(otherwise, kind)
    for when in whens:
        condition = _reduce(when.condition, kind)
        if isinstance(condition, Null) or condition == _NEVER:
            continue
        if condition == Truth(True):
            last = _reduce(when.result, kind)
            break
        kept.append(When(condition, _reduce(when.result, kind)))
    nothing = isinstance(last, Null) and all(isinstance(w.result, Null) for w in kept)
    return last if nothing or not kept else Case(tuple(kept), last)


def _is_null(operand: Expression, kind: str) -> Expression:
    match operand:
        case Null():
            return Truth(True)
        case Text() | Truth():
            return _NEVER
        case Column(name) if not SEQUENCED_SCHEMAS[kind].field(name).nullable:
            return _NEVER
        case _:
            return IsNull(operand)


def _connect(parts: list[Expression], kind: type[And] | type[Or]) -> Expression:
    absorbing = kind is Or
    if Truth(absorbing) in parts:
        return Truth(absorbing)
    known = [part for part in parts if not isinstance(part, Null)]
    joined = (disjunction if absorbing else conjunction)(known)
    if len(known) == len(parts):
        return joined
    if joined == Truth(absorbing):
        return joined
    if joined == Truth(not absorbing):
        return Null()
    return kind((joined, Null()))
