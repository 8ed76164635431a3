"""Rendering: the rows a view gets, transformed and converted to the bytes of one message."""

import json
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from marketdata.filters.computed import computed_field
from marketdata.filters.tree import Expression, Text, walk
from marketdata.formats import FormatError, format_of_view
from marketdata.formats.registry import LEAST_ROWS
from marketdata.frames import MAX_MESSAGE_BYTES, MAX_SYMBOL_BYTES
from marketdata.mixed import MERGED_FIELDS, occurring, with_merged
from marketdata.plans import View
from marketdata.schemas import SEQUENCED_SCHEMAS
from marketdata.transformations import Transformation

_NUMBER_BYTES: Final = 32
_AROUND_TEXT_BYTES: Final = 8
"""Room for a number or a time as text, and for what stands around a text."""


_NAMES_IN_EVENTS: Final = frozenset({"json", "msgpack"})
_OWN_NAMES_BYTES: Final = max(sum(map(len, schema.names)) for schema in SEQUENCED_SCHEMAS.values())
_FREE_NAMES_BYTES: Final = 64
"""So much longer the names may be in a format's share: real events leave more of it."""


def max_rows(view: View) -> int:
    """Most events in a message of a view: fewer than its format has, the more it computes.

    Fewer, too, where long new names of columns stand in every event.
    """
    most = format_of_view(view.format).max_rows
    share = MAX_MESSAGE_BYTES // most
    wider = sum(len(name) + _width(tree) for name, tree in (view.computed or {}).items())
    if view.delivery.conflate_ms:
        wider += sum(len(field.name) + _NUMBER_BYTES for field in MERGED_FIELDS)
    if view.format in _NAMES_IN_EVENTS:
        wider += max(0, _names(view.transformation) - _OWN_NAMES_BYTES - _FREE_NAMES_BYTES)
    return max(LEAST_ROWS, min(most, MAX_MESSAGE_BYTES // (share + wider)))


def _names(transformation: Transformation) -> int:
    """Characters of the names of the columns of the kind that has most."""
    rename, select = transformation.rename, transformation.select
    return max(
        sum(
            len(rename.get(name, name)) for name in schema.names if select is None or name in select
        )
        for schema in SEQUENCED_SCHEMAS.values()
    )


def _width(tree: Expression) -> int:
    """Room for a value of a computed column."""
    if not pa.types.is_string(computed_field("", tree).type):
        return _NUMBER_BYTES
    literals = (_escaped(part.value) for part in walk(tree) if isinstance(part, Text))
    return max([MAX_SYMBOL_BYTES, *literals]) + _AROUND_TEXT_BYTES


def _escaped(text: str) -> int:
    """Bytes of a text as JSON writes it; no other format needs more."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


def render(view: View, rows: pa.RecordBatch, further: Sequence[pa.Array] = ()) -> bytes:
    """Transform and convert routed rows.

    Args:
        view: whose transformation, format and delivery settings apply.
        rows: sequenced events of one kind, or mixed where the view takes kinds together, at least
            one; their dictionaries hold only what occurs.

        further: the columns of what was merged, for a conflated view.

    Raises:
        FormatError: the format is not installed, cannot write the rows, or gives no bytes.
    """
    if view.delivery.together:
        rows = occurring(rows)
    if further:
        rows = with_merged(rows, further)
    transformed = view.transformation.apply(rows, view.computed or None)
    data = format_of_view(view.format).encode(transformed, view.delivery.compression)
    if not isinstance(data, bytes):
        raise FormatError(f"format {view.format!r} gave {type(data).__name__}, not bytes")
    return data
