"""Why a filter is refused: one tree, every member with a position and a hint.

    FilterError (a DistributionError and a ValueError)
    ├── FilterSyntaxError     it does not parse, or uses SQL that filters do not offer
    ├── UnknownColumn         no kind of event has this column
    ├── FilterTypeError       operands do not fit each other
    ├── FilterNeverTrue       no event of any kind can match
    ├── UnknownSet            there is no instrument set of this name
    └── FilterTooComplex      a limit on size, depth or list length is passed

All mean: fix the request. None is ever raised while events flow.
"""

from marketdata.errors import DistributionError


class FilterError(DistributionError, ValueError):
    """A filter is refused.

    Attributes:
        message: what is wrong, without the position.
        hint: what would be right; "" where there is nothing to add.
        position: 0-based character offset in the filter's text; None when it came as a tree.
        line, column: the same place, both from 1; None when it came as a tree.
    """

    def __init__(self, message: str, *, hint: str = "", position: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.position = position
        self.line: int | None = None
        self.column: int | None = None

    def locate(self, sql: str, position: int) -> None:
        """Set the place, unless a more exact one is known already."""
        if self.position is None:
            self.position = position
        before = sql[: self.position]
        self.line = before.count("\n") + 1
        self.column = self.position - (before.rfind("\n") + 1) + 1

    def __str__(self) -> str:
        place = f" at line {self.line}, column {self.column}" if self.line else ""
        return f"{self.message}{place}{f'; {self.hint}' if self.hint else ''}"


class FilterSyntaxError(FilterError):
    """The text does not parse, or uses SQL that filters do not offer."""


class UnknownColumn(FilterError):
    """No kind of event has the column."""


class FilterTypeError(FilterError):
    """Operands do not fit each other, or the filter is not a condition."""


class FilterNeverTrue(FilterError):
    """No event of any kind can match."""


class UnknownSet(FilterError):
    """There is no instrument set of this name."""


class FilterTooComplex(FilterError):
    """The filter passes a limit."""
