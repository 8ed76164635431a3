"""Which views a frame's events belong to, at a cost that grows with matches, not with views.

Equality and IN terms on instrument, venue and region lead from the values that occur in a frame to
the views that ask for them; `kind` has been decided beforehand. What remains of a condition is
evaluated only on the rows that the index gave: comparisons of a column with a literal for all views
at once, anything else view by view. Views with equal filters are evaluated once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.filters.bulk import BulkTerm, BulkTerms, bulk_term
from marketdata.filters.columns import FrameColumns, Mask, Texts
from marketdata.filters.evaluate import holds
from marketdata.filters.filter import Filter
from marketdata.filters.normalize import conjunction
from marketdata.filters.tree import And, Column, Compare, Expression, In, Text, Truth
from marketdata.frames import frame_kind
from marketdata.schemas import KINDS

Rows = npt.NDArray[np.int64]

_TRUE: Final = Truth(True)

INDEXED: Final = ("instrument", "venue", "region")
"""Columns that lead to views, the most selective first; a view is found through one of them."""


class FilterIndex:
    """The filters of many views, made ready for frames. Immutable; safe to share by threads."""

    def __init__(self, filters: Mapping[str, Filter], before: "FilterIndex | None" = None) -> None:
        """Make an index.

        Args:
            filters: view id -> filter.
            before: an index of mostly the same filters; what it knows of them is taken over.
        """
        views: dict[Filter, list[str]] = {}
        for view_id, one in filters.items():
            views.setdefault(one, []).append(view_id)
        self._views = [tuple(ids) for ids in views.values()]
        known = before._entries if before else {}  # noqa: SLF001 - of the same class
        self._entries: dict[Filter, dict[str, _Entry]] = {
            one: known.get(one) or _entries(one) for one in views
        }
        self._by_kind: dict[str, _KindIndex] = {}
        made: dict[tuple[int, ...], _KindIndex] = {}
        for kind in KINDS:
            entries = [of_kind[kind] for of_kind in self._entries.values()]
            same = tuple(map(id, entries))
            if same not in made:
                made[same] = _KindIndex(entries)
            self._by_kind[kind] = made[same]

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
        self,
        batch: pa.RecordBatch | FrameColumns,
        kind: str | None = None,
        failed: dict[str, Exception] | None = None,
    ) -> Iterator[tuple[str, Rows | None]]:
        """As `match`, with ascending row numbers, which are cheaper where views take few rows.

        Args:
            batch: as for `match`, or its columns, decoded already.
            kind: as for `match`.
            failed: is given the views whose filters raised, which get nothing, with what was
                raised. Without it that is raised once the other views have been told.
        """
        if isinstance(batch, FrameColumns):
            columns = batch
        else:
            columns = FrameColumns(batch, kind or frame_kind(batch))
        if not columns.rows:
            return
        raised: dict[int, Exception] = {}
        for number, rows in self._by_kind[columns.kind].match(columns, raised):
            whole = rows is None or len(rows) == columns.rows
            for view_id in self._views[number]:
                yield view_id, None if whole else rows
        for number, error in raised.items():
            if failed is None:
                raise error
            failed.update(dict.fromkeys(self._views[number], error))


@dataclass(frozen=True, slots=True)
class _Entry:
    """A condition taken apart.

    Attributes:
        condition: the whole.
        column, values: the term through which the view is found; column "" for none.
        bulk: what is evaluated for all views at once.
        rest: what is evaluated view by view; `Truth(True)` for nothing.
    """

    condition: Expression
    column: str
    values: tuple[str, ...]
    bulk: tuple[BulkTerm, ...]
    rest: Expression


def _entries(one: Filter) -> dict[str, _Entry]:
    """A filter's conditions by kind; the same entry where the condition is the same."""
    by_condition: dict[int, _Entry] = {}
    found = {}
    for kind in KINDS:
        condition = one.on_kind(kind)
        if id(condition) not in by_condition:
            by_condition[id(condition)] = _entry(condition)
        found[kind] = by_condition[id(condition)]
    return found


def _entry(condition: Expression) -> _Entry:
    parts = condition.operands if isinstance(condition, And) else (condition,)
    leading = _leading(parts)
    if leading is None:
        return _Entry(condition, "", (), (), condition)
    column, values, at = leading
    terms = [(part, bulk_term(part)) for i, part in enumerate(parts) if i != at]
    rest = conjunction(part for part, term in terms if term is None)
    bulk = tuple(term for _, term in terms if term is not None)
    return _Entry(condition, column, values, bulk, rest)


class _KindIndex:
    """The filters' conditions as they stand on one kind, by the filters' numbers."""

    def __init__(self, entries: Sequence[_Entry]) -> None:
        self._all: list[int] = []
        self._unindexed: list[tuple[int, Expression]] = []
        self._rest: dict[int, Expression] = {}
        terms: dict[str, list[tuple[int, tuple[str, ...]]]] = {name: [] for name in INDEXED}
        bulk: list[tuple[int, BulkTerm]] = []
        for number, entry in enumerate(entries):
            if entry.column:
                terms[entry.column].append((number, entry.values))
                bulk += [(number, term) for term in entry.bulk]
                if entry.rest != _TRUE:
                    self._rest[number] = entry.rest
            elif entry.condition == _TRUE:
                self._all.append(number)
            elif entry.condition != Truth(False):
                self._unindexed.append((number, entry.condition))
        self._postings = {name: _Postings(found) for name, found in terms.items() if found}
        self._bulk = BulkTerms(bulk, len(entries))
        self._filters = len(entries)

    def match(
        self, columns: FrameColumns, raised: dict[int, Exception]
    ) -> Iterator[tuple[int, Rows | None]]:
        """Filters that get something; what evaluating one raised goes to `raised`."""
        for number in self._all:
            yield number, None
        for name, postings in self._postings.items():
            yield from self._match_indexed(name, postings, columns, raised)
        for number, condition in self._unindexed:
            try:
                rows = np.flatnonzero(holds(condition, columns))
            except Exception as error:  # noqa: BLE001 - whatever a filter does, others go on
                raised[number] = error
                continue
            if len(rows):
                yield number, rows

    def _match_indexed(
        self,
        name: str,
        postings: "_Postings",
        columns: FrameColumns,
        raised: dict[int, Exception],
    ) -> Iterator[tuple[int, Rows]]:
        numbers, rows = postings.hits(columns.texts(name))
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
                try:
                    of_view = of_view[holds(rest, columns.narrow(of_view))]
                except Exception as error:  # noqa: BLE001 - as above
                    raised[number] = error
                    continue
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


class _Postings:
    """Which filters ask for which value of a column."""

    def __init__(self, terms: Sequence[tuple[int, tuple[str, ...]]]) -> None:
        self._places: dict[str, int] = {}
        places = [
            self._places.setdefault(value, len(self._places))
            for _, values in terms
            for value in values
        ]
        sizes = [len(values) for _, values in terms]
        numbers = np.repeat([number for number, _ in terms], sizes)
        self._numbers = numbers[np.argsort(places, kind="stable")]
        # Of each value, how many filters ask for it and where they stand; of no value, the last.
        self._asking = np.append(np.bincount(places), 0)
        self._first = np.cumsum(self._asking) - self._asking

    def hits(self, text: Texts) -> tuple[Rows, Rows]:
        """All pairs of a filter's number and a row whose value the filter asks for, by row."""
        # NULL has code -1, the last.
        places = np.array([self._places.get(v, -1) for v in text.values.to_pylist()] + [-1])
        asking, first = self._asking[places], self._first[places]
        lengths = asking[text.codes]
        rows = np.repeat(np.arange(len(lengths)), lengths)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self._numbers[np.repeat(first[text.codes], lengths) + within], rows
