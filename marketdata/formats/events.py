"""From events that a library read back to a batch: the other half of the row formats.

Decoding is the consumer's side; what is fast here is the encoding.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from marketdata.errors import InvalidFrame
from marketdata.formats.base import FormatError
from marketdata.frames import frame_kind
from marketdata.schemas import COLUMNS, SEQUENCED_SCHEMAS, is_symbol


def kind_of(batch: pa.RecordBatch) -> str:
    """The kind of a batch that is to be written.

    Raises:
        FormatError: its schema names none.
    """
    try:
        return frame_kind(batch)
    except InvalidFrame as error:
        raise FormatError(str(error)) from error


def schema_of(kind: Any, names: Iterable[str]) -> pa.Schema:
    """The schema of delivered events, given what they are called in the bytes.

    Raises:
        FormatError: an unknown kind, or columns that were renamed or computed.
    """
    whole = SEQUENCED_SCHEMAS.get(kind)
    if whole is None:
        raise FormatError(f"unknown kind {kind!r}")
    chosen = list(names)
    unknown = [name for name in chosen if name not in COLUMNS]
    if unknown:
        raise FormatError(
            f"unknown columns {unknown}: pass the schema of renamed or computed columns"
        )
    foreign = [name for name in chosen if whole.get_field_index(name) < 0]
    if foreign:
        raise FormatError(f"{kind} events have no columns {foreign}")
    return pa.schema([whole.field(name) for name in chosen], whole.metadata)


def batch_of(events: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Events as a batch: integers for prices, sizes and times, None for nulls.

    Raises:
        FormatError: a value that its column cannot hold, or a column that is not there.
    """
    columns = []
    for field in schema:
        try:
            columns.append(_column([event[field.name] for event in events], field))
        except KeyError as error:
            raise FormatError(f"an event lacks the column {field.name!r}") from error
        except (pa.ArrowException, TypeError, OverflowError, ValueError) as error:
            raise FormatError(f"column {field.name!r}: {error}") from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    if is_symbol(field):
        encoded = pa.array(values, pa.utf8()).dictionary_encode()
        codes = encoded.indices.cast(field.type.index_type)
        return pa.DictionaryArray.from_arrays(codes, encoded.dictionary)
    if pa.types.is_timestamp(field.type):
        return pa.array(values, pa.int64()).view(field.type)
    return pa.array(values, field.type)
