"""Delivered bytes as columns, the way a foreign consumer would read them: by pyarrow alone."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from marketdata.schemas import COLUMNS, SEQUENCED_SCHEMAS, decimal_scale

_NO_RENAMES: Final[Mapping[str, str]] = {}


def decode_arrow(data: bytes, rename: Mapping[str, str] = _NO_RENAMES) -> pa.RecordBatch:
    """The one record batch of an Arrow IPC stream, its columns under their original names.

    Args:
        data: the message's payload.
        rename: original name -> delivered name, as the subscription has it.

    Raises:
        ValueError: the stream does not hold exactly one batch.
    """
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        batches = list(reader)
    if len(batches) != 1:
        raise ValueError(f"a frame holds one record batch, this one {len(batches)}")
    back = {new: old for old, new in rename.items()}
    batch = batches[0]
    fields = [field.with_name(back.get(field.name, field.name)) for field in batch.schema]
    schema = pa.schema(fields, metadata=batch.schema.metadata)
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def by_kind(batch: pa.RecordBatch) -> list[tuple[str, npt.NDArray[np.int64], pa.RecordBatch]]:
    """The events of a frame kind by kind: the kind, their rows, and what they say.

    The schema's metadata names the kind; where they say `mixed`, the column `kind` does, and a
    column that a kind lacks is null.

    Raises:
        ValueError: an event says something in a column that its kind lacks.
    """
    kind = (batch.schema.metadata or {})[b"kind"].decode()
    if kind != "mixed":
        return [(kind, np.arange(batch.num_rows), batch)]
    kinds = np.array(batch.column("kind").to_pylist(), dtype=object)
    found = []
    for one in dict.fromkeys(kinds.tolist()):
        rows = np.flatnonzero(kinds == one)
        events = batch.take(pa.array(rows))
        own = SEQUENCED_SCHEMAS[one].names
        for name in batch.schema.names:
            if name not in own and name != "kind" and events.column(name).null_count < len(rows):
                raise ValueError(f"a {one} has a value in column {name!r}")
        columns = {name: events.column(name) for name in own if name in batch.schema.names}
        metadata = {**batch.schema.metadata, b"kind": one.encode()}
        schema = pa.schema([batch.schema.field(name) for name in columns], metadata=metadata)
        found.append((one, rows, pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)))
    return found


def decode_json(data: bytes, rename: Mapping[str, str] = _NO_RENAMES) -> pa.RecordBatch:
    """The lines of an NDJSON frame with the types of the event schemas, exact to the last digit.

    `kind`, which every line has, is left out.

    Raises:
        ValueError, pa.ArrowException: not what the service documents as its JSON format.
    """
    original = {rename.get(name, name): name for name in COLUMNS}
    transport = pa.schema(
        [pa.field("kind", pa.string())]
        + [
            pa.field(delivered, _transport_type(COLUMNS[name]))
            for delivered, name in original.items()
        ]
    )
    table = pyarrow.json.read_json(
        pa.BufferReader(data),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=transport, unexpected_field_behavior="error"
        ),
    ).combine_chunks()
    first = data[: data.index(b"\n")]
    columns = {}
    for delivered, name in original.items():
        # The reader adds what a schema names; what is in the text decides.
        if b'"%s":' % delivered.encode() in first:
            columns[name] = _column(table.column(delivered), COLUMNS[name])
    return pa.RecordBatch.from_pydict(columns)


def decode_avro(event: Mapping[str, Any]) -> pa.RecordBatch:
    """An event as Pulsar's client reads it by the schema of its topic: a batch of one row.

    Raises:
        KeyError, ValueError, pa.ArrowException: not what the service documents.
    """
    columns = {}
    for name, value in event.items():
        field, stored = COLUMNS[name], value
        if isinstance(value, Decimal):
            scale = decimal_scale(field) or 0
            stored = int(value.scaleb(scale))
        type_ = pa.string() if pa.types.is_dictionary(field.type) else field.type
        column = pa.array([stored], pa.int64() if pa.types.is_timestamp(type_) else type_)
        columns[name] = column.view(type_) if pa.types.is_timestamp(type_) else column
    return pa.RecordBatch.from_pydict(columns)


def _transport_type(field: pa.Field) -> pa.DataType:
    if pa.types.is_dictionary(field.type) or pa.types.is_timestamp(field.type):
        return pa.string()
    return pa.string() if decimal_scale(field) is not None else field.type


def _column(values: pa.ChunkedArray, field: pa.Field) -> pa.Array:
    column = values.chunk(0) if values.num_chunks else pa.array([], values.type)
    scale = decimal_scale(field)
    if scale is not None:
        return _fixed_point(column, scale)
    return column.cast(field.type) if pa.types.is_timestamp(field.type) else column


def _fixed_point(texts: pa.StringArray, scale: int) -> pa.Int64Array:
    decimals = pc.cast(texts, pa.decimal128(38, scale)).fill_null(0)
    low = np.frombuffer(decimals.buffers()[1], dtype=np.int64)[::2]
    low = low[decimals.offset : decimals.offset + len(decimals)]
    return pa.array(low, mask=texts.is_null().to_numpy(zero_copy_only=False))
