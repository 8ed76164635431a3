"""Frames: one Pulsar message is one Arrow IPC stream holding one record batch of one kind.

`encode_frame` and `decode_frame` move between bytes and record batches; `decode_frame` trusts
nothing: whatever the bytes, it returns a batch that keeps the contract or raises `InvalidFrame`
with a reason a person understands. `frame_properties` are the message properties that let a
reader decide without decoding. Dictionaries are local to the frame and hold only what occurs in
it (`compact_dictionaries`), so every frame can be read alone and names nothing else.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.errors import InvalidFrame
from marketdata.partitioning import partition_of
from marketdata.schemas import (
    INGEST_SCHEMAS,
    KEY_COLUMNS,
    KINDS,
    SCHEMA_VERSION,
    SEQUENCED_SCHEMAS,
)

MAX_ROWS: Final = 8192
"""Most events in a frame."""

MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
"""Largest frame; Pulsar's own limit is 5 MiB a message, properties included."""

MAX_SYMBOL_BYTES: Final = 255
"""Longest symbol (instrument, venue, …) in UTF-8 bytes."""

REASONS: Final[Mapping[str, str]] = {
    "not_arrow": "the bytes are not an Arrow IPC stream",
    "truncated": "the stream ends early",
    "trailing_bytes": "bytes follow the end of the stream",
    "too_large": "the message is larger than a frame may be",
    "unknown_kind": "the schema names no known kind",
    "unsupported_version": "the schema version is not served",
    "wrong_schema": "columns differ from the schema of the kind",
    "batch_count": "the stream does not hold exactly one record batch",
    "empty": "the frame holds no events",
    "too_many_rows": "the frame holds too many events",
    "corrupt": "the batch breaks Arrow's own rules",
    "null_key": "a key column holds a null",
    "bad_symbol": "a symbol is empty or too long",
    "out_of_range": "a number is NaN or out of range",
    "wrong_partition": "an instrument belongs to another partition",
    "undecodable": "decoding failed in an unforeseen way",
}
"""Every `InvalidFrame.code` and what it means."""

_END_OF_STREAM: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_NOT_NEGATIVE: Final = frozenset(
    {"ts_event", "ts_publish", "ts_sequenced", "size", "bid_size", "ask_size", "volume"}
)
_POSITIVE: Final = frozenset({"interval_ns"})


def encode_frame(batch: pa.RecordBatch, *, compression: str | None = None) -> pa.Buffer:
    """The bytes of a frame.

    Args:
        batch: 1…`MAX_ROWS` events with a schema of `marketdata.schemas` (or a transformed one).
        compression: None, "lz4" or "zstd": Arrow's own compression of the column buffers.
    """
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression) if compression else None
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def read_frame(data: bytes | pa.Buffer) -> pa.RecordBatch:
    """Decode a frame from a trusted topic (`sequenced`, `delivery`); checks only that it is one.

    Raises:
        InvalidFrame: the bytes are no Arrow stream with exactly one batch.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            return reader.read_next_batch()
    except (pa.ArrowException, OSError, ValueError, StopIteration) as error:
        raise InvalidFrame("not_arrow", f"{REASONS['not_arrow']}: {error}") from error


def decode_frame(
    data: bytes,
    *,
    partition: int | None = None,
    partitions: int | None = None,
    sequenced: bool = False,
) -> pa.RecordBatch:
    """Decode and check a frame from anybody.

    Args:
        data: the message's payload.
        partition, partitions: when both are given, every instrument must belong there.
        sequenced: expect the columns that the sequencer assigns.

    Returns:
        A batch with exactly the schema of its kind, all keys present, all numbers in range.

    Raises:
        InvalidFrame: with one of the codes of `REASONS`.
    """
    batch = _read_untrusted(data)
    kind = frame_kind(batch)
    batch = _with_schema(batch, (SEQUENCED_SCHEMAS if sequenced else INGEST_SCHEMAS)[kind])
    validate_events(batch)
    if partition is not None and partitions is not None:
        _check_partition(batch, partition, partitions)
    return batch


def frame_kind(batch: pa.RecordBatch) -> str:
    """The kind that a batch's schema metadata names.

    Raises:
        InvalidFrame: no or an unknown kind, or a schema version that is not served.
    """
    metadata = batch.schema.metadata or {}
    kind = metadata.get(b"kind", b"").decode("utf-8", "replace")
    if kind not in KINDS:
        raise InvalidFrame(
            "unknown_kind",
            f"the schema metadata says kind={kind!r}; known kinds: {', '.join(KINDS)}",
        )
    version = metadata.get(b"schema_version", b"").decode("utf-8", "replace")
    if version != str(SCHEMA_VERSION):
        raise InvalidFrame(
            "unsupported_version",
            f"the schema metadata says schema_version={version!r};"
            f" this service reads {SCHEMA_VERSION}",
        )
    return kind


def validate_events(batch: pa.RecordBatch) -> None:
    """Check row count, keys, symbols and ranges of a batch that has the schema of its kind.

    Raises:
        InvalidFrame: naming the column, the first offending row (from 0) and the value.
    """
    if batch.num_rows == 0:
        raise InvalidFrame("empty", "the frame holds no events; send 1 to 8192")
    if batch.num_rows > MAX_ROWS:
        raise InvalidFrame(
            "too_many_rows", f"the frame holds {batch.num_rows} events; at most {MAX_ROWS} fit one"
        )
    for field, column in zip(batch.schema, batch.columns, strict=True):
        name = field.name
        if column.null_count and name in KEY_COLUMNS:
            raise _offending("null_key", batch, name, column.is_null(), "must not be null")
        if pa.types.is_dictionary(field.type):
            _check_symbols(batch, name)
        elif name in _NOT_NEGATIVE:
            _check_least(batch, name, 0)
        elif name in _POSITIVE:
            _check_least(batch, name, 1)
        elif name == "quality" and column.null_count < len(column):
            bad = pc.or_(pc.is_nan(column), pc.or_(pc.less(column, 0.0), pc.greater(column, 1.0)))
            if pc.any(bad).as_py():
                raise _offending("out_of_range", batch, name, bad, "must lie within 0…1")


def compact_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows with dictionaries that hold only the values which occur.

    A frame must not name what it does not carry: an unused value would tell a consumer about
    instruments it may not see.
    """
    columns = list(batch.columns)
    for i, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            columns[i] = _compact(columns[i])
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def frame_properties(batch: pa.RecordBatch, kind: str) -> dict[str, str]:
    """The message properties of a frame: kind, count, schema version, format and event times.

    `ts_event_first` and `ts_event_last` are those of the first and the last row, in nanoseconds.
    """
    ts_event = batch.column("ts_event")
    return {
        "kind": kind,
        "count": str(batch.num_rows),
        "schema_version": str(SCHEMA_VERSION),
        "format": "arrow",
        "ts_event_first": str(ts_event[0].value),
        "ts_event_last": str(ts_event[-1].value),
    }


def codes_of(column: pa.DictionaryArray) -> np.ndarray:
    """The dictionary codes of a symbol column without nulls: int16, zero copy."""
    return column.indices.to_numpy(zero_copy_only=True)


def _compact(column: pa.DictionaryArray) -> pa.DictionaryArray:
    size = len(column.dictionary)
    if size == 0 or (size == 1 and column.null_count < len(column)):
        return column
    indices = column.indices
    used = np.zeros(size, dtype=bool)
    if indices.null_count:
        used[indices.drop_null().to_numpy()] = True
    else:
        used[indices.to_numpy(zero_copy_only=True)] = True
    if used.all():
        return column
    codes = (np.cumsum(used) - 1).astype(np.int16)
    if indices.null_count:
        remapped = pc.take(pa.array(codes), indices)
    else:
        remapped = pa.array(codes[indices.to_numpy(zero_copy_only=True)])
    values = column.dictionary.take(pa.array(np.flatnonzero(used)))
    return pa.DictionaryArray.from_arrays(remapped, values)


def _read_untrusted(data: bytes) -> pa.RecordBatch:
    if len(data) > MAX_FRAME_BYTES:
        raise InvalidFrame(
            "too_large", f"the message has {len(data)} bytes; at most {MAX_FRAME_BYTES} are read"
        )
    source = pa.BufferReader(data)
    try:
        with pa.ipc.open_stream(source) as reader:
            batches = list(reader)
            end = source.tell()
    except EOFError as error:
        raise InvalidFrame("truncated", f"{REASONS['truncated']}: {error}") from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        code = "truncated" if data[:4] == _END_OF_STREAM[:4] else "not_arrow"
        raise InvalidFrame(code, f"{REASONS[code]}: {str(error)[:300]}") from error
    if not data.endswith(_END_OF_STREAM) and end == len(data):
        raise InvalidFrame("truncated", "the end-of-stream marker is missing")
    if end != len(data):
        raise InvalidFrame(
            "trailing_bytes", f"{len(data) - end} bytes follow the end of the stream"
        )
    if len(batches) != 1:
        raise InvalidFrame(
            "batch_count", f"the stream holds {len(batches)} record batches; send exactly 1"
        )
    try:
        batches[0].validate(full=True)
    except pa.ArrowException as error:
        raise InvalidFrame("corrupt", f"{REASONS['corrupt']}: {str(error)[:300]}") from error
    return batches[0]


def _with_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    found, expected = batch.schema, schema
    if found.names != expected.names:
        missing = [name for name in expected.names if name not in found.names]
        extra = [name for name in found.names if name not in expected.names]
        raise InvalidFrame(
            "wrong_schema",
            f"missing columns {missing}, unknown columns {extra}"
            if missing or extra
            else f"columns must stand in the order {expected.names}",
        )
    if found.types != expected.types:
        name, is_, should = next(
            (e.name, f.type, e.type)
            for f, e in zip(found, expected, strict=True)
            if f.type != e.type
        )
        raise InvalidFrame("wrong_schema", f"column {name!r} is {is_}, must be {should}")
    return pa.RecordBatch.from_arrays(batch.columns, schema=expected)


def _check_symbols(batch: pa.RecordBatch, name: str) -> None:
    dictionary = batch.column(name).dictionary
    if dictionary.null_count:
        raise InvalidFrame("null_key", f"the dictionary of column {name!r} holds a null")
    if not len(dictionary):
        return
    lengths = pc.min_max(pc.binary_length(dictionary))
    if lengths["min"].as_py() == 0 or lengths["max"].as_py() > MAX_SYMBOL_BYTES:
        raise InvalidFrame(
            "bad_symbol",
            f"column {name!r} holds a symbol of 0 or more than {MAX_SYMBOL_BYTES} bytes",
        )


def _check_least(batch: pa.RecordBatch, name: str, least: int) -> None:
    column = batch.column(name)
    if pa.types.is_timestamp(column.type):
        column = column.view(pa.int64())
    lowest = pc.min(column).as_py()
    if lowest is not None and lowest < least:
        bad = pc.less(column, least)
        raise _offending("out_of_range", batch, name, bad, f"must be at least {least}")


def _offending(
    code: str, batch: pa.RecordBatch, name: str, bad: pa.Array, rule: str
) -> InvalidFrame:
    rows = np.flatnonzero(bad.fill_null(False).to_numpy(zero_copy_only=False))
    column = batch.column(name)
    if pa.types.is_timestamp(column.type):
        column = column.view(pa.int64())
    row = int(rows[0])
    return InvalidFrame(
        code,
        f"column {name!r} {rule}; row {row} holds {column[row].as_py()!r}"
        f" ({len(rows)} of {batch.num_rows} rows)",
    )


def _check_partition(batch: pa.RecordBatch, partition: int, partitions: int) -> None:
    for instrument in batch.column("instrument").dictionary.to_pylist():
        belongs = partition_of(instrument, partitions)
        if belongs != partition:
            raise InvalidFrame(
                "wrong_partition",
                f"instrument {instrument!r} belongs to partition {belongs} of {partitions}"
                f" (CRC-32 of its name), the frame came on partition {partition}",
            )
