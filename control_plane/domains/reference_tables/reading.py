"""Rows as they are sent and shown: Arrow, CSV and JSON to the columns that a table declares.

Pure. Decimals are exact: they come as Arrow decimals, as text, or as JSON numbers, which are taken
by their text; what has more digits behind the point than the column is refused, never rounded.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from control_plane.domains.reference_tables.schemas import Value
from marketdata import declared_sizes
from marketdata.formats.base import FormatError
from marketdata.formats.text_reading import unscaled
from marketdata.reference import TableError, TableSpec
from marketdata.reference.table import MAX_ROWS, MAX_TABLE_BYTES, schema_of
from marketdata.schemas import TIMESTAMP, declared_digits

ARROW: Final = "application/vnd.apache.arrow.stream"
CSV: Final = "text/csv"
JSON: Final = "application/json"
MEDIA_TYPES: Final = (ARROW, CSV, JSON)

_TRUTHS: Final = pa.array(["false", "true", "0", "1"])
_json: Final = msgspec.json.Decoder(list[dict[str, Any]], float_hook=str)


def read_rows(body: bytes, media_type: str, spec: TableSpec) -> pa.Table:
    """The rows of a request, of the schema of the table's content.

    Columns that are absent are null; those that the table does not have are refused.

    Raises:
        TableError: saying which column, and where it can be told which row.
    """
    reader = _READERS.get(media_type)
    if reader is None:
        raise TableError(
            f"rows cannot be read from {media_type or 'a body without Content-Type'};"
            f" send {', '.join(MEDIA_TYPES)}"
        )
    try:
        given = reader(body, spec)
    except (pa.ArrowException, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TableError(f"the body is no {media_type} of rows: {_first_line(error)}") from error
    unknown = [name for name in given if name not in spec.columns]
    if unknown:
        raise TableError(
            f"the table has no column {unknown[0]!r}; its columns are: {', '.join(spec.columns)}"
        )
    rows = len(next(iter(given.values()), pa.array([])))
    columns = [
        _typed(name, declared, given[name]) if name in given else _nulls(name, rows, spec)
        for name, declared in spec.columns.items()
    ]
    return pa.Table.from_arrays(columns, schema=schema_of(spec))


def shown_rows(table: pa.Table, spec: TableSpec) -> list[dict[str, Value]]:
    """Rows as JSON shows them: decimals and times as text."""
    columns = {name: _shown(table.column(name), given) for name, given in spec.columns.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _of_arrow(body: bytes, _: TableSpec) -> Mapping[str, pa.Array]:
    source = pa.BufferReader(body)
    try:
        claimed = declared_sizes.declared(source).decompressed_bytes
    except (EOFError, OSError) as error:
        raise pa.ArrowInvalid(str(error)) from error
    _require_room(claimed)
    source.seek(0)
    with pa.ipc.open_stream(source) as reader:
        table = reader.read_all()
    table.validate(full=True)
    if table.num_rows > MAX_ROWS:
        raise TableError(f"the body has {table.num_rows} rows; at most {MAX_ROWS} fit")
    if len(set(table.column_names)) < len(table.column_names):
        raise pa.ArrowInvalid("a column is there twice")
    _require_room(sum(map(_decoded_bytes, table.columns)))
    return {name: _whole(table.column(name)) for name in table.column_names}


def _require_room(size: int) -> None:
    if size > MAX_TABLE_BYTES:
        raise TableError(
            f"the body would take {size} bytes of memory; at most {MAX_TABLE_BYTES} fit:"
            " shorten texts, or send fewer columns or rows"
        )


def _decoded_bytes(column: pa.ChunkedArray) -> int:
    """The bytes of a column without its dictionaries: many rows may share a long text."""
    if not pa.types.is_dictionary(column.type):
        return column.nbytes
    size = 0
    for chunk in column.chunks:
        values = chunk.dictionary
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            size += pc.sum(pc.binary_length(values).take(chunk.indices)).as_py() or 0
        size += 8 * len(chunk)
    return size


def _of_csv(body: bytes, spec: TableSpec) -> Mapping[str, pa.Array]:
    options = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(spec.columns, pa.utf8()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    table = pa.csv.read_csv(io.BytesIO(body), convert_options=options)
    if len(set(table.column_names)) < len(table.column_names):
        raise pa.ArrowInvalid("a column is there twice")
    return {name: _whole(table.column(name)) for name in table.column_names}


def _of_json(body: bytes, _: TableSpec) -> Mapping[str, pa.Array]:
    rows = _json.decode(body)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: pa.array([_text(row.get(name)) for row in rows], pa.utf8()) for name in names}


_READERS: Final[dict[str, Callable[[bytes, TableSpec], Mapping[str, pa.Array]]]] = {
    ARROW: _of_arrow,
    CSV: _of_csv,
    JSON: _of_json,
}


def _text(value: Any) -> str | None:
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case _:
            raise TableError("values are texts, numbers, true, false or null")


def _nulls(name: str, rows: int, spec: TableSpec) -> pa.Array:
    if rows and name in spec.unique:
        raise TableError(f"column {name!r} is missing: rows are found by it")
    return pa.nulls(rows, schema_of(spec).field(name).type)


def _typed(name: str, declared: str, column: pa.Array) -> pa.Array:
    try:
        return _converted(declared, column)
    except (pa.ArrowException, FormatError) as error:
        raise TableError(f"column {name!r} is a {declared}: {_first_line(error)}") from error


def _converted(declared: str, column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        raise FormatError("floats are not exact; send integers, decimals or texts")
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    digits = declared_digits(declared)
    if digits is not None:
        return unscaled(pc.cast(column, pa.decimal128(19 + digits, digits)), "it")
    match declared:
        case "text" if not text and not pa.types.is_null(column.type):
            raise FormatError(f"{column.type} is no text")
        case "text":
            return pc.cast(column, pa.utf8())
        case "time":
            # A text without an offset is refused, not taken for UTC.
            return pc.cast(column, TIMESTAMP)
        case "boolean" if text:
            place = pc.index_in(column, _TRUTHS)
            if place.null_count > column.null_count:
                raise FormatError("write true or false")
            return pc.cast(pc.bit_wise_and(place, 1), pa.int64())
        case "boolean":
            return pc.cast(pc.cast(column, pa.bool_()), pa.int64())
        case _:
            return pc.cast(column, pa.int64())


def _shown(column: pa.ChunkedArray, declared: str) -> list[Value]:
    digits = declared_digits(declared)
    if declared == "time":
        column = pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ")
    values: list[Any] = column.to_pylist()
    if declared == "boolean":
        return [None if value is None else bool(value) for value in values]
    if digits is not None:
        return [None if value is None else _decimal(value, digits) for value in values]
    return values


def _decimal(value: int, digits: int) -> str:
    whole, rest = divmod(abs(value), 10**digits)
    return f"{'-' if value < 0 else ''}{whole}.{rest:0{digits}}"


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:300]
