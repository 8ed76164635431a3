"""Cutting a publisher's batches into frames: check, split by partition, gather, cut. Pure.

Promises: no event is lost or doubled; within an instrument events leave in the order they came in,
across kinds too; a frame holds at most `max_events` events, of several kinds where that was asked
for and they are few (`marketdata.mixed`). How frames are cut depends only on what was added in
which order, never on a clock, so a publisher that repeats its calls repeats its frames.
"""

from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.arrays import array_of, codes_of, text_bytes
from marketdata.errors import InvalidEvents, InvalidFrame
from marketdata.frames import (
    MAX_ROWS,
    compact_dictionaries,
    frame_kind,
    validate_events,
)
from marketdata.mixed import (
    MAX_KIND_RUNS,
    MAX_MIXED_BYTES,
    MAX_MIXED_ROWS,
    MIXED,
    mixed_batch,
    mixed_schema,
)
from marketdata.partitioning import partitions_of
from marketdata.schemas import INGEST_SCHEMAS, TIMESTAMP
from marketdata.splitting import split_rows

MAX_TEXT_BYTES: Final = 65_536
"""Longest plain text (a `trade_id`) that a publisher sends; longer ones could burst a frame."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What becomes one frame: 1…`max_events` events in one partition, of a kind or `MIXED`."""

    kind: str
    batch: pa.RecordBatch
    traceparent: str | None = None
    fill: bool = False


@dataclass(slots=True)
class _Run:
    """Adjacent pieces that may share a frame.

    Attributes:
        kind: of all pieces, or `MIXED`.
        size_bytes: of the pieces, each as if its kind were alone.
    """

    kind: str
    traceparent: str | None
    fill: bool
    pieces: list[tuple[str, pa.RecordBatch]] = field(default_factory=list)
    rows: int = 0
    size_bytes: int = 0

    def takes(self, kind: str, rows: int, size_bytes: int, max_bytes: int) -> bool:
        """Whether events of a kind may join it, as a mixed frame if need be."""
        if kind == self.kind:
            return True
        rows, size_bytes = self.rows + rows, self.size_bytes + size_bytes
        return (
            rows <= MAX_MIXED_ROWS
            and size_bytes <= MAX_MIXED_BYTES
            # Columns that are null come on top.
            and size_bytes + rows * _wide_bytes() <= max_bytes
            and len(self.pieces) < MAX_KIND_RUNS
        )

    def add(self, kind: str, piece: pa.RecordBatch, size_bytes: int) -> None:
        """Append events that it takes."""
        if self.pieces and kind != self.kind:
            self.kind = MIXED
        self.pieces.append((kind, piece))
        self.rows += piece.num_rows
        self.size_bytes += size_bytes


class PartitionBuffer:
    """Gathers the events of one partition and cuts them by count and size.

    Args:
        max_events: most events in a frame, 1…32768.
        max_bytes: a frame is cut before its columns grow beyond this (one event always fits).
        mixed: frames may hold several kinds. Without it, and where events are too many for a mixed
            frame, a change of kind cuts.

    A change of trace or between fill and no fill cuts as well: such events cannot share a frame,
    and letting later ones pass would break the order within an instrument.
    """

    def __init__(self, *, max_events: int, max_bytes: int, mixed: bool = False) -> None:
        if not 1 <= max_events <= MAX_ROWS:
            raise ValueError(f"max_events is {max_events}; give 1 to {MAX_ROWS}")
        if max_bytes < 1:
            raise ValueError(f"max_bytes is {max_bytes}; give at least 1")
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._mixed = mixed
        self._run: _Run | None = None

    @property
    def events(self) -> int:
        """Events that wait for a frame."""
        return self._run.rows if self._run else 0

    def add(
        self,
        kind: str,
        batch: pa.RecordBatch,
        traceparent: str | None = None,
        *,
        fill: bool = False,
    ) -> list[Cut]:
        """Add events of this partition; returns the frames that are full, in order.

        Args:
            kind, batch: events; their dictionaries hold only what occurs.
            traceparent, fill: see `Publisher.publish`.
        """
        cuts: list[Cut] = []
        run = self._run
        size_bytes = _size_bytes(kind, batch)
        if run and (
            (run.traceparent, run.fill) != (traceparent, fill)
            or not self._takes(run, kind, batch.num_rows, size_bytes)
        ):
            cuts += self.take()
        row_bytes = max(1, -(-size_bytes // max(1, batch.num_rows)))
        offset = 0
        while offset < batch.num_rows:
            run = self._run
            if run is None:
                run = self._run = _Run(kind, traceparent, fill)
            room = min(self._max_events - run.rows, (self._max_bytes - run.size_bytes) // row_bytes)
            if room < 1 and run.rows:
                cuts += self.take()
                continue
            piece = batch.slice(offset, max(1, room))
            whole = piece.num_rows == batch.num_rows
            compact = piece if whole else compact_dictionaries(piece)
            run.add(kind, compact, row_bytes * piece.num_rows)
            offset += piece.num_rows
            if run.rows >= self._max_events or run.size_bytes >= self._max_bytes:
                cuts += self.take()
        return cuts

    def take(self) -> list[Cut]:
        """Cut whatever waits: no frame or one."""
        run, self._run = self._run, None
        if run is None:
            return []
        if run.kind == MIXED:
            batch = mixed_batch(_runs(run.pieces))
        else:
            batch = _one_after_another([batch for _, batch in run.pieces])
        return [Cut(run.kind, batch, run.traceparent, run.fill)]

    def _takes(self, run: _Run, kind: str, rows: int, size_bytes: int) -> bool:
        if not self._mixed:
            return kind == run.kind
        # A mixed run is cut before a batch that does not fit it whole.
        return run.takes(kind, rows, size_bytes, self._max_bytes)


def conform_events(
    batch: pa.RecordBatch, *, ts_publish_ns: int | None
) -> tuple[str, pa.RecordBatch]:
    """Check an ingest batch of any length; returns its kind and the batch to send.

    Args:
        batch: events of one kind with the kind's ingest schema and metadata
            (`marketdata.schemas.INGEST_SCHEMAS`).
        ts_publish_ns: the time to write into `ts_publish`, whose column may then be absent or
            null; None keeps what the batch says.

    Raises:
        InvalidEvents: naming the column, the row and the rule.
    """
    try:
        kind = frame_kind(batch)
        sent = _with_schema(batch, INGEST_SCHEMAS[kind], ts_publish_ns)
        sent.validate(full=True)
    except InvalidFrame as error:
        raise InvalidEvents(f"nothing was sent: {error}") from error
    except pa.ArrowException as error:
        raise InvalidEvents(f"nothing was sent: the batch breaks Arrow's rules: {error}") from error
    for offset in range(0, max(1, sent.num_rows), MAX_ROWS):
        try:
            validate_events(sent.slice(offset, MAX_ROWS))
        except InvalidFrame as error:
            raise InvalidEvents(f"nothing was sent: rows from {offset}: {error}") from error
    for name, column in zip(sent.schema.names, sent.columns, strict=True):
        if pa.types.is_string(column.type):
            longest = pc.max(pc.binary_length(column)).as_py() or 0
            if longest > MAX_TEXT_BYTES:
                raise InvalidEvents(
                    f"nothing was sent: a text in column {name!r} has {longest} bytes;"
                    f" at most {MAX_TEXT_BYTES} are sent"
                )
    return kind, sent


def split_by_partition(batch: pa.RecordBatch, partitions: int) -> list[tuple[int, pa.RecordBatch]]:
    """Split a checked batch by its instruments' partitions; order within each is kept.

    Returns:
        (partition, events) in rising partition order; partitions without events are left out. The
        dictionaries of a part hold only what occurs in it.
    """
    instruments = batch.column("instrument")
    rows = partitions_of(instruments.dictionary, partitions)[codes_of(instruments)]
    counts = np.bincount(rows, minlength=partitions)
    present = [int(partition) for partition in np.flatnonzero(counts)]
    if len(present) == 1:
        return [(present[0], compact_dictionaries(batch))]
    # Narrow keys let numpy's stable sort use radix sort.
    keys = rows.astype(np.uint16) if partitions <= 1 << 16 else rows
    order = np.argsort(keys, kind="stable")
    selections = np.split(order, np.cumsum(counts[present])[:-1])
    return list(zip(present, split_rows(batch, selections), strict=True))


def _one_after_another(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _runs(pieces: list[tuple[str, pa.RecordBatch]]) -> list[tuple[str, pa.RecordBatch]]:
    """Adjacent pieces of one kind as one."""
    return [
        (kind, _one_after_another([batch for _, batch in run]))
        for kind, run in groupby(pieces, key=itemgetter(0))
    ]


def _size_bytes(kind: str, batch: pa.RecordBatch) -> int:
    """What the columns hold, as `nbytes` has it, which asks every single column."""
    fixed_bytes, texts = _widths(kind)
    return batch.num_rows * fixed_bytes + sum(text_bytes(batch.column(at)) for at in texts)


@cache
def _wide_bytes() -> int:
    """Bytes of a row in the columns of all kinds, as far as they are of fixed width; and codes."""
    types = mixed_schema(ingest=True).types
    widths = (
        2 if pa.types.is_dictionary(each) else 4 if each == pa.utf8() else each.bit_width // 8
        for each in types
    )
    return sum(widths) + -(-len(types) // 8)


@cache
def _widths(kind: str) -> tuple[int, list[int]]:
    """Bytes of a row in the columns of fixed width, with its validity, and the other columns."""
    types = INGEST_SCHEMAS[kind].types
    texts = [
        at for at, type_ in enumerate(types) if pa.types.is_dictionary(type_) or type_ == pa.utf8()
    ]
    fixed_bits = sum(type_.bit_width + 1 for at, type_ in enumerate(types) if at not in texts)
    return -(-fixed_bits // 8), texts


def _with_schema(
    batch: pa.RecordBatch, schema: pa.Schema, ts_publish_ns: int | None
) -> pa.RecordBatch:
    if ts_publish_ns is not None:
        now = array_of(np.full(batch.num_rows, ts_publish_ns, dtype=np.int64), TIMESTAMP)
        columns = dict(zip(batch.schema.names, batch.columns, strict=True)) | {"ts_publish": now}
    else:
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    missing = [name for name in schema.names if name not in columns]
    extra = [name for name in columns if name not in schema.names]
    if missing or extra or len(columns) < batch.num_columns:
        raise InvalidFrame(
            "wrong_schema", f"missing columns {missing}, unknown or repeated columns {extra}"
        )
    for name in schema.names:
        found, expected = columns[name].type, schema.field(name).type
        if found != expected:
            raise InvalidFrame("wrong_schema", f"column {name!r} is {found}, must be {expected}")
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
