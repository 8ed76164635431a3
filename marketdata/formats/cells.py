"""Rows of bytes put together from columns: what the binary formats are written with.

Each column becomes a `Cells`: a byte matrix of which every row uses a prefix. Cells stand side by
side in one wide matrix and one mask takes out the bytes in use: the cost of a row is that of its
bytes, not of its pieces. Long texts, for which a matrix would mostly be padding, stay Arrow arrays
and are joined at the end.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.arrays import lengths_of, run_of, values_of

MAX_CELL_BYTES: Final = 64
"""Widest text that is padded into a matrix."""

Lengths = npt.NDArray[np.int64]


@dataclass(slots=True, frozen=True)
class Cells:
    """One piece of every row.

    Attributes:
        matrix: uint8, rows by bytes.
        lengths: how many bytes of each row are in use, from its first; None: all.
    """

    matrix: npt.NDArray[np.uint8]
    lengths: Lengths | None = None


Piece: TypeAlias = bytes | Cells | pa.BinaryArray
"""The same bytes on every row, cells, or any bytes per row (nulls are empty)."""


def join_cells(pieces: Iterable[Piece], rows: int) -> pa.BinaryArray:
    """One value per row: its pieces in order."""
    parts: list[pa.BinaryArray] = []
    for wide, group in groupby(pieces, lambda piece: isinstance(piece, pa.Array)):
        run = list(group)
        parts += run if wide else [_joined(run, rows)]
    if len(parts) == 1:
        return parts[0]
    return pc.binary_join_element_wise(*parts, b"", null_handling="replace")


def lengths_of_rows(pieces: Iterable[Piece], rows: int) -> Lengths:
    """How many bytes each row has."""
    lengths = np.zeros(rows, np.int64)
    for piece in pieces:
        match piece:
            case bytes():
                lengths += len(piece)
            case Cells(matrix, some):
                lengths += matrix.shape[1] if some is None else some
            case _:
                lengths += pc.binary_length(piece).fill_null(0).to_numpy(zero_copy_only=False)
    return lengths


def stack(pieces: Iterable[Piece], rows: int) -> Cells:
    """Neighbours as one matrix of which every row uses a prefix again."""
    some = list(pieces)
    if len(some) == 1 and isinstance(some[0], Cells):
        return some[0]
    matrix, mask, lengths = _side_by_side(some, rows)
    if mask is None:
        return Cells(matrix)
    # The bytes in use move to the left.
    compact = np.zeros_like(matrix)
    compact[_prefixes(matrix.shape[1])[lengths]] = matrix[mask]
    return Cells(compact, lengths)


def optional(pieces: Iterable[Piece], valid: npt.NDArray[np.bool_], absent: bytes) -> list[Piece]:
    """The pieces where a row is valid, else `absent`, which must not be longer than they are."""
    rows = len(valid)
    some = list(pieces)
    if any(isinstance(piece, pa.Array) for piece in some):
        whole = join_cells(some, rows)
        return [pc.if_else(pa.array(valid), whole, pa.scalar(absent, pa.binary()))]
    cells = stack(some, rows)
    matrix = cells.matrix
    lengths = np.int64(matrix.shape[1]) if cells.lengths is None else cells.lengths
    if absent:
        matrix = matrix if matrix.flags.writeable else matrix.copy()
        matrix[~valid, : len(absent)] = np.frombuffer(absent, np.uint8)
    return [Cells(matrix, np.where(valid, lengths, len(absent)))]


def fixed(values: npt.NDArray[Any], head: bytes = b"") -> Cells:
    """The memory of numbers, each behind `head`; their byte order is that of their dtype."""
    width = values.dtype.itemsize
    data = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), width)
    if not head:
        return Cells(data)
    matrix = np.empty((len(values), len(head) + width), np.uint8)
    matrix[:, : len(head)] = np.frombuffer(head, np.uint8)
    matrix[:, len(head) :] = data
    return Cells(matrix)


def varints(values: npt.NDArray[np.unsignedinteger]) -> Piece:
    """Base-128 numbers, the least group first, as Avro and Protobuf have them."""
    least, most = int(values.min()), int(values.max())
    if least == most:
        return varint(least)
    width = _groups(most)
    matrix = np.empty((len(values), width), np.uint8)
    rest = values.astype(np.uint64, copy=False) if most >= 1 << 32 else values.astype(np.uint32)
    unit = rest.dtype.type
    for at in range(width):
        matrix[:, at] = rest.astype(np.uint8)
        if at + 1 < width:
            rest = rest >> unit(7)
    matrix |= 0x80
    if _groups(least) == width:
        matrix[:, -1] &= 0x7F
        return Cells(matrix)
    wide = values.astype(np.uint64, copy=False)
    lengths = np.ones(len(values), np.int64)
    for at in range(1, width):
        lengths += wide >= np.uint64(1 << 7 * at)
    matrix[np.arange(len(values)), lengths - 1] &= 0x7F
    return Cells(matrix, lengths)


def varint(value: int) -> bytes:
    """One number as `varints` writes it."""
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def texts(column: pa.Array, head: Callable[[Lengths], Piece]) -> list[Piece]:
    """UTF-8 texts, each behind what `head` writes for its length in bytes.

    Args:
        column: strings or a dictionary of strings; at nulls anything may stand.
        head: lengths in bytes -> piece.
    """
    if not isinstance(column, pa.DictionaryArray):
        return _texts(column, head)
    values = column.dictionary
    pieces = _texts(values, head)
    codes = values_of(column.indices, np.int16)
    if column.null_count:
        codes = np.where(column.is_valid().to_numpy(zero_copy_only=False), codes, 0)
    if len(values) == 1 and not any(isinstance(piece, pa.Array) for piece in pieces):
        return [bytes(run_of(join_cells(pieces, 1)))]
    if any(isinstance(piece, pa.Array) for piece in pieces):
        return [join_cells(pieces, len(values)).take(pa.array(codes))]
    table = stack(pieces, len(values))
    lengths = None if table.lengths is None else table.lengths[codes]
    return [Cells(table.matrix[codes], lengths)]


def _texts(column: pa.StringArray, head: Callable[[Lengths], Piece]) -> list[Piece]:
    lengths = lengths_of(column).astype(np.int64)
    if column.null_count:
        lengths[column.is_null().to_numpy(zero_copy_only=False)] = 0
    width = int(lengths.max())
    if width > MAX_CELL_BYTES:
        return [head(lengths), column.view(pa.binary())]
    if width == 0:
        return [head(lengths)]
    _, offsets, data = column.buffers()
    starts = np.frombuffer(offsets, np.int32, count=len(column), offset=column.offset * 4)
    # A window of full width begins at every byte, the last ones reach into the padding.
    padded = np.zeros(len(data) + width, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    return [head(lengths), Cells(windows[starts], None if lengths.min() == width else lengths)]


def _joined(pieces: list[Piece], rows: int) -> pa.BinaryArray:
    matrix, mask, lengths = _side_by_side(pieces, rows)
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    data = np.ascontiguousarray(matrix) if mask is None else matrix[mask]
    return pa.Array.from_buffers(
        pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def _side_by_side(
    pieces: list[Piece], rows: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None, Lengths]:
    """The pieces in one matrix, which of its bytes are in use (None: all), and how many a row."""
    template = b"".join(
        piece if isinstance(piece, bytes) else bytes(piece.matrix.shape[1]) for piece in pieces
    )
    matrix = np.empty((rows, len(template)), np.uint8)
    matrix[:] = np.frombuffer(template, np.uint8)
    mask: npt.NDArray[np.bool_] | None = None
    lengths = np.full(rows, len(template), np.int64)
    at = 0
    for piece in pieces:
        if isinstance(piece, bytes):
            at += len(piece)
            continue
        width = piece.matrix.shape[1]
        matrix[:, at : at + width] = piece.matrix
        if piece.lengths is not None:
            if mask is None:
                mask = np.ones(matrix.shape, np.bool_)
            mask[:, at : at + width] = _prefixes(width)[piece.lengths]
            lengths += piece.lengths - width
        at += width
    return matrix, mask, lengths


@cache
def _prefixes(width: int) -> npt.NDArray[np.bool_]:
    """Row `n` marks the first `n` of `width` bytes."""
    return np.tri(width + 1, width, -1, dtype=np.bool_)


def _groups(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))
