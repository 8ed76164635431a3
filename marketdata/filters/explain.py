"""Why an event matches a condition or does not: the condition's parts, each with its value.

Evaluated by the very kernels that route, on one event, so an explanation cannot differ from what
was done.
"""

from collections.abc import Collection, Mapping
from decimal import Decimal

import msgspec
import numpy as np
import pyarrow as pa

from marketdata.filters.columns import FrameColumns
from marketdata.filters.evaluate import holds
from marketdata.filters.normalize import normalize
from marketdata.filters.sets import bind
from marketdata.filters.tree import And, Expression, Not, Or, children, columns_of, to_sql
from marketdata.filters.typecheck import COLUMN_TYPES, Type


class Part(msgspec.Struct, frozen=True):
    """A part of a condition on one event.

    Attributes:
        sql: the part.
        value: whether it holds; None for NULL.
        columns: what the event has in the columns that the part reads, numbers as exact decimals
            and times as ISO 8601; None for NULL. Empty where `parts` say it.
        parts: the operands of AND, OR and NOT.
    """

    sql: str
    value: bool | None
    columns: dict[str, str | None]
    parts: tuple["Part", ...]


def explain(
    node: Expression, event: pa.RecordBatch, kind: str, sets: Mapping[str, Collection[str]]
) -> Part:
    """Take a normal condition apart.

    Args:
        event: a batch of one row.
        kind: of the event.
        sets: at least the instrument sets that the condition names.

    Raises:
        UnknownSet: one of them is not there.
    """
    return _explain(node, FrameColumns(event, kind), sets)


def _explain(node: Expression, columns: FrameColumns, sets: Mapping[str, Collection[str]]) -> Part:
    bound = normalize(bind(node, sets))
    value = None
    if holds(bound, columns)[0]:
        value = True
    elif holds(bound, columns, want=False)[0]:
        value = False
    if isinstance(node, And | Or | Not):
        parts = tuple(_explain(part, columns, sets) for part in children(node))
        return Part(to_sql(node), value, {}, parts)
    read = {name: _text(name, columns) for name in sorted(columns_of(node))}
    return Part(to_sql(node), value, read, ())


def _text(name: str, columns: FrameColumns) -> str | None:
    if name == "kind":
        return columns.kind
    if COLUMN_TYPES[name] is Type.TEXT:
        text = columns.texts(name)
        code = text.codes[0]
        return None if code < 0 else str(text.values[int(code)].as_py())
    x = columns.numbers(name)
    if x.null is not None and x.null[0]:
        return None
    value = x.values[0]
    if x.scale is None:
        return str(value)
    if COLUMN_TYPES[name] is Type.TIME:
        return f"{np.datetime64(int(value), 'ns')}Z"
    return f"{Decimal(int(value)).scaleb(-x.scale):f}"
