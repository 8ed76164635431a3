"""One column of a batch as pieces of text, without a Python loop over its rows.

Prices and sizes are written with their exact decimal value in the shortest plain notation (187.25,
-0.000000001, 100); times with nine fractional digits; integers and `quality` as numbers (the
shortest text that reads back as the same number; what is not finite is null). Texts are escaped per
distinct value where the column is a dictionary. A `TextStyle` says what stands around them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.formats.base import FormatError
from marketdata.formats.fragments import (
    Choice,
    Constant,
    Fixed,
    Piece,
    Strings,
    as_array,
    binary,
)
from marketdata.schemas import decimal_scale

_SECOND: Final = 1_000_000_000
_FOUR_DIGITS: Final = np.array([f"{i:04d}" for i in range(10_000)], "S4").view(np.uint32)
_FRACTIONS: Final = {
    digits: binary(f".{i:0{digits}d}".rstrip("0").rstrip(".").encode() for i in range(10**digits))
    for digits in (2, 4)
}
"""Digits behind the point -> texts of all fractions of so many: nearly all that occur."""


@dataclass(slots=True, frozen=True)
class TextStyle:
    """What stands around and instead of values.

    Attributes:
        name: of the format, for errors.
        null: written where a value is null.
        quote_texts: around texts.
        quote_numbers: around prices, sizes and times.
        special: regular expression of texts that `escape` has to see.
        escape: a text -> how it stands between quotes.
        before, after: outside of the quotes; left out with what is null.
        time: a time's whole seconds as ISO 8601 has them -> how they are written.
        zone: behind a time's fractional digits.
    """

    name: str
    null: bytes
    quote_texts: bytes
    quote_numbers: bytes
    special: str
    escape: Callable[[str], str]
    before: bytes = b""
    after: bytes = b""
    time: Callable[[str], str] = str
    zone: bytes = b"Z"


def pieces_of(field: pa.Field, column: pa.Array, style: TextStyle) -> list[Piece]:
    """The values of a column.

    Args:
        field: of the column.
        column: at least one value.
        style: of the format.

    Raises:
        FormatError: events have no columns of such a type.
    """
    kind, scale = field.type, decimal_scale(field)
    if column.null_count == len(column):
        return [Constant(style.null)]
    if pa.types.is_dictionary(kind):
        return [_symbols(column, style)]
    if pa.types.is_floating(kind):
        return [_floats(column, style)]
    quote = style.quote_numbers
    if pa.types.is_string(kind):
        quote = style.quote_texts
        value: list[Piece] = [Strings(_escape(column, style))]
    elif pa.types.is_timestamp(kind) and kind.unit == "ns":
        value = _times(column.view(pa.int64()).fill_null(0), style)
    elif pa.types.is_integer(kind) and scale is not None:
        value = _decimals(column.fill_null(0).to_numpy(), scale)
    elif pa.types.is_integer(kind):
        quote = b""
        value = [_integers(column.fill_null(0).to_numpy())]
    else:
        raise FormatError(f"column {field.name!r}: {style.name} frames have no form for {kind}")
    pieces = [Constant(style.before + quote), *value, Constant(quote + style.after)]
    return [_with_nulls(pieces, column, style.null)] if column.null_count else pieces


def _symbols(column: pa.DictionaryArray, style: TextStyle) -> Choice:
    values = column.dictionary
    before = Constant(style.before + style.quote_texts)
    after = Constant(style.quote_texts + style.after)
    texts = as_array(_with_nulls([before, Strings(_escape(values, style)), after], values, b""))
    indices = column.indices
    if indices.null_count:
        indices = indices.cast(pa.int32()).fill_null(len(texts))
        texts = pa.concat_arrays([texts, binary([style.null])])
    return Choice(indices.to_numpy(zero_copy_only=False), texts)


def _escape(column: pa.StringArray, style: TextStyle) -> pa.BinaryArray:
    """The texts as they stand between quotes; "" for null."""
    special = pc.match_substring_regex(column, style.special).fill_null(False)
    texts = column.view(pa.binary()).fill_null(b"")
    if pc.any(special).as_py():
        escaped = [style.escape(value).encode() for value in column.filter(special).to_pylist()]
        texts = pc.replace_with_mask(texts, special, binary(escaped))
    return texts


def _floats(column: pa.Array, style: TextStyle) -> Piece:
    # Few distinct values occur, and the text of a float costs more than finding it again.
    distinct = column.dictionary_encode()
    finite = pc.is_finite(distinct.dictionary)
    texts = pc.if_else(finite, pc.cast(distinct.dictionary, pa.utf8()), None)
    codes = distinct.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    written = [
        b"".join((style.before, text.encode(), style.after)) if text else style.null
        for text in texts.to_pylist()
    ]
    return Choice(codes, binary([*written, style.null]))


def _times(column: pa.Int64Array, style: TextStyle) -> list[Piece]:
    """Whole seconds are written once per distinct value."""
    ns = column.to_numpy(zero_copy_only=False)
    seconds = ns // _SECOND
    nanos = (ns - seconds * _SECOND).astype(np.uint32)
    distinct, codes = _distinct(seconds)
    texts = [
        f"{style.time(text)}.".encode()
        for text in np.datetime_as_string(distinct.astype("datetime64[s]")).tolist()
    ]
    whole: Piece = Choice(codes, binary(texts)) if len(texts) > 1 else Constant(texts[0])
    matrix = np.empty((len(ns), 9), np.uint8)
    tens = nanos // np.uint32(10_000)
    first = tens // np.uint32(10_000)
    matrix[:, 0] = first + np.uint32(ord("0"))
    for at, group in ((1, tens - first * np.uint32(10_000)), (5, nanos - tens * np.uint32(10_000))):
        matrix[:, at : at + 4] = _FOUR_DIGITS[group].view(np.uint8).reshape(len(ns), 4)
    return [whole, Fixed(matrix), Constant(style.zone)]


def _decimals(values: npt.NDArray[np.int64], scale: int) -> list[Piece]:
    """Exact values of `values` · 10^-scale."""
    # The least int64 has no positive counterpart; as uint64 it has.
    negative = values < 0
    size = np.where(negative, -values, values).view(np.uint64) if negative.any() else values
    unit = size.dtype.type(10**scale)
    whole = size // unit
    rest = size - whole * unit
    pieces: list[Piece] = []
    if negative.any():
        pieces.append(Choice(negative.view(np.int8), binary([b"", b"-"])))
    pieces.append(_integers(whole))
    if not rest.any():
        return pieces
    for digits, texts in _FRACTIONS.items():
        if digits > scale:
            break
        step = size.dtype.type(10 ** (scale - digits))
        short = rest // step
        if (short * step == rest).all():
            return [*pieces, Choice(short.astype(np.int32), texts)]
    digits = pc.cast(pa.array(rest + unit), pa.utf8())
    # The leading 1 that keeps the zeros becomes the point.
    trimmed = pc.ascii_rtrim(digits, characters="0")
    fraction = pc.utf8_replace_slice(trimmed, 0, 1, ".")
    return [*pieces, Strings(pc.if_else(pa.array(rest == 0), "", fraction).view(pa.binary()))]


def _integers(values: npt.NDArray[np.integer]) -> Piece:
    low, high = int(values.min()), int(values.max())
    if low == high:
        return Constant(str(low).encode())
    if high - low < len(values) // 2:
        texts = pc.cast(pa.array(np.arange(low, high + 1, dtype=values.dtype)), pa.utf8())
        return Choice((values - values.dtype.type(low)).astype(np.int32), texts.view(pa.binary()))
    return Strings(pc.cast(pa.array(values), pa.utf8()).view(pa.binary()))


def _distinct(
    values: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.integer]]:
    low, high = int(values.min()), int(values.max())
    if high - low < 64:
        return np.arange(low, high + 1), values - low
    return np.unique(values, return_inverse=True)


def _with_nulls(pieces: list[Piece], column: pa.Array, null: bytes) -> Strings:
    """The pieces as one, `null` where the column is null."""
    rows = len(column)
    texts: list[pa.BinaryArray] = []
    for piece in pieces:
        match piece:
            case Constant(text):
                texts.append(pa.scalar(text, pa.binary()))
            case _:
                texts.append(as_array(piece))
    if all(isinstance(piece, Constant) for piece in pieces):
        texts.append(pa.repeat(pa.scalar(b"", pa.binary()), rows))
    joined = pc.binary_join_element_wise(*texts, pa.scalar(b"", pa.binary()))
    return Strings(pc.if_else(column.is_valid(), joined, pa.scalar(null, pa.binary())))
