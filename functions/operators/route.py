"""Routing: which rows of a frame go to which view of a plan.

Cost grows with the views that match, not with all views (`marketdata.filters.index`).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.filters import Filter, FilterIndex
from marketdata.plans import Plan, View

Mask = npt.NDArray[np.bool_]


class Router:
    """A plan made ready to run; immutable, so switching plans is switching routers."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.views = {view.id: view for view in plan.views}
        self._all = tuple(view for view in plan.views if view.predicate is None)
        self._index = FilterIndex(
            {
                view.id: Filter.from_json(view.predicate)
                for view in plan.views
                if view.predicate is not None
            }
        )

    def route(self, batch: pa.RecordBatch, kind: str) -> Iterator[tuple[View, Mask | None]]:
        """The views that at least one row of the batch goes to.

        Yields:
            A view and its mask: bool, one entry a row; None stands for every row.
        """
        for view in self._all:
            yield view, None
        for view_id, mask in self._index.match(batch, kind):
            yield self.views[view_id], mask
