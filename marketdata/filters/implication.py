"""Whether every event that passes one filter passes another, too: shown symbolically or not at all.

What is shown holds on every event, NULL included, and whatever instrument sets hold. What is not
shown may hold all the same: then the answer is no.
"""

from functools import lru_cache
from typing import Final

from marketdata.filters.filter import Filter
from marketdata.filters.normalize import normalize
from marketdata.filters.tree import (
    And,
    Case,
    Column,
    Compare,
    Expression,
    Function,
    In,
    InSet,
    IsNull,
    Like,
    Literals,
    Local,
    Not,
    Or,
    Truth,
    When,
    children,
)
from marketdata.schemas import ASSIGNED, KEY_COLUMNS, KINDS

_NEVER_NULL: Final = frozenset({*KEY_COLUMNS, *ASSIGNED, "kind"})


@lru_cache(maxsize=1024)
def implies(one: Filter, other: Filter) -> bool:
    """Whether every event that passes `one` passes `other`; False where that cannot be shown.

    Either the two together are `one`, or nothing is left of `one` where `other` is not TRUE.
    """
    if one & other == one:
        return True
    left = Filter(normalize(And((one.tree, _unmet(other.tree)))))
    return all(left.on_kind(kind) == Truth(False) for kind in KINDS)


def is_not_true(tree: Expression) -> Expression:
    """FALSE where a condition is TRUE, else TRUE: NOT, where the condition cannot be NULL."""
    if _is_two_valued(tree):
        return Not(tree)
    return Case((When(tree, Truth(False)),), Truth(True))


def _unmet(tree: Expression) -> Expression:
    """What is TRUE at least where a condition is not, in terms that can be weighed."""
    match tree:
        case And(operands):
            return Or(tuple(map(_unmet, operands)))
        case Or(operands):
            return And(tuple(map(_unmet, operands)))
        case Compare() | In() | Like() | Not(In() | Like()):
            compared = children(tree.operand if isinstance(tree, Not) else tree)
            unknown = (IsNull(each) for each in compared if not isinstance(each, Literals))
            return Or((Not(tree), *unknown))
        case _:
            return is_not_true(tree)


def _is_two_valued(tree: Expression) -> bool:
    """Whether an expression is never NULL; no for some that are not."""
    match tree:
        case Column(name):
            return name in _NEVER_NULL
        case IsNull() | Truth():
            return True
        case And() | Or() | Not() | Compare() | In() | InSet() | Like() | Local():
            return all(map(_is_two_valued, children(tree)))
        case Function("lower" | "upper"):
            return all(map(_is_two_valued, children(tree)))
        case _:
            return isinstance(tree, Literals)
