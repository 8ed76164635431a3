"""The events of a view: what becomes of the rows that are routed to it, before they are bytes.

What the distributor delivers is made here, and so is what a preview of a plan shows. Pure.
"""

from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa

from marketdata.arrays import gathered
from marketdata.custom import Answer
from marketdata.mixed import occurring
from marketdata.plans import View
from marketdata.rules import Checked
from marketdata.schemas import COLUMNS
from marketdata.splitting import Rows, split_rows

CallCustom = Callable[[View, pa.RecordBatch], Answer]
"""Has a view's custom transformation work on rows: `functions.runtime.custom_calls`."""


class ViewEvents(NamedTuple):
    """Events of a view.

    Attributes:
        rows: the events that the view gets, as they were sequenced.
        events: the same ones, transformed; None where there are none.
    """

    rows: pa.RecordBatch
    events: pa.RecordBatch | None


def view_events(
    view: View, rows: pa.RecordBatch, call_custom: CallCustom, checked: Checked
) -> ViewEvents:
    """What a view gets of routed rows.

    Args:
        view: whose transformation applies.
        rows: sequenced events of one kind, or mixed where the view takes kinds together, at least
            one, joined with the view's reference tables; their dictionaries hold only what occurs.
        call_custom: is called for views with a custom transformation.
        checked: what the transformation's rules say of the rows.

    Raises:
        CustomFailed: of `call_custom`.
    """
    transformation = view.transformation
    added: tuple[pa.Array, ...] = ()
    marks = checked.marks
    if checked.rows is not None:
        rows = taken(rows, checked.rows)
    if transformation.custom and rows.num_rows:
        answer = call_custom(view, _of_events(rows))
        added = answer.columns
        if answer.rows is not None:
            rows = taken(rows, answer.rows)
            marks = None if marks is None else gathered(marks, answer.rows)
    if not rows.num_rows:
        return ViewEvents(rows, None)
    if view.delivery.together:
        rows = occurring(rows)
    if marks is not None:
        added = (*added, marks)
    return ViewEvents(rows, transformation.apply(rows, view.computed or None, added))


def _of_events(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows as they were sequenced: packages are not given reference data."""
    names = [name for name in rows.schema.names if name in COLUMNS]
    return rows if len(names) == rows.num_columns else rows.select(names)


def taken(rows: pa.RecordBatch, numbers: Rows) -> pa.RecordBatch:
    """Some rows of a batch, by ascending numbers; dictionaries hold only what occurs in them."""
    return next(split_rows(rows, [numbers])) if len(numbers) else rows.slice(0, 0)
