"""Types of filter expressions, and which operands fit which operator.

Six types: text, number (exact: prices, sizes, integers, decimal literals), float (`quality` and
everything divided), time, time of day and truth. Columns have the same type in every kind that has
them. The pseudo-column `kind` is text.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import pyarrow as pa

from marketdata.filters.errors import FilterTypeError, UnknownColumn
from marketdata.filters.like import check_pattern
from marketdata.filters.sets import check_set
from marketdata.filters.tree import (
    And,
    Arithmetic,
    Case,
    Column,
    Compare,
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
    children,
    to_sql,
)
from marketdata.filters.zones import check_zone
from marketdata.schemas import COLUMNS, KINDS, PRICE_SCALE


class Type(StrEnum):
    """What an expression gives."""

    TEXT = "text"
    NUMBER = "number"
    FLOAT = "float"
    TIME = "time"
    TIME_OF_DAY = "time of day"
    TRUTH = "truth"
    NULL = "null"


MAX_ROUND_DIGITS: Final = PRICE_SCALE
"""Most digits behind the point that `round` keeps."""

_NUMERIC: Final = frozenset({Type.NUMBER, Type.FLOAT})


def _type_of_field(field: pa.Field) -> Type:
    if pa.types.is_dictionary(field.type) or pa.types.is_string(field.type):
        return Type.TEXT
    if pa.types.is_floating(field.type):
        return Type.FLOAT
    if pa.types.is_timestamp(field.type):
        return Type.TIME
    if pa.types.is_boolean(field.type):
        return Type.TRUTH
    return Type.NUMBER


COLUMN_TYPES: Final[Mapping[str, Type]] = MappingProxyType(
    {"kind": Type.TEXT} | {name: _type_of_field(field) for name, field in COLUMNS.items()}
)
"""Every column a filter may name, with its type."""


_REFERENCE_TYPES: Final = {"text": Type.TEXT, "time": Type.TIME, "boolean": Type.TRUTH}
"""Of columns from reference tables; all others are numbers."""


def type_of(node: Expression) -> Type:
    """The type of a whole tree, every node checked.

    Raises:
        UnknownColumn, FilterTypeError: without a position.
    """
    return check(node, [type_of(child) for child in children(node)])


def check(node: Expression, types: Sequence[Type]) -> Type:  # noqa: C901, PLR0911, PLR0912 - a case per node
    """The type of a node, given those of its `children`, in their order.

    Raises:
        UnknownColumn, FilterTypeError: without a position.
    """
    match node:
        case Column(name):
            return _column_type(name)
        case Reference(_, declared):
            return _REFERENCE_TYPES.get(declared, Type.NUMBER)
        case Text():
            return Type.TEXT
        case Number():
            return Type.NUMBER
        case Time():
            return Type.TIME
        case TimeOfDay():
            return Type.TIME_OF_DAY
        case Truth():
            return Type.TRUTH
        case Null():
            return Type.NULL
        case Local():
            return _check_local(node, types[0])
        case Negative() | Arithmetic():
            return _check_arithmetic(node, types)
        case Function():
            return _check_function(node, types)
        case Round():
            return _check_round(node, types[0])
        case Case():
            for condition in types[:-1:2]:
                if condition is not Type.TRUTH:
                    raise FilterTypeError("WHEN needs a condition", hint="compare with something")
            return _common(node, (*types[1::2], types[-1]))
        case Compare():
            return _check_compare(node, types)
        case In(operand, values):
            if not values:
                raise FilterTypeError("IN needs at least one value", hint="write IN ('a', 'b')")
            for value in values:
                _check_compare(Compare("=", operand, value), (types[0], check(value, ())))
            return Type.TRUTH
        case InSet(operand, name):
            check_set(operand, name)
            return Type.TRUTH
        case Like(_, pattern, escape):
            check_pattern(pattern, escape)
            if types[0] is not Type.TEXT:
                raise FilterTypeError(
                    f"LIKE needs text, {to_sql(node.operand)} is a {types[0]}",
                    hint="compare numbers and times with =, <, BETWEEN …",
                )
            return Type.TRUTH
        case IsNull():
            if types[0] is Type.NULL:
                raise FilterTypeError("NULL IS NULL says nothing", hint="name a column")
            return Type.TRUTH
        case Not() | And() | Or():
            for child, given in zip(children(node), types, strict=True):
                require_condition(child, given)
            return Type.TRUTH


def result_type(node: Expression) -> Type:  # noqa: C901, PLR0911 - a case per node
    """The type of a checked tree, or of what specializing one to a kind left: it may hold NULL."""
    match node:
        case Column(name):
            return COLUMN_TYPES[name]
        case Reference(_, declared):
            return _REFERENCE_TYPES.get(declared, Type.NUMBER)
        case Text():
            return Type.TEXT
        case Number():
            return Type.NUMBER
        case Time():
            return Type.TIME
        case TimeOfDay() | Local("time"):
            return Type.TIME_OF_DAY
        case Local() | Round():
            return Type.NUMBER
        case Null():
            return Type.NULL
        case Arithmetic("/"):
            return Type.FLOAT
        case Negative() | Arithmetic() | Function():
            return _widest([result_type(child) for child in children(node)])
        case Case(whens, otherwise):
            return _widest([result_type(r) for r in (*(w.result for w in whens), otherwise)])
        case _:
            return Type.TRUTH


def _widest(types: Sequence[Type]) -> Type:
    known = [given for given in types if given is not Type.NULL]
    if not known:
        return Type.NULL
    return Type.FLOAT if Type.FLOAT in known else known[0]


def require_condition(node: Expression, given: Type) -> None:
    """Refuse what is neither true nor false.

    Raises:
        FilterTypeError: without a position.
    """
    if given is not Type.TRUTH:
        raise FilterTypeError(
            f"{to_sql(node)} is a {given}, a condition is needed",
            hint=f"compare it with something, for example {to_sql(node)} = …",
        )


def _column_type(name: str) -> Type:
    found = COLUMN_TYPES.get(name)
    if found is not None:
        return found
    near = get_close_matches(name.lower(), COLUMN_TYPES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"columns are: {', '.join(COLUMN_TYPES)}"
    raise UnknownColumn(f"unknown column {name!r}", hint=hint)


def _check_arithmetic(node: Negative | Arithmetic, types: Sequence[Type]) -> Type:
    for child, given in zip(children(node), types, strict=True):
        if given not in _NUMERIC:
            op = "-" if isinstance(node, Negative) else node.op
            raise FilterTypeError(
                f"{op} needs numbers, {to_sql(child)} is a {given}",
                hint="times can only be compared with each other"
                if given is Type.TIME
                else "use price, size and number columns",
            )
    divided = isinstance(node, Arithmetic) and node.op == "/"
    return Type.FLOAT if divided or Type.FLOAT in types else Type.NUMBER


def _check_local(node: Local, given: Type) -> Type:
    if given is not Type.TIME:
        raise FilterTypeError(
            f"local_{node.part} needs a time, {to_sql(node.operand)} is a {given}",
            hint=f"write local_{node.part}(ts_event, '{node.zone}')",
        )
    check_zone(node.zone)
    return Type.TIME_OF_DAY if node.part == "time" else Type.NUMBER


def _check_round(node: Round, given: Type) -> Type:
    if given not in _NUMERIC:
        raise FilterTypeError(
            f"round needs a number, {to_sql(node.operand)} is a {given}",
            hint="name a column that holds a number",
        )
    if node.digits not in range(MAX_ROUND_DIGITS + 1):
        raise FilterTypeError(
            f"round cannot keep {node.digits} digits",
            hint=f"it keeps 0 to {MAX_ROUND_DIGITS} behind the point: write round(x, 2)",
        )
    return Type.NUMBER


def _check_function(node: Function, types: Sequence[Type]) -> Type:
    if node.name == "coalesce":
        return _common(node, types)
    if len(types) != 1:
        raise FilterTypeError(f"{node.name} takes one argument", hint=f"write {node.name}(column)")
    wanted = "a number" if node.name == "abs" else "text"
    if types[0] not in (_NUMERIC if node.name == "abs" else {Type.TEXT}):
        raise FilterTypeError(
            f"{node.name} needs {wanted}, {to_sql(node.arguments[0])} is a {types[0]}",
            hint=f"name a column that holds {wanted}",
        )
    return types[0]


def _common(node: Expression, types: Sequence[Type]) -> Type:
    found = {given for given in types if given is not Type.NULL}
    if found and found <= _NUMERIC:
        return Type.FLOAT if Type.FLOAT in found else Type.NUMBER
    name = "CASE" if isinstance(node, Case) else "coalesce"
    if not found:
        raise FilterTypeError(f"{name} gives only NULL", hint="give it a value")
    if len(found) > 1:
        raise FilterTypeError(
            f"{name} mixes {' and '.join(sorted(found))}",
            hint="all its results must be of one type",
        )
    return found.pop()


def _check_compare(node: Compare, types: Sequence[Type]) -> Type:
    left, right = types
    if Type.NULL in types:
        raise FilterTypeError(f"{node.op} NULL is never true", hint="write IS NULL or IS NOT NULL")
    if left != right and not {left, right} <= _NUMERIC:
        raise FilterTypeError(
            f"{to_sql(node.left)} is a {left}, {to_sql(node.right)} is a {right}",
            hint=_comparison_hint(node, left, right),
        )
    if left is Type.TRUTH and node.op not in ("=", "<>"):
        raise FilterTypeError(
            f"conditions cannot be ordered with {node.op}", hint="use AND, OR, NOT"
        )
    if Column("kind") in (node.left, node.right):
        for side in (node.left, node.right):
            if isinstance(side, Text) and side.value not in KINDS:
                near = get_close_matches(side.value.lower(), KINDS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"kinds: {', '.join(KINDS)}"
                raise FilterTypeError(f"there is no kind {side.value!r}", hint=hint)
    return Type.TRUTH


def _comparison_hint(node: Compare, left: Type, right: Type) -> str:
    if Type.TIME_OF_DAY in (left, right):
        return "write times of day as TIME '09:30', and compare local_time(ts_event, …) with them"
    if Type.TIME in (left, right) and Type.TEXT in (left, right):
        return "write times as TIMESTAMP '2026-01-31T14:30:00Z'"
    if Type.TEXT in (left, right) and {left, right} & _NUMERIC:
        text = node.left if left is Type.TEXT else node.right
        literal = isinstance(text, Text)
        return "write numbers without quotes" if literal else "put text in single quotes"
    return "compare values of one type"
