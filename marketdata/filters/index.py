"""Which views a frame's events belong to, at a cost that grows with matches, not with views.

Equality and IN terms on instrument, venue and region lead from the values that occur in a frame to
the views that ask for them; `kind` has been decided beforehand. What remains of a condition is
evaluated only on the rows that the index gave: comparisons of a column with a literal for all views
at once, anything else view by view. Views with equal filters are evaluated once.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.filters.bulk import BulkTerms, is_bulk_term
from marketdata.filters.columns import FrameColumns, Mask
from marketdata.filters.evaluate import holds
from marketdata.filters.filter import Filter
from marketdata.filters.normalize import conjunction
from marketdata.filters.tree import And, Column, Compare, Expression, In, Text, Truth
from marketdata.frames import frame_kind
from marketdata.schemas import KINDS

Rows = npt.NDArray[np.int64]

INDEXED: Final = ("instrument", "venue", "region")
"""Columns that lead to views, the most selective first; a view is found through one of them."""


class FilterIndex:
    """The filters of many views, made ready for frames. Immutable; safe to share by threads."""

    def __init__(self, filters: Mapping[str, Filter]) -> None:
        """Make an index.

        Args:
            filters: view id -> filter.
        """
        views: dict[Filter, list[str]] = {}
        for view_id, one in filters.items():
            views.setdefault(one, []).append(view_id)
        self._views = [tuple(ids) for ids in views.values()]
        self._by_kind = {kind: _KindIndex([one.on_kind(kind) for one in views]) for kind in KINDS}

    def match(
        self, batch: pa.RecordBatch, kind: str | None = None
    ) -> Iterator[tuple[str, Mask | None]]:
        """Views that get something of a frame, each with the mask of its rows.

        Args:
            batch: events of one kind.
            kind: by default the one that the batch's schema metadata names.

        Yields:
            View id and a bool array of `batch.num_rows`, or None for all rows; every view at most
            once, views without a matching row not at all.
        """
        for view_id, rows in self.match_rows(batch, kind):
            mask = None
            if rows is not None:
                mask = np.zeros(batch.num_rows, np.bool_)
                mask[rows] = True
            yield view_id, mask

    def match_rows(
        self, batch: pa.RecordBatch, kind: str | None = None
    ) -> Iterator[tuple[str, Rows | None]]:
        """As `match`, with ascending row numbers, which are cheaper where views take few rows."""
        columns = FrameColumns(batch, kind or frame_kind(batch))
        if not columns.rows:
            return
        for number, rows in self._by_kind[columns.kind].match(columns):
            whole = rows is None or len(rows) == columns.rows
            for view_id in self._views[number]:
                yield view_id, None if whole else rows


class _KindIndex:
    """The filters' conditions as they stand on one kind, by the filters' numbers."""

    def __init__(self, conditions: Sequence[Expression]) -> None:
        self._all: list[int] = []
        self._unindexed: list[tuple[int, Expression]] = []
        found: dict[str, dict[str, list[int]]] = {name: {} for name in INDEXED}
        bulk: list[tuple[int, Expression]] = []
        self._rest: dict[int, Expression] = {}
        for number, condition in enumerate(conditions):
            if isinstance(condition, Truth):
                if condition.value:
                    self._all.append(number)
                continue
            parts = condition.operands if isinstance(condition, And) else (condition,)
            term = _leading(parts)
            if term is None:
                self._unindexed.append((number, condition))
                continue
            name, values, at = term
            for value in values:
                found[name].setdefault(value, []).append(number)
            others = [part for i, part in enumerate(parts) if i != at]
            bulk += [(number, part) for part in others if is_bulk_term(part)]
            rest = conjunction(part for part in others if not is_bulk_term(part))
            if rest != Truth(True):
                self._rest[number] = rest
        self._index = {
            name: {value: np.array(numbers, np.int64) for value, numbers in values.items()}
            for name, values in found.items()
            if values
        }
        self._bulk = BulkTerms(bulk, len(conditions))
        self._filters = len(conditions)

    def match(self, columns: FrameColumns) -> Iterator[tuple[int, Rows | None]]:
        for number in self._all:
            yield number, None
        for name, index in self._index.items():
            yield from self._match_indexed(name, index, columns)
        for number, condition in self._unindexed:
            rows = np.flatnonzero(holds(condition, columns))
            if len(rows):
                yield number, rows

    def _match_indexed(
        self, name: str, index: dict[str, Rows], columns: FrameColumns
    ) -> Iterator[tuple[int, Rows]]:
        numbers, rows = _hits(name, index, columns)
        numbers, rows = self._bulk.keep(numbers, rows, columns)
        if not len(rows):
            return
        # Pairs come by row: a stable sort by filter leaves a filter's rows ascending. Narrow keys
        # let numpy use radix sort.
        narrow = numbers.astype(np.uint16) if self._filters <= 1 << 16 else numbers
        order = np.argsort(narrow, kind="stable")
        numbers, rows = numbers[order], rows[order]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        ends = np.append(starts[1:], len(numbers)).tolist()
        for number, start, end in zip(numbers[starts].tolist(), starts.tolist(), ends, strict=True):
            of_view = rows[start:end]
            rest = self._rest.get(number)
            if rest is not None:
                of_view = of_view[holds(rest, columns.narrow(of_view))]
                if not len(of_view):
                    continue
            yield number, of_view


def _leading(parts: Sequence[Expression]) -> tuple[str, tuple[str, ...], int] | None:
    """The term through which a view is found: column, values and place among the parts."""
    terms: dict[str, tuple[tuple[str, ...], int]] = {}
    for i, part in enumerate(parts):
        match part:
            case Compare("=", Column(name), Text(value)) if name in INDEXED:
                terms.setdefault(name, ((value,), i))
            case In(Column(name), values) if name in INDEXED:
                texts = tuple(value.value for value in values if isinstance(value, Text))
                terms.setdefault(name, (texts, i))
            case _:
                pass
    return next(((name, *terms[name]) for name in INDEXED if name in terms), None)


def _hits(name: str, index: dict[str, Rows], columns: FrameColumns) -> tuple[Rows, Rows]:
    """All pairs of a filter's number and a row whose value the filter asks for, by row."""
    text = columns.texts(name)
    hit = [(code, index[v]) for code, v in enumerate(text.values.to_pylist()) if v in index]
    if not hit:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    numbers = np.concatenate([found for _, found in hit])
    sizes = np.array([len(found) for _, found in hit])
    # Of each code, how many filters ask for it and where they stand; NULL has code -1, the last.
    asking = np.zeros(len(text.values) + 1, np.int64)
    first = np.zeros(len(text.values) + 1, np.int64)
    codes = [code for code, _ in hit]
    asking[codes] = sizes
    first[codes] = np.cumsum(sizes) - sizes
    lengths = asking[text.codes]
    rows = np.repeat(np.arange(columns.rows), lengths)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return numbers[np.repeat(first[text.codes], lengths) + within], rows
