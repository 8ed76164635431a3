"""The content of a reference table: checked, as bytes under a digest, and ready to be looked up."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.arrays import array_of, lengths_of, values_of
from marketdata.errors import DistributionError
from marketdata.frames import MAX_SYMBOL_BYTES
from marketdata.reference.spec import TableSpec
from marketdata.schemas import declared_field

MAX_ROWS: Final = 500_000
MAX_CONTENT_BYTES: Final = 32 * 1024 * 1024
"""Of a version, compressed."""
MAX_TABLE_BYTES: Final = 256 * 1024 * 1024
"""Of a version in memory: every instance of the distributor holds it."""
PIECE_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of a version in one message."""

_KEY: Final = b"key"
_VALID_FROM: Final = b"valid_from"
_PLACE: Final = " place"
"""A column's name that no table can have."""

Rows = npt.NDArray[np.int64]
NO_ROW: Final = -1


class TableError(DistributionError):
    """Rows cannot be those of a reference table; fix the request."""


class TableContent(NamedTuple):
    """One version of a table.

    Attributes:
        data: a compressed Arrow IPC stream whose schema says key and `valid_from`.
        digest: SHA-256 (hex) of `data`.
        rows: how many there are.
    """

    data: bytes
    digest: str
    rows: int

    @property
    def pieces(self) -> int:
        """Messages that the content is cut into."""
        return -(-len(self.data) // PIECE_BYTES)


def schema_of(spec: TableSpec) -> pa.Schema:
    """The schema of a table's content: fields as `declared_field` makes them."""
    metadata = {_KEY: json.dumps(spec.key), _VALID_FROM: spec.valid_from or ""}
    fields = [declared_field(name, given) for name, given in spec.columns.items()]
    return pa.schema(fields, metadata=metadata)


def content_of(spec: TableSpec, rows: pa.Table, replaced: pa.Table | None = None) -> TableContent:
    """A version that holds these rows, sorted by key and `valid_from`.

    Args:
        rows: of the schema of `spec`, in any order.
        replaced: the rows of the version before, where `rows` are only what has changed: of those
            with equal key and `valid_from` the new ones stay.

    Raises:
        TableError: two rows are for one key, a key is null, a text is too long, or it is too much.
    """
    for name in spec.columns:
        column = rows.column(name)
        if name in spec.unique and column.null_count:
            at = pc.index(column.is_null(), True).as_py()
            raise TableError(f"row {at + 1}: {name!r} is null, and rows are found by it")
        if pa.types.is_string(column.type) and len(column):
            lengths = lengths_of(_whole(column))
            longest = int(lengths.argmax())
            if lengths[longest] > MAX_SYMBOL_BYTES:
                raise TableError(
                    f"row {longest + 1}: {name!r} has {lengths[longest]} bytes; texts have at most"
                    f" {MAX_SYMBOL_BYTES}"
                )
    table = rows.append_column(_PLACE, array_of(np.arange(rows.num_rows), pa.int64()))
    if replaced is not None:
        older = array_of(np.full(replaced.num_rows, NO_ROW), pa.int64())
        table = pa.concat_tables([replaced.append_column(_PLACE, older), table])
    # Of rows that are equal in what is unique the older one comes first, as it has no place.
    order = [(name, "ascending") for name in (*spec.unique, _PLACE)]
    ordered = pc.sort_indices(table, sort_keys=order)
    table = table.take(ordered).combine_chunks()
    follows = _same_as_next(table, spec.unique)
    fresh = table.column(_PLACE).to_numpy() >= 0
    doubled = np.flatnonzero(follows & fresh[: len(follows)])
    if len(doubled):
        first, second = (table.column(_PLACE)[int(doubled[0]) + n].as_py() + 1 for n in (0, 1))
        named = ", ".join(spec.unique)
        raise TableError(f"rows {first} and {second} have the same {named}; give one of them")
    kept = np.flatnonzero(~np.append(follows, np.zeros(min(1, table.num_rows), np.bool_)))
    table = table.take(array_of(kept, pa.int64())).drop_columns([_PLACE])
    if table.num_rows > MAX_ROWS:
        raise TableError(f"the table would have {table.num_rows} rows; at most {MAX_ROWS} fit")
    return _encoded(pa.Table.from_arrays(table.columns, schema=schema_of(spec)))


def _same_as_next(table: pa.Table, names: Sequence[str]) -> npt.NDArray[np.bool_]:
    same = np.ones(max(0, table.num_rows - 1), np.bool_)
    for name in names:
        column = table.column(name)
        same &= pc.equal(column[:-1], column[1:]).to_numpy() if len(same) else same
    return same


def _encoded(table: pa.Table) -> TableContent:
    if table.nbytes > MAX_TABLE_BYTES:
        raise TableError(
            f"the table would take {table.nbytes} bytes of memory; at most {MAX_TABLE_BYTES} fit:"
            " shorten texts, or leave columns or rows out"
        )
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table.combine_chunks())
    data = sink.getvalue().to_pybytes()
    if len(data) > MAX_CONTENT_BYTES:
        raise TableError(
            f"the table would have {len(data)} bytes, compressed; at most {MAX_CONTENT_BYTES} fit"
        )
    return TableContent(data, hashlib.sha256(data).hexdigest(), table.num_rows)


def read_content(data: bytes) -> pa.Table:
    """The rows of a version's content."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


def pieces_of(digest: str, data: bytes) -> dict[str, bytes]:
    """The messages of a version on the topic: key -> payload."""
    return {
        f"{digest}/{start // PIECE_BYTES}": data[start : start + PIECE_BYTES]
        for start in range(0, len(data), PIECE_BYTES)
    }


def assembled(digest: str, pieces: int, messages: Mapping[str, bytes]) -> bytes | None:
    """The content of a version, given messages of the topic; None while some are not there."""
    keys = [f"{digest}/{number}" for number in range(pieces)]
    if any(key not in messages for key in keys):
        return None
    data = b"".join(messages[key] for key in keys)
    return data if hashlib.sha256(data).hexdigest() == digest else None


class ReferenceTable:
    """A version made ready to be looked up; immutable.

    Args:
        table: what `read_content` gives.
    """

    def __init__(self, table: pa.Table) -> None:
        metadata = table.schema.metadata
        key = json.loads(metadata[_KEY])
        self._columns = {name: _whole(table.column(name)) for name in table.column_names}
        self.rows = table.num_rows
        # Rows are sorted by key: those of one key are a run, of which the first place is known.
        same = _same_as_next(table, key)
        self._starts = np.flatnonzero(np.append(np.ones(min(1, self.rows), np.bool_), ~same))
        texts = [
            self._columns[name].take(array_of(self._starts, pa.int64())).to_pylist() for name in key
        ]
        groups = texts[0] if len(key) == 1 else list(zip(*texts, strict=True))
        self._group_of = {value: group for group, value in enumerate(groups)}
        self._times: Rows | None = None
        if metadata[_VALID_FROM]:
            since = values_of(self._columns[metadata[_VALID_FROM].decode()], np.int64)
            self._times, ranks = np.unique(since, return_inverse=True)
            group = np.repeat(
                np.arange(len(self._starts)), np.diff(np.append(self._starts, self.rows))
            )
            self._ordered = group * (len(self._times) + 1) + ranks.ravel() + 1

    def groups(self, keys: Sequence[object]) -> Rows:
        """The number of each key, -1 for those that the table does not know.

        Args:
            keys: texts, or tuples of them where the key has several columns.
        """
        group_of = self._group_of
        return np.fromiter((group_of.get(key, NO_ROW) for key in keys), np.int64, len(keys))

    def rows_at(self, groups: Rows, ts_event_ns: Rows) -> Rows:
        """The row of each event: of its key the newest that holds at its time; -1 for none.

        Args:
            groups: of each event's key.
            ts_event_ns: time of each event.
        """
        if not self.rows:
            return np.full(len(groups), NO_ROW, np.int64)
        if self._times is None:
            return np.where(groups < 0, NO_ROW, self._starts[groups])
        ranks = np.searchsorted(self._times, ts_event_ns, side="right")
        wanted = groups * (len(self._times) + 1) + ranks
        found = np.searchsorted(self._ordered, wanted, side="right") - 1
        return np.where((groups < 0) | (found < self._starts[groups]), NO_ROW, found)

    def column(self, name: str, rows: Rows) -> pa.Array:
        """The values of a column in some rows; null for -1."""
        column = self._columns[name]
        null = rows < 0
        if not self.rows or null.all():
            return pa.nulls(len(rows), column.type)
        places = array_of(np.where(null, 0, rows), pa.int64(), null if null.any() else None)
        return pc.take(column, places, boundscheck=False)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)
