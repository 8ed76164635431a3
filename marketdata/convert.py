"""Converting files of events between all formats, and Parquet, frame by frame.

    convert(Path("trades.avro"), Path("trades.parquet"))

The suffixes say what the files are (`SUFFIXES`). A file holds events of one kind with the same
columns; prices, sizes, times and nulls come over exactly. A target is there when it is whole: until
then it has `.part` behind its name.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet

from marketdata.cutting import cut
from marketdata.formats import FormatError, get_format
from marketdata.formats.events import kind_of, schema_of

SUFFIXES: Final[Mapping[str, str]] = {
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".parquet": "parquet",
    ".ndjson": "json",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".avro": "avro",
    ".pb": "protobuf",
    ".msgpack": "msgpack",
    ".fix": "fix",
}
"""Suffix -> format: `arrow` is IPC streams, `json` is NDJSON, `protobuf` delimited events."""

FRAME_ROWS: Final = 8_192
"""Most events in memory at once, and in a row group, a batch or a block that is written."""

_Write = Callable[[pa.RecordBatch], object]


def convert(source: Path, target: Path) -> int:
    """Write the events of a file into another one, which is replaced if it is there.

    Args:
        source: the columns must have their own names; `kind` is in the file.
        target: another file. From `protobuf` and `fix`, where an absent field may be null or left
            out, it gets every column that may be null.

    Returns:
        The number of events.

    Raises:
        FormatError: an unknown suffix, or a source that is not what its suffix says, holds no
            event, events of several kinds, or what the target's format cannot hold.
        OSError: a file cannot be read or written.
    """
    read, written = _format_of(source), _format_of(target)
    part = target.with_name(f"{target.name}.part")
    events = 0
    try:
        batches = _events(source, read)
        first = next(batches, None)
        if first is None:
            raise FormatError(f"{source} holds no event")
        with _writer(part, written, first.schema) as write:
            for batch in chain([first], batches):
                if not batch.schema.equals(first.schema, check_metadata=True):
                    raise FormatError(
                        f"{source}: events of another kind, with other columns, or with nulls in a"
                        " column that began without"
                    )
                write(batch)
                events += batch.num_rows
        part.replace(target)
    except pa.ArrowException as error:
        raise FormatError(f"{source} cannot become {target}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return events


def _format_of(path: Path) -> str:
    found = SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise FormatError(f"{path}: unknown suffix {path.suffix!r}; known: {', '.join(SUFFIXES)}")
    return found


def _events(path: Path, format_name: str) -> Iterator[pa.RecordBatch]:
    for batch in _READERS.get(format_name, _cut)(path, format_name):
        for at in range(0, batch.num_rows, FRAME_ROWS):
            yield _as_delivered(batch.slice(at, FRAME_ROWS))


def _as_delivered(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with the types of events and dictionaries of what occurs in it.

    Masked columns hold nulls where those of events never do: what the file's schema says, or the
    column, outweighs.
    """
    fields, columns = [], []
    contract = schema_of(kind_of(batch), batch.schema.names)
    for expected, own, column in zip(contract, batch.schema, batch.columns, strict=True):
        field = expected.with_nullable(expected.nullable or own.nullable or column.null_count > 0)
        fields.append(field)
        if pa.types.is_dictionary(field.type):
            encoded = column.cast(pa.utf8()).dictionary_encode()
            codes = encoded.indices.cast(field.type.index_type)
            columns.append(pa.DictionaryArray.from_arrays(codes, encoded.dictionary))
        elif column.type != field.type:
            raise FormatError(f"column {field.name!r} is {column.type}, not {field.type}")
        else:
            columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, contract.metadata))


def _cut(path: Path, format_name: str) -> Iterator[pa.RecordBatch]:
    format_ = get_format(format_name)
    with path.open("rb") as file:
        for frame in cut(file, format_name, FRAME_ROWS):
            yield format_.decode(frame)


def _read_arrow(path: Path, _: str) -> Iterator[pa.RecordBatch]:
    """The batches of all streams of a file: delivered messages may stand behind one another."""
    with path.open("rb") as file:
        try:
            while file.peek(1):
                reader = pa.ipc.open_stream(file)
                at = file.tell()
                for batch in reader:
                    yield batch
                    at = file.tell()
                # Arrow takes the end of a file for the end of a stream.
                if file.tell() == at:
                    raise FormatError(f"{path} ends early: the end-of-stream marker is missing")
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"{path} is no Arrow stream: {error}") from error


def _read_parquet(path: Path, _: str) -> Iterator[pa.RecordBatch]:
    with path.open("rb") as stream:
        try:
            with pyarrow.parquet.ParquetFile(stream) as file:
                yield from file.iter_batches(FRAME_ROWS)
        except pa.ArrowException as error:
            raise FormatError(f"{path} is no Parquet file: {error}") from error


_READERS: Final = {"arrow": _read_arrow, "parquet": _read_parquet}


def _writer(path: Path, format_name: str, schema: pa.Schema) -> AbstractContextManager[_Write]:
    match format_name:
        case "parquet":
            return _parquet(path, schema)
        case "arrow":
            return _arrow(path, schema)
        case "msgpack":
            return _msgpack(path)
        case _:
            return _run(path, format_name)


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[_Write]:
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        yield writer.write_batch


@contextmanager
def _arrow(path: Path, schema: pa.Schema) -> Iterator[_Write]:
    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
        yield writer.write_batch


@contextmanager
def _run(path: Path, format_name: str) -> Iterator[_Write]:
    """Frames behind one another, under one header."""
    format_ = get_format(format_name)
    with path.open("wb") as file:

        def write(batch: pa.RecordBatch) -> None:
            data = format_.encode(batch)
            header = format_.encode(batch.slice(0, 0)) if file.tell() else b""
            file.write(data.removeprefix(header))

        yield write


@contextmanager
def _msgpack(path: Path) -> Iterator[_Write]:
    """One array, whose length is written last."""
    format_ = get_format("msgpack")
    with path.open("wb") as file:
        events = 0
        file.write(b"\xdd" + bytes(4))

        def write(batch: pa.RecordBatch) -> None:
            nonlocal events
            events += batch.num_rows
            file.write(format_.encode(batch)[5:])

        yield write
        file.seek(1)
        file.write(events.to_bytes(4, "big"))
