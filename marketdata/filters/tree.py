"""The filter's own expression tree: frozen, hashable, and JSON by msgspec.

`Expression` is the union of all nodes. In JSON each node is an object whose key `node` names it.
Numbers keep their exact decimal text; times are integer nanoseconds since the epoch, UTC.
`to_sql` writes a tree as SQL that parses to the same tree; on a normal tree
(`marketdata.filters.normalize`) that text is the filter's canonical form.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Final, Literal

import msgspec
import numpy as np

CompareOp = Literal["=", "<>", "<", "<=", ">", ">="]
ArithmeticOp = Literal["+", "-", "*", "/", "%"]
FunctionName = Literal["abs", "lower", "upper", "coalesce"]
LocalPart = Literal["time", "weekday"]

_SECOND_NS: Final = 1_000_000_000


class _Node(msgspec.Struct, frozen=True, tag_field="node", forbid_unknown_fields=True, gc=False):
    # Trees have no cycles. Ten thousand of them in the collector's lists would halt a function for
    # a tenth of a second whenever it looks at them.
    pass


class Column(_Node, frozen=True, tag="column"):
    """A column of the event, or the pseudo-column `kind`."""

    name: str


class Reference(_Node, frozen=True, tag="reference"):
    """A column that comes from a reference table, with the type that the table declares.

    Attributes:
        type: `text`, `time`, `integer`, `boolean` or `decimal(n)`.
    """

    name: str
    type: str


class Text(_Node, frozen=True, tag="text"):
    """A string literal."""

    value: str


class Number(_Node, frozen=True, tag="number"):
    """An exact decimal literal in plain notation, without superfluous zeros."""

    value: str

    @property
    def decimal(self) -> Decimal:
        """The exact value."""
        return Decimal(self.value)


class Time(_Node, frozen=True, tag="time"):
    """A point in time: nanoseconds since the epoch, UTC."""

    ns: int


class TimeOfDay(_Node, frozen=True, tag="time_of_day"):
    """A time on the clock: nanoseconds since midnight, below a day."""

    ns: int


class Truth(_Node, frozen=True, tag="truth"):
    """TRUE or FALSE."""

    value: bool


class Null(_Node, frozen=True, tag="null"):
    """NULL; allowed as a result of CASE and COALESCE only."""


class Negative(_Node, frozen=True, tag="negative"):
    """Minus a number."""

    operand: "Expression"


class Arithmetic(_Node, frozen=True, tag="arithmetic"):
    """Two numbers combined. `%` has the sign of the dividend; `/` is a double."""

    op: ArithmeticOp
    left: "Expression"
    right: "Expression"


class Function(_Node, frozen=True, tag="function"):
    """A function of the list."""

    name: FunctionName
    arguments: "tuple[Expression, ...]"


class Local(_Node, frozen=True, tag="local"):
    """What clock or calendar of a time zone say at a time: the time of day, or 1 (Monday) to 7."""

    part: LocalPart
    operand: "Expression"
    zone: str


class Round(_Node, frozen=True, tag="round"):
    """A number rounded half-even to so many digits behind the point; the result is exact."""

    operand: "Expression"
    digits: int


class When(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One branch of a CASE."""

    condition: "Expression"
    result: "Expression"


class Case(_Node, frozen=True, tag="case"):
    """CASE WHEN … THEN … ELSE … END; without ELSE it is NULL."""

    whens: tuple[When, ...]
    otherwise: "Expression"


class Compare(_Node, frozen=True, tag="compare"):
    """A comparison of two values of one type."""

    op: CompareOp
    left: "Expression"
    right: "Expression"


class In(_Node, frozen=True, tag="in"):
    """Whether a value is one of several literals of its type."""

    operand: "Expression"
    values: "tuple[Text | Number | Time | TimeOfDay, ...]"


class InSet(_Node, frozen=True, tag="in_set"):
    """Whether an instrument is in a set that is kept outside of the filter, under a name."""

    operand: "Expression"
    name: str


class Like(_Node, frozen=True, tag="like"):
    """`%` is any run of characters, `_` any one; `escape` is "" or one character."""

    operand: "Expression"
    pattern: str
    escape: str = ""


class IsNull(_Node, frozen=True, tag="is_null"):
    """Whether a value is NULL; itself never NULL."""

    operand: "Expression"


class Not(_Node, frozen=True, tag="not"):
    """Negation: NULL stays NULL."""

    operand: "Expression"


class And(_Node, frozen=True, tag="and"):
    """All of the operands."""

    operands: "tuple[Expression, ...]"


class Or(_Node, frozen=True, tag="or"):
    """Any of the operands."""

    operands: "tuple[Expression, ...]"


References = tuple[tuple[str, str], ...]
"""Names and types of the columns that come from reference tables."""

Literals = Text | Number | Time | TimeOfDay
Expression = (
    Column
    | Reference
    | Text
    | Number
    | Time
    | TimeOfDay
    | Truth
    | Null
    | Negative
    | Arithmetic
    | Function
    | Local
    | Round
    | Case
    | Compare
    | In
    | InSet
    | Like
    | IsNull
    | Not
    | And
    | Or
)

NEGATED: Final[dict[CompareOp, CompareOp]] = {
    "=": "<>",
    "<>": "=",
    "<": ">=",
    "<=": ">",
    ">": "<=",
    ">=": "<",
}
MIRRORED: Final[dict[CompareOp, CompareOp]] = {
    "=": "=",
    "<>": "<>",
    "<": ">",
    "<=": ">=",
    ">": "<",
    ">=": "<=",
}


def children(node: Expression) -> tuple[Expression, ...]:
    """The direct operands, in the order in which they are written."""
    match node:
        case Negative(operand) | In(operand) | Like(operand) | IsNull(operand) | Not(operand):
            return (operand,)
        case InSet(operand) | Local(_, operand) | Round(operand):
            return (operand,)
        case Arithmetic(_, left, right) | Compare(_, left, right):
            return (left, right)
        case Function(_, operands) | And(operands) | Or(operands):
            return operands
        case Case(whens, otherwise):
            return (*(part for when in whens for part in (when.condition, when.result)), otherwise)
        case _:
            return ()


def walk(node: Expression) -> Iterator[Expression]:
    """The node and everything below it."""
    yield node
    for child in children(node):
        yield from walk(child)


def columns_of(node: Expression) -> frozenset[str]:
    """The names of the columns that a tree reads."""
    return frozenset(part.name for part in walk(node) if isinstance(part, Column))


def to_sql(node: Expression) -> str:  # noqa: C901, PLR0911, PLR0912 - a case per node
    """SQL that parses to this tree; equal trees give equal text."""
    match node:
        case Column(name) | Reference(name):
            return name
        case Text(value):
            return _quoted(value)
        case Number(value):
            return value
        case Time(ns):
            return f"TIMESTAMP '{np.datetime64(ns, 'ns')}Z'"
        case TimeOfDay(ns):
            return f"TIME '{_clock(ns)}'"
        case Truth(value):
            return "TRUE" if value else "FALSE"
        case Null():
            return "NULL"
        case Negative(operand):
            return f"-{_operand(operand)}"
        case Arithmetic(op, left, right):
            return f"{_operand(left)} {op} {_operand(right)}"
        case Function(name, arguments):
            return f"{name}({', '.join(map(to_sql, arguments))})"
        case Local(part, operand, zone):
            return f"local_{part}({to_sql(operand)}, {_quoted(zone)})"
        case Round(operand, digits):
            return f"round({to_sql(operand)}, {digits})"
        case Case(whens, otherwise):
            parts = [f"WHEN {to_sql(w.condition)} THEN {to_sql(w.result)}" for w in whens]
            return f"CASE {' '.join(parts)} ELSE {to_sql(otherwise)} END"
        case Compare(op, left, right):
            return f"{_side(left)} {op} {_side(right)}"
        case In(operand, values):
            return f"{_side(operand)} IN ({', '.join(map(to_sql, values))})"
        case InSet(operand, name):
            return f"{to_sql(operand)} IN SET {_quoted(name)}"
        case Like(operand, pattern, escape):
            tail = f" ESCAPE {_quoted(escape)}" if escape else ""
            return f"{_side(operand)} LIKE {_quoted(pattern)}{tail}"
        case IsNull(operand):
            return f"{_side(operand)} IS NULL"
        case Not(operand):
            return f"NOT ({to_sql(operand)})"
        case And(operands):
            return " AND ".join(
                f"({to_sql(o)})" if isinstance(o, And | Or) else to_sql(o) for o in operands
            )
        case Or(operands):
            return " OR ".join(
                f"({to_sql(o)})" if isinstance(o, Or) else to_sql(o) for o in operands
            )


def _clock(ns: int) -> str:
    seconds, fraction = divmod(ns, _SECOND_NS)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{fraction:09}".rstrip("0") if fraction else text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _operand(node: Expression) -> str:
    bare = isinstance(node, Column | Reference | Function | Local | Round | Case) or (
        isinstance(node, Number) and not node.value.startswith("-")
    )
    return to_sql(node) if bare else f"({to_sql(node)})"


def _side(node: Expression) -> str:
    predicate = isinstance(node, Compare | In | InSet | Like | IsNull | Not | And | Or)
    return f"({to_sql(node)})" if predicate else to_sql(node)
