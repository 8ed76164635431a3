"""Rendering: the rows a view gets, transformed and converted to the bytes of one message."""

import pyarrow as pa

from marketdata.formats import FormatError, format_of_view
from marketdata.plans import View


def render(view: View, rows: pa.RecordBatch) -> bytes:
    """Transform and convert routed rows.

    Args:
        view: whose transformation, format and delivery settings apply.
        rows: sequenced events of one kind, at least one; their dictionaries hold only what occurs.

    Raises:
        FormatError: the format is not installed, cannot write the rows, or gives no bytes.
    """
    transformed = view.transformation.apply(rows)
    data = format_of_view(view.format).encode(transformed, view.delivery.compression)
    if not isinstance(data, bytes):
        raise FormatError(f"format {view.format!r} gave {type(data).__name__}, not bytes")
    return data
