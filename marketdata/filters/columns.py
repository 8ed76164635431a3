"""The columns of one frame as numpy arrays, decoded once however many filters read them.

Numbers stay integers at their column's scale. Text stays codes into a dictionary of Arrow strings,
so that whatever a filter asks of a text is asked once per distinct value. A `FrameColumns` may be
narrowed to some of its rows: what was decoded is shared.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.mixed import KIND_FIELD, MIXED
from marketdata.schemas import COLUMNS, decimal_scale

Mask = npt.NDArray[np.bool_]


@dataclass(slots=True, frozen=True)
class Numbers:
    """Numbers or times.

    Attributes:
        values: int64 (or Python ints where those do not suffice) at 10^-scale, or float64.
        scale: digits behind the point; None when `values` are floats.
        null: where the value is NULL; None when nowhere. `values` is 0 there.
    """

    values: npt.NDArray[Any]
    scale: int | None
    null: Mask | None


@dataclass(slots=True, frozen=True)
class Texts:
    """Texts as codes into distinct values; code -1 is NULL."""

    codes: npt.NDArray[np.intp]
    values: pa.StringArray


class FrameColumns:
    """Columns of a record batch by name, decoded on first use.

    Args:
        batch: events of one kind, or a mixed batch.
        kind: its kind, or `MIXED`.
    """

    def __init__(self, batch: pa.RecordBatch, kind: str) -> None:
        self._batch = batch
        self._numbers: dict[str, Numbers] = {}
        self._texts: dict[str, Texts] = {}
        self._folded: dict[tuple[int, str], tuple[pa.StringArray, pa.StringArray]] = {}
        self.kind = kind
        self.rows = batch.num_rows

    def numbers(self, name: str) -> Numbers:
        """A column of numbers or times; all NULL if the batch lacks it."""
        found = self._numbers.get(name)
        if found is None:
            found = self._numbers[name] = self._decode_numbers(name)
        return found

    def texts(self, name: str) -> Texts:
        """A text column; all NULL if the batch lacks it."""
        found = self._texts.get(name)
        if found is None:
            found = self._texts[name] = self._decode_texts(name)
        return found

    def kinds(self) -> Texts:
        """The kind of each event."""
        if self.kind == MIXED:
            return self.texts(KIND_FIELD.name)
        return Texts(np.zeros(self.rows, np.intp), pa.array([self.kind], pa.utf8()))

    def folded(self, values: pa.StringArray, case: str) -> pa.StringArray:
        """Distinct texts in lower or upper case, as Python folds them; remembered."""
        key = (id(values), case)
        found = self._folded.get(key)
        if found is None:
            fold = str.lower if case == "lower" else str.upper
            folded = pa.array([fold(text) for text in values.to_pylist()], pa.utf8())
            # Holding the original keeps its id from being given to another array.
            found = self._folded[key] = (values, folded)
        return found[1]

    def narrow(self, rows: npt.NDArray[np.intp]) -> "FrameColumns":
        """The same columns, of these rows only, in this order."""
        return _Narrowed(self, rows)

    def of_kind(self, kind: str, rows: npt.NDArray[np.intp]) -> "FrameColumns":
        """The same columns of these rows, which are all of a kind."""
        found = _Narrowed(self, rows)
        found.kind = kind
        return found

    def _decode_numbers(self, name: str) -> Numbers:
        # A column that no kind has comes from a reference table.
        field = COLUMNS[name] if name in COLUMNS else self._batch.schema.field(name)
        floating = pa.types.is_floating(field.type)
        scale = None if floating else decimal_scale(field) or 0
        at = self._batch.schema.get_field_index(name)
        if at < 0:
            zeros = np.zeros(self.rows, np.float64 if floating else np.int64)
            return Numbers(zeros, scale, np.ones(self.rows, np.bool_))
        column = self._batch.column(at)
        null = None
        if column.null_count:
            null = column.is_null().to_numpy(zero_copy_only=False)
            column = column.fill_null(0) if not pa.types.is_timestamp(column.type) else column
        if pa.types.is_timestamp(column.type):
            column = column.view(pa.int64())
            column = column.fill_null(0) if null is not None else column
        values = column.to_numpy(zero_copy_only=False)
        if floating:
            values = values.astype(np.float64)
            bad = np.isnan(values)
            if bad.any():
                null = bad if null is None else null | bad
                values = np.where(bad, 0.0, values)
        elif values.dtype == np.uint64:
            fits = not len(values) or int(values.max()) < 2**63
            values = values.view(np.int64) if fits else values.astype(object)
        else:
            values = values.astype(np.int64, copy=False)
        return Numbers(values, scale, null)

    def _decode_texts(self, name: str) -> Texts:
        at = self._batch.schema.get_field_index(name)
        if at < 0:
            return Texts(np.full(self.rows, -1, np.intp), pa.array([], pa.utf8()))
        column = self._batch.column(at)
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        indices = column.indices
        if indices.null_count:
            indices = indices.fill_null(-1)
        values = column.dictionary
        codes = indices.to_numpy(zero_copy_only=False).astype(np.intp, copy=False)
        if values.null_count:
            holds_null = values.is_null().to_numpy(zero_copy_only=False)
            codes = np.where(np.append(holds_null, False)[codes], -1, codes)
            values = values.fill_null("")
        return Texts(codes, values)


class _Narrowed(FrameColumns):
    def __init__(self, whole: FrameColumns, rows: npt.NDArray[np.intp]) -> None:
        self._whole = whole
        self._at = rows
        self._numbers = {}
        self._texts = {}
        self.kind = whole.kind
        self.rows = len(rows)

    def folded(self, values: pa.StringArray, case: str) -> pa.StringArray:
        return self._whole.folded(values, case)

    def narrow(self, rows: npt.NDArray[np.intp]) -> FrameColumns:
        return _Narrowed(self._whole, self._at[rows])

    def _decode_numbers(self, name: str) -> Numbers:
        whole = self._whole.numbers(name)
        null = None if whole.null is None else whole.null[self._at]
        return Numbers(whole.values[self._at], whole.scale, null)

    def _decode_texts(self, name: str) -> Texts:
        whole = self._whole.texts(name)
        return Texts(whole.codes[self._at], whole.values)
