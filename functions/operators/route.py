"""Routing: which rows of a frame go to which view of a plan.

Cost grows with the views that match, not with all views (`marketdata.filters.index`).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from functions.operators.render import max_rows
from marketdata.filters import Filter
from marketdata.filters.index import FilterIndex
from marketdata.plans import Plan, View

Rows = npt.NDArray[np.int64]

Routed = tuple[View, Rows | None]
"""A view and its row numbers: ascending; None stands for every row."""


class Router:
    """A plan made ready to run; immutable, so switching plans is switching routers.

    Args:
        plan: what to route by.
        before: the router of another plan; views that both have are taken over from it.

    Attributes:
        max_rows: view id -> most events in a message of the view.

    Raises:
        FilterError: a view's filter is none, or names a set that the plan lacks.
    """

    def __init__(self, plan: Plan, before: "Router | None" = None) -> None:
        self.plan = plan
        self.views = {view.id: view for view in plan.views}
        # A view is named by what it is made of, so what is known of it holds in every plan.
        known_rows = before.max_rows if before else {}
        self.max_rows: dict[str, int] = {
            view.id: known_rows.get(view.id) or max_rows(view) for view in plan.views
        }
        self._all = tuple(view for view in plan.views if view.predicate is None)
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
        self.index: FilterIndex = FilterIndex(self.bound, before.index if before else None)

    def route(
        self, batch: pa.RecordBatch, kind: str, failed: dict[str, Exception] | None = None
    ) -> Iterator[Routed]:
        """The views that at least one row of the batch goes to.

        Args:
            batch, kind: a frame or several as one.
            failed: is given the ids of views whose filters raised, with what was raised. Without
                it that is raised once the other views have been told.
        """
        for view in self._all:
            yield view, None
        for view_id, rows in self.index.match_rows(batch, kind, failed):
            yield self.views[view_id], rows
