"""The join: columns of reference tables beside the columns of events.

What a key leads to is asked once for each distinct value of the frame's dictionaries and mapped to
the rows through their codes, so the cost grows with the instruments of a frame and one `take` for
each column; where rows hold from a time on, with two binary searches an event besides.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.filters.columns import FrameColumns, Mask
from marketdata.reference.spec import Enrichment, reference_fields
from marketdata.reference.table import NO_ROW, ReferenceTable, Rows
from marketdata.rules import Rule


class Joined(NamedTuple):
    """Events with the columns of reference tables.

    Attributes:
        events: all rows, with the columns behind those of the events.
        missing: name of a rule (`Enrichment.rule`) -> which events have no row, for enrichments
            that do not let them pass.
    """

    events: pa.RecordBatch
    missing: Mapping[str, Mask]


def missing_rules(enrichments: Sequence[Enrichment]) -> dict[str, Rule]:
    """The validation rules that enrichments stand for: that there is a row."""
    return {
        one.rule: Rule(f"{', '.join(one.on or ())} in reference table {one.table}", one.missing)
        for one in enrichments
        if one.missing != "null"
    }


def enriched(
    enrichments: Sequence[Enrichment],
    events: pa.RecordBatch,
    tables: Mapping[str, ReferenceTable],
) -> Joined:
    """Join tables to events, one after the other.

    Args:
        enrichments: resolved.
        events: sequenced events of one kind, or mixed.
        tables: by name, at least those that the enrichments name.
    """
    missing: dict[str, Mask] = {}
    if not enrichments:
        return Joined(events, missing)
    kind = events.schema.metadata[b"kind"].decode()
    for one in enrichments:
        columns = FrameColumns(events, kind)
        table = tables[one.table]
        rows = _rows(table, one.on or (), columns)
        if one.missing != "null":
            missing[one.rule] = rows < 0
        taken_from = {delivered: name for name, delivered in one.columns.items()}
        fields = reference_fields([one])
        added = [table.column(taken_from[field.name], rows) for field in fields]
        schema = pa.schema([*events.schema, *fields], metadata=events.schema.metadata)
        events = pa.RecordBatch.from_arrays([*events.columns, *added], schema=schema)
    return Joined(events, missing)


def _rows(table: ReferenceTable, on: Sequence[str], columns: FrameColumns) -> Rows:
    """The table's row for each event; -1 for none."""
    parts = [columns.texts(name) for name in on]
    if len(parts) == 1:
        codes, keys = parts[0].codes, parts[0].values.to_pylist()
    else:
        codes, distinct = _combined([part.codes for part in parts])
        texts = [[*part.values.to_pylist(), None] for part in parts]
        keys = [
            tuple(text[code] for text, code in zip(texts, row, strict=True))
            for row in distinct.tolist()
        ]
    # One behind the last stands for NULL, which is code -1.
    groups = np.append(table.groups(keys), NO_ROW)[codes]
    return table.rows_at(groups, columns.numbers("ts_event").values)


def _combined(
    parts: Sequence[npt.NDArray[np.intp]],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Codes of combinations: one a row, and the parts of each code, one combination a row."""
    sizes = [int(part.max(initial=-1)) + 2 for part in parts]
    packed = np.ravel_multi_index(
        [part % size for part, size in zip(parts, sizes, strict=True)], sizes
    )
    distinct, codes = np.unique(packed, return_inverse=True)
    split = np.stack(np.unravel_index(distinct, sizes), axis=1)
    # What was -1 became the last of its column.
    return codes.ravel(), np.where(split == np.array(sizes) - 1, -1, split)
