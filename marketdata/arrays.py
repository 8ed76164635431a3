"""Moving between Arrow arrays and NumPy without copies and without pyarrow's pandas shim.

`pa.array(ndarray)` asks pandas first and imports it when it is installed: tens of megabytes and
many microseconds that a function instance does not want to pay for a frame of a few events.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def array_of(
    values: npt.NDArray[Any], type_: pa.DataType, null: npt.NDArray[np.bool_] | None = None
) -> pa.Array:
    """A fixed-width Arrow array over the memory of a contiguous NumPy array.

    The item size of `values` must be that of `type_`; the array keeps `values` alive. `null` says
    where it is null, None: nowhere.
    """
    valid = None if null is None else pa.py_buffer(np.packbits(~null, bitorder="little"))
    return pa.Array.from_buffers(type_, len(values), [valid, pa.py_buffer(values)])


def values_of(array: pa.Array, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The values of a fixed-width array as a read-only view; slots of nulls hold anything."""
    data, rows, first = array.buffers()[1], len(array), array.offset
    if data is None or not rows:
        return np.empty(0, dtype)
    offset = first and first * np.dtype(dtype).itemsize
    return np.frombuffer(data, dtype, rows, offset)


def valid_of(array: pa.Array) -> npt.NDArray[np.bool_]:
    """Where an array is not null."""
    validity = array.buffers()[0]
    if validity is None:
        return np.full(len(array), not array.null_count)
    bits = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].view(np.bool_)


def codes_of(column: pa.DictionaryArray) -> npt.NDArray[np.int16]:
    """The dictionary codes of a symbol column: int16; the codes of nulls hold anything."""
    return values_of(column.indices, np.int16)


def gathered(column: pa.Array, rows: npt.NDArray[np.int64]) -> pa.Array:
    """The given rows of a column, on the same dictionary where it has one.

    Args:
        column: of any type.
        rows: row numbers within the column; they are not checked.
    """
    if isinstance(column, pa.DictionaryArray):
        codes = gathered(column.indices, rows)
        return pa.DictionaryArray.from_arrays(codes, column.dictionary, safe=False)
    if column.null_count or not pa.types.is_primitive(column.type) or column.type.bit_width < 8:
        return pc.take(column, array_of(rows, pa.int64()), boundscheck=False)
    values = values_of(column, f"i{column.type.bit_width // 8}")
    return array_of(values[rows], column.type)


def joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows of batches of one schema behind one another, on shared dictionaries.

    Args:
        batches: at least one; one alone is given back as it is.
    """
    if len(batches) == 1:
        return batches[0]
    table = pa.Table.from_batches(batches).unify_dictionaries()
    return table.combine_chunks().to_batches()[0]


def lengths_of(strings: pa.StringArray) -> npt.NDArray[np.int32]:
    """Bytes of each value of a string array: int32; those of nulls hold anything."""
    offsets = np.frombuffer(strings.buffers()[1], np.int32, len(strings) + 1, strings.offset * 4)
    return offsets[1:] - offsets[:-1]


def text_bytes(column: pa.StringArray | pa.DictionaryArray) -> int:
    """Bytes of a column of texts with its offsets, or its codes and its dictionary."""
    if isinstance(column, pa.DictionaryArray):
        return len(column) * column.indices.type.bit_width // 8 + text_bytes(column.dictionary)
    rows, first = len(column), column.offset
    offsets = np.frombuffer(column.buffers()[1], np.int32, rows + 1, first * 4) if rows else (0, 0)
    return int(offsets[-1]) - int(offsets[0]) + 4 * rows


def run_of(joined: pa.BinaryArray) -> pa.Buffer:
    """The values of an array behind one another."""
    _, offsets, data = joined.buffers()
    bounds = np.frombuffer(offsets, np.int32)
    return data[int(bounds[joined.offset]) : int(bounds[joined.offset + len(joined)])]
