"""Rendering: the rows a view gets, transformed and converted to the bytes of one message."""

import pyarrow as pa

from marketdata.formats import get_format
from marketdata.plans import View


def render(view: View, rows: pa.RecordBatch) -> bytes:
    """Transform and convert routed rows.

    Args:
        view: whose transformation, format and delivery settings apply.
        rows: sequenced events of one kind, at least one; their dictionaries hold only what occurs.
    """
    transformed = view.transformation.apply(rows)
    return get_format(view.format).encode(transformed, view.delivery.compression)
