"""The normal form of a condition: what is the same, written in whatever way, becomes one tree.

Negation is pushed down to single terms, AND and OR are flat, sorted and without doubles, literals
stand on the right, what compares only literals is computed, equalities of one value under OR
become one sorted IN, lists of texts for one value under AND what they have in common. Every step
keeps the value on every event, NULL included, so the normal form may stand for the filter.
Normalizing a normal tree changes nothing.
"""

import operator
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final

from marketdata.filters import like, literals
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
    Literals,
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
    When,
    to_sql,
)

_ORDER: Final[dict[CompareOp, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_FOLDED: Final[dict[str, Callable[[Decimal, Decimal], Decimal]]] = {
    "+": literals.EXACT.add,
    "-": literals.EXACT.subtract,
    "*": literals.EXACT.multiply,
}


def literal_value(node: Literals) -> str | Decimal | int:
    """A literal as something that Python compares as SQL does."""
    match node:
        case Text(value):
            return value
        case Time(ns) | TimeOfDay(ns):
            return ns
        case Number():
            return node.decimal


def compare_literals(op: CompareOp, left: Literals, right: Literals) -> bool:
    """Whether a comparison of two literals of one type holds."""
    return _ORDER[op](literal_value(left), literal_value(right))


def normalize(node: Expression, *, negate: bool = False) -> Expression:  # noqa: C901, PLR0911, PLR0912 - a case per node
    """The normal form of a type-checked condition, or of its negation."""
    match node:
        case Truth(value):
            return Truth(value is not negate)
        case Not(operand):
            return normalize(operand, negate=not negate)
        case And(operands) | Or(operands):
            parts = [normalize(o, negate=negate) for o in operands]
            return conjunction(parts) if isinstance(node, And) is not negate else disjunction(parts)
        case Compare(op, left, right):
            return _comparison(
                NEGATED[op] if negate else op, normalize_value(left), normalize_value(right)
            )
        case In(operand, values):
            return _membership(normalize_value(operand), values, negate=negate)
        case InSet():
            return _signed(node, negate)
        case Like(operand, pattern, escape):
            text = like.fixed_text(pattern, escape)
            if text is not None:
                return _comparison("<>" if negate else "=", normalize_value(operand), Text(text))
            return _signed(Like(normalize_value(operand), *like.normal(pattern, escape)), negate)
        case IsNull(operand):
            inner = normalize_value(operand)
            if isinstance(inner, Literals | Truth):
                return Truth(negate)
            return _signed(IsNull(inner), negate)
        case _:
            inner = normalize_value(node)
            if isinstance(inner, Null):
                return inner
            if isinstance(inner, Column | Reference | Function | Case):
                return _signed(inner, negate)
            return normalize(inner, negate=negate)


def conjunction(parts: Iterable[Expression]) -> Expression:
    """AND of normal conditions."""
    return _connect(parts, And, absorbing=False)


def disjunction(parts: Iterable[Expression]) -> Expression:
    """OR of normal conditions."""
    return _connect(parts, Or, absorbing=True)


def _signed(node: Expression, negate: bool) -> Expression:
    return Not(node) if negate else node


def _connect(
    parts: Iterable[Expression], kind: type[And] | type[Or], *, absorbing: bool
) -> Expression:
    flat: list[Expression] = []
    for part in parts:
        flat += part.operands if isinstance(part, kind) else (part,)
    if Truth(absorbing) in flat:
        return Truth(absorbing)
    kept = _merged([p for p in flat if p != Truth(not absorbing)], negated=kind is And)
    if kind is And:
        kept = _intersected(kept)
    by_text = {to_sql(part): part for part in kept}
    ordered = tuple(by_text[text] for text in sorted(by_text))
    if not ordered:
        return Truth(not absorbing)
    return ordered[0] if len(ordered) == 1 else kind(ordered)


def _merged(parts: list[Expression], *, negated: bool) -> list[Expression]:
    """Join the equalities of one value under OR, the inequalities under AND, into one IN."""
    op = "<>" if negated else "="
    lists: dict[Expression, list[Literals]] = {}
    rest: list[Expression] = []
    for part in parts:
        term = part.operand if negated and isinstance(part, Not) else part
        if isinstance(part, Compare) and part.op == op and isinstance(part.right, Literals):
            lists.setdefault(part.left, []).append(part.right)
        elif isinstance(term, In) and isinstance(part, Not) is negated:
            lists.setdefault(term.operand, []).extend(term.values)
        else:
            rest.append(part)
    return rest + [
        _membership(operand, tuple(values), negate=negated) for operand, values in lists.items()
    ]


def _intersected(parts: list[Expression]) -> list[Expression]:
    """Join the lists of texts in which one value must be under AND into what all of them hold.

    Lists that have nothing in common stay: they are FALSE, but NULL where the value is NULL.
    Numbers stay, too: two of them may be the same in a column's precision.
    """
    lists: dict[Expression, list[frozenset[Literals]]] = {}
    for part in parts:
        found = _texts(part)
        if found is not None:
            lists.setdefault(found[0], []).append(frozenset(found[1]))
    common = {
        operand: frozenset.intersection(*held) for operand, held in lists.items() if len(held) > 1
    }
    joined = {operand: values for operand, values in common.items() if values}
    if not joined:
        return parts
    rest = [part for part in parts if (found := _texts(part)) is None or found[0] not in joined]
    return rest + [
        _membership(operand, tuple(values), negate=False) for operand, values in joined.items()
    ]


def _texts(part: Expression) -> tuple[Expression, tuple[Literals, ...]] | None:
    match part:
        case Compare("=", operand, Text() as value):
            return operand, (value,)
        case In(operand, values) if all(isinstance(value, Text) for value in values):
            return operand, values
        case _:
            return None


def _membership(operand: Expression, values: tuple[Literals, ...], *, negate: bool) -> Expression:
    if isinstance(operand, Literals):
        return Truth(any(compare_literals("=", operand, v) for v in values) is not negate)
    ordered = tuple(sorted(set(values), key=literal_value))
    if len(ordered) == 1:
        return Compare("<>" if negate else "=", operand, ordered[0])
    return _signed(In(operand, ordered), negate)


def _comparison(op: CompareOp, left: Expression, right: Expression) -> Expression:
    if isinstance(left, Literals) and isinstance(right, Literals):
        return Truth(compare_literals(op, left, right))
    if isinstance(left, Truth):
        left, right = right, left
    if isinstance(right, Truth):
        return normalize(left, negate=(op == "=") is not right.value)
    if isinstance(left, Literals) or (
        not isinstance(right, Literals) and to_sql(left) > to_sql(right)
    ):
        op, left, right = MIRRORED[op], right, left
    return Compare(op, left, right)


def normalize_value(node: Expression) -> Expression:  # noqa: C901, PLR0911 - a case per node
    """The normal form of a type-checked expression that need not be a condition."""
    match node:
        case Column() | Reference() | Text() | Number() | Time() | TimeOfDay() | Truth() | Null():
            return node
        case Local(part, operand, zone):
            return Local(part, normalize_value(operand), zone)
        case Round(operand, digits):
            return Round(normalize_value(operand), digits)
        case Negative(operand):
            inner = normalize_value(operand)
            if isinstance(inner, Number):
                return literals.number(literals.EXACT.minus(inner.decimal))
            return inner.operand if isinstance(inner, Negative) else Negative(inner)
        case Arithmetic(op, left, right):
            left, right = normalize_value(left), normalize_value(right)
            if op in _FOLDED and isinstance(left, Number) and isinstance(right, Number):
                return literals.number(_FOLDED[op](left.decimal, right.decimal))
            if op in ("+", "*") and to_sql(left) > to_sql(right):
                left, right = right, left
            return Arithmetic(op, left, right)
        case Function("coalesce", arguments):
            return _coalesce(arguments)
        case Function(name, (argument,)):
            return _function(name, normalize_value(argument))
        case Case(whens, otherwise):
            branches = tuple(When(normalize(w.condition), normalize_value(w.result)) for w in whens)
            return Case(branches, normalize_value(otherwise))
        case _:
            return normalize(node)


def _function(name: str, argument: Expression) -> Expression:
    match name, argument:
        case "lower", Text(value):
            return Text(value.lower())
        case "upper", Text(value):
            return Text(value.upper())
        case "abs", Number():
            return literals.number(argument.decimal.copy_abs())
        case _:
            return Function(name, (argument,))  # type: ignore[arg-type]


def _coalesce(arguments: tuple[Expression, ...]) -> Expression:
    kept: list[Expression] = []
    for argument in map(normalize_value, arguments):
        nested = isinstance(argument, Function) and argument.name == "coalesce"
        kept += argument.arguments if nested else (argument,)  # type: ignore[union-attr]
    # What follows a value that is never NULL is never reached.
    kept = [argument for argument in kept if not isinstance(argument, Null)]
    for i, argument in enumerate(kept):
        if isinstance(argument, Literals | Truth):
            kept = kept[: i + 1]
            break
    return kept[0] if len(kept) == 1 else Function("coalesce", tuple(kept))
