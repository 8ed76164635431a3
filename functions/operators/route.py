"""Routing: which rows of a frame go to which view of a plan.

Cost grows with the views that match, not with all views (`marketdata.filters.index`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from functions.operators.render import max_rows
from marketdata.filters import Filter
from marketdata.filters.columns import FrameColumns
from marketdata.filters.index import FilterIndex
from marketdata.plans import Plan, View
from marketdata.reference import ReferenceTable

Rows = npt.NDArray[np.int64]

Routed = tuple[View, Rows | None]
"""A view and its row numbers: ascending; None stands for every row."""


class Router:
    """A plan made ready to run; immutable, so switching plans is switching routers.

    Args:
        plan: what to route by.
        before: the router of another plan; views that both have are taken over from it.
        tables: the reference tables that the plan names.

    Attributes:
        tables: by name.
        max_rows: view id -> most events in a message of the view.

    Raises:
        FilterError: a view's filter is none, or names a set that the plan lacks.
    """

    def __init__(
        self,
        plan: Plan,
        before: "Router | None" = None,
        tables: Mapping[str, ReferenceTable] = MappingProxyType({}),
    ) -> None:
        self.plan = plan
        self.tables = tables
        self.views = {view.id: view for view in plan.views}
        # A view is named by what it is made of, so what is known of it holds in every plan.
        known_rows = before.max_rows if before else {}
        self.max_rows: dict[str, int] = {
            view.id: known_rows.get(view.id) or max_rows(view) for view in plan.views
        }
        known = before.filters if before else {}
        self.filters: dict[str, Filter] = {
            view.id: known.get(view.id) or Filter.from_json(view.predicate)
            for view in plan.views
            if view.predicate is not None
        }
        known_bound = before.bound if before and before.plan.sets == plan.sets else {}
        self.bound: dict[str, Filter] = {
            view_id: known_bound.get(view_id) or one.with_sets(plan.sets)
            for view_id, one in self.filters.items()
        }
        self._sides: dict[bool, _Side] = {
            together: self._side(before, together=together) for together in (False, True)
        }

    def has_views(self, *, together: bool) -> bool:
        """Whether there are views that take kinds together, or views that do not."""
        return self._sides[together].views > 0

    def route(
        self,
        batch: pa.RecordBatch | FrameColumns,
        kind: str,
        failed: dict[str, Exception] | None = None,
        *,
        together: bool = False,
    ) -> Iterator[Routed]:
        """The views that at least one row of the batch goes to.

        Args:
            batch, kind: a frame or several as one, or their columns.
            failed: is given the ids of views whose filters raised, with what was raised. Without
                it that is raised once the other views have been told.
            together: ask the views that take kinds together, and not the others.
        """
        side = self._sides[together]
        for view in side.everything:
            yield view, None
        for view_id, rows in side.index.match_rows(batch, kind, failed):
            yield self.views[view_id], rows

    def _side(self, before: "Router | None", *, together: bool) -> "_Side":
        views = [view for view in self.plan.views if view.delivery.together is together]
        bound = {view.id: self.bound[view.id] for view in views if view.predicate is not None}
        everything = tuple(view for view in views if view.predicate is None)
        known = before._sides[together].index if before else None  # noqa: SLF001 - of this class
        return _Side(len(views), everything, FilterIndex(bound, known))


@dataclass(frozen=True, slots=True)
class _Side:
    """The views that take kinds together, or the others.

    Attributes:
        views: how many there are.
        everything: those without a filter.
        index: the filters of the rest.
    """

    views: int
    everything: tuple[View, ...]
    index: FilterIndex
