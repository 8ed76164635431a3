"""Rendering: the rows a view gets, transformed and converted to the bytes of one message."""

from typing import Final

import pyarrow as pa

from marketdata.filters.computed import computed_field
from marketdata.filters.tree import Expression, Text, walk
from marketdata.formats import FormatError, format_of_view
from marketdata.formats.registry import LEAST_ROWS
from marketdata.frames import MAX_SYMBOL_BYTES
from marketdata.plans import View

_MESSAGE_BYTES: Final = 5 * 1024 * 1024 - 64 * 1024
"""Of which a format's `max_rows` gives every event its share; the rest is for properties."""

_NUMBER_BYTES: Final = 32
_AROUND_TEXT_BYTES: Final = 8
"""Room for a number or a time as text, and for what stands around a text."""


def max_rows(view: View) -> int:
    """Most events in a message of a view: fewer than its format has, the more it computes."""
    most = format_of_view(view.format).max_rows
    share = _MESSAGE_BYTES // most
    wider = sum(len(name) + _width(tree) for name, tree in (view.computed or {}).items())
    return max(LEAST_ROWS, min(most, _MESSAGE_BYTES // (share + wider)))


def _width(tree: Expression) -> int:
    """Room for a value of a computed column."""
    if not pa.types.is_string(computed_field("", tree).type):
        return _NUMBER_BYTES
    literals = (len(part.value.encode()) for part in walk(tree) if isinstance(part, Text))
    return max([MAX_SYMBOL_BYTES, *literals]) + _AROUND_TEXT_BYTES


def render(view: View, rows: pa.RecordBatch) -> bytes:
    """Transform and convert routed rows.

    Args:
        view: whose transformation, format and delivery settings apply.
        rows: sequenced events of one kind, at least one; their dictionaries hold only what occurs.

    Raises:
        FormatError: the format is not installed, cannot write the rows, or gives no bytes.
    """
    transformed = view.transformation.apply(rows, view.computed or None)
    data = format_of_view(view.format).encode(transformed, view.delivery.compression)
    if not isinstance(data, bytes):
        raise FormatError(f"format {view.format!r} gave {type(data).__name__}, not bytes")
    return data
