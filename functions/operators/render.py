"""Rendering: the rows a view gets, transformed and converted to the bytes of one message."""

import json
from typing import Final, NamedTuple

import pyarrow as pa

from marketdata.custom import Answer, Custom, call
from marketdata.filters.computed import computed_field
from marketdata.filters.tree import Expression, Text, walk
from marketdata.formats import FormatError, format_of_view
from marketdata.formats.registry import LEAST_ROWS, event_format
from marketdata.frames import MAX_MESSAGE_BYTES, MAX_SYMBOL_BYTES
from marketdata.plans import View
from marketdata.reference import Joined, reference_fields
from marketdata.rules import UNCHECKED, Checked
from marketdata.schemas import SEQUENCED_SCHEMAS
from marketdata.transformations import Transformation
from marketdata.view_events import CallCustom, view_events

_NUMBER_BYTES: Final = 32
_AROUND_TEXT_BYTES: Final = 8
"""Room for a number or a time as text, and for what stands around a text."""


_NAMES_IN_EVENTS: Final = frozenset({"json", "msgpack"})
_OWN_NAMES_BYTES: Final = max(sum(map(len, schema.names)) for schema in SEQUENCED_SCHEMAS.values())
_FREE_NAMES_BYTES: Final = 64
"""So much longer the names may be in a format's share: real events leave more of it."""


MOST_TOGETHER: Final = 1_024
"""Most messages of one event that are stored as one entry."""

_PROPERTIES_BYTES: Final = 512 + MAX_SYMBOL_BYTES
"""Room for the properties and the key of such a message."""

_SKIPPED_BYTES: Final = MAX_SYMBOL_BYTES + 4 * _NUMBER_BYTES
"""Room for what is told as skipped in front of an event."""


def max_rows(view: View) -> int:
    """Most events of a view that are stored together, as one message or with one message each.

    Fewer than its format has, the more it computes, and where long new names of columns stand in
    every event. May never change for a view: where a frame was cut tells which of its events the
    view has.
    """
    most = format_of_view(view.format).max_rows
    share = MAX_MESSAGE_BYTES // most
    wider = sum(len(name) + _width(tree) for name, tree in (view.computed or {}).items())
    added = [*view.transformation.added_fields, *reference_fields(view.transformation.enrich or ())]
    wider += sum(len(f.name) + _type_width(f.type) for f in added)
    wider += sum(len(name) + 1 for name in view.transformation.rules or ())
    if view.format in _NAMES_IN_EVENTS:
        wider += max(0, _names(view.transformation) - _OWN_NAMES_BYTES - _FREE_NAMES_BYTES)
    custom = view.transformation.custom
    if custom and custom.max_rows:
        most = min(most, custom.max_rows)
    if view.delivery.max_events:
        most = min(most, view.delivery.max_events)
    if view.delivery.by_event:
        most = min(most, MOST_TOGETHER)
        wider += _PROPERTIES_BYTES
    if view.delivery.conflates:
        wider += _SKIPPED_BYTES
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


def _type_width(type_: pa.DataType) -> int:
    return MAX_SYMBOL_BYTES + _AROUND_TEXT_BYTES if pa.types.is_string(type_) else _NUMBER_BYTES


def _escaped(text: str) -> int:
    """Bytes of a text as JSON writes it; no other format needs more."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


class Rendered(NamedTuple):
    """What a view gets of some rows.

    Attributes:
        rows: the events that the view delivers, as they were sequenced; none: there is no message.
        messages: the message of all of them, or one for each where the view has it so.
    """

    rows: pa.RecordBatch
    messages: list[bytes]


def _call_custom(view: View, rows: pa.RecordBatch) -> Answer:
    return call(view.transformation.custom or Custom(""), rows)


def check(view: View, joined: Joined) -> Checked:
    """What a view's validation rules say of joined rows; to be asked before `render`."""
    return view.transformation.check(joined, view.conditions or None)


def render(
    view: View,
    rows: pa.RecordBatch,
    call_custom: CallCustom = _call_custom,
    checked: Checked = UNCHECKED,
) -> Rendered:
    """Transform and convert routed rows.

    Args:
        view: whose transformation, format and delivery settings apply.
        rows: sequenced events of one kind, or mixed where the view takes kinds together, at least
            one, joined with the view's reference tables; their dictionaries hold only what occurs.
        call_custom: calls custom transformations; by default for as long as they take.
        checked: what `check` says of the rows.

    Raises:
        CustomFailed: of `call_custom`.
        FormatError: the format is not installed, cannot write the rows, or gives no bytes.
    """
    rows, events = view_events(view, rows, call_custom, checked)
    if events is None:
        return Rendered(rows, [])
    if view.delivery.by_event:
        messages = event_format(view.format).encode_each(events)
    else:
        messages = [format_of_view(view.format).encode(events, view.delivery.compression)]
    if not all(isinstance(data, bytes) for data in messages):
        raise FormatError(f"format {view.format!r} gave {type(messages[0]).__name__}, not bytes")
    return Rendered(rows, messages)
