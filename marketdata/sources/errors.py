"""What a source raises: one error for the caller, one between a column and its reader."""

from marketdata.errors import DistributionError


class SourceError(DistributionError):
    """A data set cannot be read; the text names file and column and says what to change.

    Batches yielded before it are complete and stay valid.
    """


class ColumnError(Exception):
    """Values of one column cannot be converted; a reader turns it into `SourceError`.

    Attributes:
        row: index of the first offending value in the array given, None for the whole column.
        reason: what is there and what is expected.
    """

    def __init__(self, reason: str, row: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.row = row
