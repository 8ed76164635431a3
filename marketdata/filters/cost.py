"""How long a condition or value may take on a frame.

All views are routed together: one that takes long holds up all others. The units are roughly what
one comparison of a column with a number takes; patterns, clocks and folded texts take many.
"""

from typing import Final

from marketdata.filters.errors import FilterTooComplex
from marketdata.filters.magnitude import check_magnitude
from marketdata.filters.tree import Expression, Function, In, Like, Local, Text, walk

MAX_COST: Final = 8_000
"""About 150 ms on a frame of 8,192 events on the slowest machine tried."""
MAX_PATTERN: Final = 512
"""Most characters of a LIKE pattern: no text of an event is longer."""

_LIKE: Final = 60
_LOCAL: Final = 60
_FOLD: Final = 60
_ARGUMENT: Final = 10


def check_cost(tree: Expression) -> None:
    """Refuse what costs more than `MAX_COST`, or has numbers longer than any event needs.

    Raises:
        FilterTooComplex: without a position; see `marketdata.filters.magnitude` for numbers.
    """
    check_magnitude(tree)
    for part in walk(tree):
        if isinstance(part, Like) and len(part.pattern) > MAX_PATTERN:
            raise FilterTooComplex(f"a LIKE pattern has more than {MAX_PATTERN} characters")
    cost = sum(map(_cost, walk(tree)))
    if cost > MAX_COST:
        raise FilterTooComplex(
            f"the text costs {cost} units of work, more than {MAX_COST}",
            hint="a LIKE, a local time and a lower or upper each cost about 60: use fewer of them, "
            "or write alternatives as IN (…)",
        )


def _cost(part: Expression) -> int:
    match part:
        case Like(_, pattern):
            return _LIKE + len(pattern)
        case Local():
            return _LOCAL
        case Function("coalesce", arguments):
            return _ARGUMENT * len(arguments)
        case Function("lower" | "upper"):
            return _FOLD
        case In(_, values):
            # Texts are looked up by the index; numbers are compared.
            return 1 if isinstance(values[0], Text) else len(values)
        case _:
            return 1
