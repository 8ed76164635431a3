"""How large the exact numbers of an expression can become.

Exact arithmetic takes time with the length of its numbers: without a bound, one view that
multiplies columns over and over would hold up all others. Four columns may be multiplied with one
another.
"""

from typing import Final

from marketdata.filters.errors import FilterTooComplex
from marketdata.filters.tree import (
    Arithmetic,
    Case,
    Expression,
    Null,
    Number,
    children,
    to_sql,
)
from marketdata.filters.typecheck import Type, result_type

MAX_BITS: Final = 256
"""Most bits of an exact number, sign and common scale apart."""

_COLUMN_BITS: Final = 64
_SHOWN: Final = 80


def check_magnitude(tree: Expression) -> None:
    """Refuse an expression in which a number can be longer than `MAX_BITS`.

    Factors add their bits: a column, a double and what is rounded from one have 64, a literal as
    many as its digits need. A sum has one bit more than the longer of its terms.

    Raises:
        FilterTooComplex: without a position.
    """
    _bits(tree)


def _bits(node: Expression) -> int:  # noqa: PLR0911 - a case per node
    below = [_bits(child) for child in children(node)]
    match node:
        case Number():
            _, digits, _ = node.decimal.as_tuple()
            return int("".join(map(str, digits))).bit_length()
        case Null():
            return 0
        case _ if not below or result_type(node) is not Type.NUMBER:
            return _COLUMN_BITS
        case Arithmetic("*"):
            bits = sum(below)
            if bits > MAX_BITS:
                raise FilterTooComplex(
                    f"the product {_short(node)} can have {bits} bits, more than {MAX_BITS}",
                    hint="multiply at most four columns, or round their quotients",
                )
            return bits
        case Arithmetic("+" | "-"):
            return max(below) + 1
        case Case():
            return max(*below[1::2], below[-1])
        case _:
            return max(below)


def _short(node: Expression) -> str:
    sql = to_sql(node)
    return sql if len(sql) <= _SHOWN else f"{sql[:_SHOWN]}…"
