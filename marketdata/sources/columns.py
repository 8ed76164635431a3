"""Exact, vectorised conversion of columns as people store them into those of the contract.

Pure functions from Arrow arrays to Arrow arrays. Fixed-point columns are converted through
Arrow's 128-bit decimals, so every digit of decimal text survives; digits that the contract cannot
carry are an error, never rounded away. Floats are taken as their shortest decimal text, which is
what was written before it became a float.
"""

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.sources.errors import ColumnError

TIME_UNITS: Final = {"s": 9, "ms": 6, "us": 3, "ns": 0}
"""Unit of numeric timestamps -> power of ten of nanoseconds in it."""

_MAX_DIGITS: Final = 18


def power_of_ten(unit: str) -> int:
    """The exponent of a unit such as "0.01" (-2), "1" (0) or "1e-9" (-9).

    >>> power_of_ten("0.01")
    -2

    Raises:
        ColumnError: the unit is no power of ten, so that it could not be applied exactly.
    """
    try:
        value = Decimal(unit)
    except InvalidOperation:
        value = Decimal(0)
    if not value.is_finite() or value <= 0 or Decimal(10) ** value.adjusted() != value:
        raise ColumnError(f"unit {unit!r} is not a power of ten such as 1, 0.01 or 1e-9")
    return value.adjusted()


def fixed_point(values: pa.Array, scale: int, unit_exponent: int = 0) -> pa.Array:
    """Numbers as int64 in units of 10**-scale.

    Args:
        values: text, integers, decimals or floats; empty text is null.
        scale: digits behind the point of the result (9 for prices, 8 for sizes).
        unit_exponent: the values count units of 10**unit_exponent (-2 for cents).

    Raises:
        ColumnError: a value is no number, has more digits than fit, or is out of range.
    """
    digits = scale + unit_exponent
    if not 0 <= digits <= _MAX_DIGITS:
        raise ColumnError(f"values in units of 1e{unit_exponent} do not fit units of 1e-{scale}")
    if pa.types.is_floating(values.type):
        values = values.cast(pa.string())
    if is_text(values.type):
        values = _trimmed(values)
    elif not (pa.types.is_integer(values.type) or pa.types.is_decimal(values.type)):
        raise ColumnError(f"holds {values.type}; numbers or decimal text are needed")
    target = pa.decimal128(38, digits)
    expected = f"needs a decimal number with at most {digits} digits behind the point"
    decimals = _convert(values, lambda part: part.cast(target), expected)
    return _unscaled(decimals, f"does not fit 64 bits in units of 1e-{digits}")


def timestamps_ns(values: pa.Array, unit: str | None = None, timezone: str = "UTC") -> pa.Array:
    """Times as int64 nanoseconds since the epoch, UTC.

    Args:
        values: Arrow timestamps or dates, ISO 8601 text, or numbers counting `unit`.
        unit: "s", "ms", "us" or "ns" for numbers (also written as text); None for the others.
        timezone: of times that carry none.

    Raises:
        ColumnError: a value is no time, or numbers come without a unit.
    """
    kind = values.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _instants(values, timezone)
    if unit is not None:
        if unit not in TIME_UNITS:
            raise ColumnError(f"time unit {unit!r} is unknown; use {', '.join(TIME_UNITS)}")
        return fixed_point(values, TIME_UNITS[unit])
    if is_text(kind):
        return _parsed(_trimmed(values), timezone)
    raise ColumnError(f"holds {kind} without a unit; say the time unit: {', '.join(TIME_UNITS)}")


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is a string type."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def plain(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array without dictionary encoding."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return values


def _trimmed(values: pa.Array) -> pa.Array:
    text = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)


def _parsed(text: pa.Array, timezone: str) -> pa.Array:
    expected = "needs an ISO 8601 time, all with or all without a UTC offset"
    try:
        return _instants(text.cast(pa.timestamp("ns", tz="UTC")), timezone)
    except pa.ArrowInvalid:
        naive = _convert(text, lambda part: part.cast(pa.timestamp("ns")), expected)
    return _instants(naive, timezone)


def _instants(values: pa.Array, timezone: str) -> pa.Array:
    def convert(part: pa.Array) -> pa.Array:
        if pa.types.is_date(part.type):
            part = part.cast(pa.timestamp("s"))
        if part.type.tz is None and timezone != "UTC":
            part = pc.assume_timezone(part, timezone)
        return part.cast(pa.timestamp("ns", tz="UTC")).view(pa.int64())

    return _convert(
        values, convert, f"needs a time from 1677 to 2262 that time zone {timezone} has"
    )


def _convert(values: pa.Array, convert: Callable[[pa.Array], pa.Array], expected: str) -> pa.Array:
    """Apply a conversion; on failure, find the first value that fails by halving."""
    try:
        return convert(values)
    except pa.ArrowException as error:
        first, count = 0, len(values)
        while count > 1:
            half = count // 2
            try:
                convert(values.slice(first, half))
            except pa.ArrowException:
                count = half
            else:
                first, count = first + half, count - half
        raise ColumnError(f"holds {_shown(values[first])}; {expected}", first) from error


def _shown(value: pa.Scalar) -> str:
    """A value for an error; a time beyond Python's own range as the number it is."""
    try:
        return repr(value.as_py())
    except (OverflowError, ValueError):
        return f"{value.value} as {value.type}"


def _unscaled(decimals: pa.Array, expected: str) -> pa.Array:
    """The integers behind 128-bit decimals: low words, where the high words only extend them."""
    words = np.frombuffer(decimals.buffers()[1], dtype="<i8")
    words = words[2 * decimals.offset : 2 * (decimals.offset + len(decimals))]
    low, high = words[0::2], words[1::2]
    valid = decimals.is_valid().to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero((high != (low >> 63)) & valid)
    if len(wrong):
        row = int(wrong[0])
        raise ColumnError(f"holds {decimals[row].as_py()}, which {expected}", row)
    return pa.array(low, mask=~valid if decimals.null_count else None)
