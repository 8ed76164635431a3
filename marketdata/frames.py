"""Frames: one Pulsar message is one Arrow IPC stream holding one record batch.

Its events are of one kind, or of several where they are few (`marketdata.mixed`).

`encode_frame` and `decode_frame` move between bytes and record batches; `decode_frame` trusts
nothing: whatever the bytes, it returns a batch that keeps the contract or raises `InvalidFrame`
with a reason a person understands. `frame_properties` are the message properties that let a
reader decide without decoding. Dictionaries are local to the frame and hold only what occurs in
it (`compact_dictionaries`), so every frame can be read alone and names nothing else.
"""

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.arrays import array_of, codes_of, lengths_of, valid_of, values_of
from marketdata.declared_sizes import declared
from marketdata.errors import InvalidFrame
from marketdata.mixed import (
    KIND_FIELD,
    MAX_KIND_RUNS,
    MAX_MIXED_ROWS,
    MIXED,
    kind_runs,
    lacking,
    mixed_schema,
)
from marketdata.partitioning import partitions_of
from marketdata.schemas import (
    COLUMNS,
    INGEST_SCHEMAS,
    KEY_COLUMNS,
    KINDS,
    SCHEMA_VERSION,
    SEQUENCED_SCHEMAS,
)

MAX_ROWS: Final = 32_768
"""Most events in a frame."""

MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
"""Largest frame; Pulsar's own limit is 5 MiB a message, properties included."""

MAX_MESSAGE_BYTES: Final = 5 * 1024 * 1024 - 64 * 1024
"""Largest payload with its properties: Pulsar's 5 MiB less what it adds itself."""

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
    "too_many_runs": "the kind changes too often within a mixed frame",
    "foreign_column": "a column that the kind lacks is not null",
    "corrupt": "the batch breaks Arrow's own rules",
    "null_key": "a key column holds a null",
    "bad_symbol": "a symbol is empty or too long",
    "out_of_range": "a number is NaN or out of range",
    "wrong_partition": "an instrument belongs to another partition",
    "out_of_order": "the policy of its source lets no reversal and no repeat pass",
    "undecodable": "decoding failed in an unforeseen way",
}
"""Every `InvalidFrame.code` and what it means."""

_END_OF_STREAM: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_MAX_BUFFERS: Final = 128
_SMALL_BYTES: Final = MAX_FRAME_BYTES // _MAX_BUFFERS
"""No frame has more buffers than `_MAX_BUFFERS`, whatever its kinds."""

_READ_OPTIONS: Final = pa.ipc.IpcReadOptions(use_threads=False)
"""Made once: options are made anew, and the environment is asked, wherever none are given."""

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
    with pa.ipc.new_stream(sink, batch.schema, options=_write_options(compression)) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def read_frame(data: bytes | pa.Buffer) -> pa.RecordBatch:
    """Decode a frame from a trusted topic (`sequenced`, `delivery`); checks only that it is one.

    Raises:
        InvalidFrame: the bytes are no Arrow stream with exactly one batch.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(data), options=_READ_OPTIONS) as reader:
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
        A batch with exactly the schema of its kind or kinds, all keys present, all numbers in
        range.

    Raises:
        InvalidFrame: with one of the codes of `REASONS`.
    """
    batch = _read_untrusted(data)
    kind = frame_kind(batch, mixed=True)
    try:
        batch = _with_schema(batch, _contract(batch, kind, sequenced=sequenced))
    except UnicodeDecodeError as error:
        raise InvalidFrame("corrupt", f"a column's name is no UTF-8: {error}") from error
    validate_events(batch)
    if partition is not None and partitions is not None:
        _check_partition(batch, partition, partitions)
    return batch


def frame_kind(batch: pa.RecordBatch, *, mixed: bool = False) -> str:
    """The kind that a batch's schema metadata names.

    Args:
        mixed: may be `MIXED`, too.

    Raises:
        InvalidFrame: no or an unknown kind, or a schema version that is not served.
    """
    metadata = batch.schema.metadata or {}
    kind = metadata.get(b"kind", b"").decode("utf-8", "replace")
    if kind not in KINDS and not (mixed and kind == MIXED):
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
    """Check kinds, row count, keys, symbols and ranges of a batch that has the schema of its kinds.

    Raises:
        InvalidFrame: naming the column, the first offending row (from 0) and the value.
    """
    if batch.num_rows == 0:
        raise InvalidFrame("empty", f"the frame holds no events; send 1 to {MAX_ROWS}")
    if batch.num_rows > MAX_ROWS:
        raise InvalidFrame(
            "too_many_rows", f"the frame holds {batch.num_rows} events; at most {MAX_ROWS} fit one"
        )
    kind = frame_kind(batch, mixed=True)
    if kind == MIXED:
        _check_kinds(batch)
        checks = _mixed_checks(tuple(batch.schema.names))
    else:
        checks = _checks(kind, batch.num_columns > len(INGEST_SCHEMAS[kind]))
    for check in checks:
        column = batch.column(check.column)
        if check.key and column.null_count:
            raise _offending("null_key", batch, check.name, column.is_null(), "must not be null")
        if check.symbol:
            _check_symbols(check.name, column.dictionary)
        elif check.least is not None:
            _check_least(batch, check.name, column, check.least)
        elif check.fraction:
            _check_fraction(batch, check.name, column)


def compact_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows with dictionaries that hold only the values which occur.

    A frame must not name what it does not carry: an unused value would tell a consumer about
    instruments it may not see.
    """
    schema = batch.schema
    for index, type_ in enumerate(schema.types):
        if pa.types.is_dictionary(type_):
            compacted = _compact(batch.column(index))
            if compacted is not None:
                batch = batch.set_column(index, schema.field(index), compacted)
    return batch


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


class _Check(NamedTuple):
    """What must hold for one column."""

    column: int
    name: str
    key: bool
    symbol: bool
    least: int | None
    fraction: bool


@cache
def _write_options(compression: str | None) -> pa.ipc.IpcWriteOptions:
    return pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)


@cache
def _checks(kind: str, sequenced: bool) -> tuple[_Check, ...]:
    return _checks_of((SEQUENCED_SCHEMAS if sequenced else INGEST_SCHEMAS)[kind].names)


@lru_cache(maxsize=2 << len(KINDS))
def _mixed_checks(names: tuple[str, ...]) -> tuple[_Check, ...]:
    return _checks_of(names)


def _checks_of(names: Sequence[str]) -> tuple[_Check, ...]:
    fields = {KIND_FIELD.name: KIND_FIELD, **COLUMNS}
    checks = (
        _Check(
            index,
            name,
            key=name in KEY_COLUMNS or name == KIND_FIELD.name,
            symbol=pa.types.is_dictionary(fields[name].type),
            least=1 if name in _POSITIVE else 0 if name in _NOT_NEGATIVE else None,
            fraction=name == "quality",
        )
        for index, name in enumerate(names)
    )
    return tuple(c for c in checks if c.key or c.symbol or c.least is not None or c.fraction)


def _compact(column: pa.DictionaryArray) -> pa.DictionaryArray | None:
    """The column on a smaller dictionary; None when every value occurs."""
    dictionary = column.dictionary
    size, nulls = len(dictionary), column.null_count
    if size == 0 or (size == 1 and nulls < len(column)):
        return None
    used = np.zeros(size, dtype=bool)
    used[values_of(column.indices.drop_null(), np.int16) if nulls else codes_of(column)] = True
    if used.all():
        return None
    codes = (np.cumsum(used) - 1).astype(np.int16)
    if nulls:
        remapped = pc.take(array_of(codes, pa.int16()), column.indices)
    else:
        remapped = array_of(codes[codes_of(column)], pa.int16())
    values = dictionary.take(array_of(np.flatnonzero(used), pa.int64()))
    return pa.DictionaryArray.from_arrays(remapped, values)


def _read_untrusted(data: bytes) -> pa.RecordBatch:
    if len(data) > MAX_FRAME_BYTES:
        raise InvalidFrame(
            "too_large", f"the message has {len(data)} bytes; at most {MAX_FRAME_BYTES} are read"
        )
    try:
        batches, decompressed_bytes, end, batch = _read_bounded(data)
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
    if batches != 1:
        raise InvalidFrame(
            "batch_count", f"the stream holds {batches} record batches; send exactly 1"
        )
    if batch is None:
        raise _too_large(decompressed_bytes)
    try:
        batch.validate(full=True)
    except pa.ArrowException as error:
        raise InvalidFrame("corrupt", f"{REASONS['corrupt']}: {str(error)[:300]}") from error
    # Buffers may overlap. Where even that cannot make much of the bytes, it is not looked at.
    if (decompressed_bytes or len(data) > _SMALL_BYTES) and batch.nbytes > MAX_FRAME_BYTES:
        raise _too_large(batch.nbytes)
    return batch


def _read_bounded(data: bytes) -> tuple[int, int, int, pa.RecordBatch | None]:
    """Read a stream, but decompress nothing that is not one batch of an acceptable size.

    Returns:
        Its record batches, its decompressed bytes, where it ends, and the batch when it is one.
    """
    source = pa.BufferReader(data)
    batches, decompressed_bytes = declared(source)
    end = source.tell()
    source.seek(0)
    with pa.ipc.open_stream(source, options=_READ_OPTIONS) as reader:
        acceptable = batches == 1 and decompressed_bytes <= MAX_FRAME_BYTES
        return batches, decompressed_bytes, end, reader.read_next_batch() if acceptable else None


def _too_large(decompressed_bytes: int) -> InvalidFrame:
    return InvalidFrame(
        "too_large",
        f"the frame has {decompressed_bytes} bytes decompressed; at most {MAX_FRAME_BYTES} may be",
    )


def _with_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    found, expected = batch.schema, schema
    if found.equals(expected, check_metadata=True):
        return batch
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


def _contract(batch: pa.RecordBatch, kind: str, *, sequenced: bool) -> pa.Schema:
    """The schema that a batch must have."""
    if kind != MIXED:
        return (SEQUENCED_SCHEMAS if sequenced else INGEST_SCHEMAS)[kind]
    at = batch.schema.get_field_index(KIND_FIELD.name)
    if at < 0 or batch.schema.field(at).type != KIND_FIELD.type:
        raise InvalidFrame(
            "wrong_schema", f"a mixed frame has a column 'kind' of type {KIND_FIELD.type}"
        )
    kinds = batch.column(at).dictionary.to_pylist()
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds or len(set(kinds)) < len(kinds):
        raise InvalidFrame(
            "unknown_kind",
            f"the dictionary of column 'kind' holds {kinds[:10]!r}; it must hold each kind that"
            f" occurs once; known kinds: {', '.join(KINDS)}",
        )
    return mixed_schema(kinds, ingest=not sequenced)


def _check_kinds(batch: pa.RecordBatch) -> None:
    """Check what a mixed batch says of kinds; its kinds are known and it has their columns."""
    if batch.num_rows > MAX_MIXED_ROWS:
        raise InvalidFrame(
            "too_many_rows",
            f"the frame holds {batch.num_rows} events; at most {MAX_MIXED_ROWS} of several kinds"
            " fit one",
        )
    kinds = batch.column(0)
    if kinds.null_count:
        raise _offending("null_key", batch, "kind", kinds.is_null(), "must not be null")
    if not np.bincount(codes_of(kinds), minlength=len(kinds.dictionary)).all():
        raise InvalidFrame("wrong_schema", "the dictionary of column 'kind' names an absent kind")
    runs = kind_runs(MIXED, batch)
    if runs > MAX_KIND_RUNS:
        raise InvalidFrame(
            "too_many_runs",
            f"the kind changes {runs - 1} times; at most {MAX_KIND_RUNS - 1} times may be",
        )
    for name, rows in lacking(batch):
        column = batch.column(name)
        if column.null_count == batch.num_rows:
            continue
        foreign = rows & valid_of(column)
        if foreign.any():
            raise _offending(
                "foreign_column", batch, name, pa.array(foreign), "must be null for its kind"
            )


def _check_symbols(name: str, dictionary: pa.StringArray) -> None:
    if dictionary.null_count:
        raise InvalidFrame("null_key", f"the dictionary of column {name!r} holds a null")
    if not len(dictionary):
        return
    # One look for both ends: less one and without a sign, 0 is beyond every length.
    if (lengths_of(dictionary) - 1).view(np.uint32).max() >= MAX_SYMBOL_BYTES:
        raise InvalidFrame(
            "bad_symbol",
            f"column {name!r} holds a symbol of 0 or more than {MAX_SYMBOL_BYTES} bytes",
        )


def _check_least(batch: pa.RecordBatch, name: str, column: pa.Array, least: int) -> None:
    # The slots of nulls are mostly 0; where they are not, the nulls are looked at.
    if column.null_count == len(column) or values_of(column, np.int64).min() >= least:
        return
    bad = pc.less(column.view(pa.int64()), least)
    if pc.any(bad).as_py():
        raise _offending("out_of_range", batch, name, bad, f"must be at least {least}")


def _check_fraction(batch: pa.RecordBatch, name: str, column: pa.Array) -> None:
    if column.null_count == len(column):
        return
    if not column.null_count:
        values = values_of(column, np.float32)
        if values.min() >= 0.0 and values.max() <= 1.0:  # false for NaN, too
            return
    bad = pc.or_(pc.is_nan(column), pc.or_(pc.less(column, 0.0), pc.greater(column, 1.0)))
    if pc.any(bad).as_py():
        raise _offending("out_of_range", batch, name, bad, "must lie within 0…1")


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
    instruments = batch.column("instrument").dictionary
    belongs = partitions_of(instruments, partitions)
    astray = np.flatnonzero(belongs != partition)
    if len(astray):
        first = int(astray[0])
        raise InvalidFrame(
            "wrong_partition",
            f"instrument {instruments[first].as_py()!r} belongs to partition {belongs[first]} of"
            f" {partitions} (CRC-32 of its name), the frame came on partition {partition}",
        )
