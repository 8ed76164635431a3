"""Reading text formats back: from the columns that pyarrow's readers give to those of events."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.formats.base import FormatError
from marketdata.schemas import decimal_scale


def transport_schema(schema: pa.Schema) -> pa.Schema:
    """The types as which pyarrow reads the text: what is not a plain number is text."""
    fields = [pa.field("kind", pa.utf8())]
    for field in schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        plain = number and decimal_scale(field) is None
        fields.append(pa.field(field.name, field.type if plain else pa.utf8()))
    return pa.schema(fields)


def column_of(read: pa.ChunkedArray, field: pa.Field) -> pa.Array:
    """A column as it was, given what pyarrow read of it.

    Raises:
        FormatError, pa.ArrowException: a value that the column cannot hold.
    """
    column = read.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    if pa.types.is_dictionary(field.type):
        encoded = column.dictionary_encode()
        codes = encoded.indices.cast(field.type.index_type)
        return pa.DictionaryArray.from_arrays(codes, encoded.dictionary)
    scale = decimal_scale(field)
    if pa.types.is_timestamp(field.type):
        return _times(column).cast(pa.timestamp("ns")).cast(field.type)
    if scale is None:
        return column.cast(field.type)
    return unscaled(pc.cast(column, pa.decimal128(19 + scale, scale)), f"column {field.name!r}")


def unscaled(decimals: pa.Decimal128Array, told: str) -> pa.Int64Array:
    """Decimals as int64 in units of their last digit.

    Args:
        told: what to call the column in errors.

    Raises:
        FormatError: a number does not fit.
    """
    # An int64 is the low half of the 128 bits.
    halves = np.frombuffer(decimals.buffers()[1], np.int64)[2 * decimals.offset :]
    low, high = halves[0 : 2 * len(decimals) : 2], halves[1 : 2 * len(decimals) : 2]
    valid = decimals.is_valid().to_numpy(zero_copy_only=False)
    if ((high != low >> 63) & valid).any():
        raise FormatError(f"{told} holds a number out of range")
    return pa.array(low, pa.int64(), mask=~valid)


def _times(texts: pa.StringArray) -> pa.Array:
    """Nanoseconds of `YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ`.

    Arrow's own parser refuses the first second that 64 bits of nanoseconds reach into.
    """
    shaped = pc.match_substring_regex(texts, r"^.{19}\.[0-9]{9}Z$")
    if not pc.all(shaped, min_count=0).as_py():
        raise FormatError("a time is not of the form 2026-01-31T14:30:00.123456789Z")
    seconds = pc.cast(pc.utf8_slice_codeunits(texts, 0, 19), pa.timestamp("s"))
    nanos = pc.cast(pc.utf8_slice_codeunits(texts, 20, 29), pa.int64())
    # Wrapping is right: the whole fits even where whole seconds below it do not.
    whole = pc.multiply(seconds.view(pa.int64()), 1_000_000_000)
    return pc.add(whole, nanos)
