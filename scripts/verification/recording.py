"""The record of a run: what publishers were told was stored, and what consumers received.

Everything is kept column-wise, a few dozen bytes an event, so that a run of millions of events
fits in memory. Recording is thread safe; each stream (a publisher's partition, the log's partition,
a view's partition) must be recorded in its own order.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from scripts.verification.decoding import by_kind
from scripts.verification.expectations import Values, ViewExpectation, published_columns
from scripts.verification.fingerprints import Words, fingerprints, text_hash
from scripts.verification.records import (
    NO_PLAN,
    NOT_DELIVERED,
    Chunks,
    Columns,
    EpochRecord,
    FrameRecord,
    ReceivedView,
)

_NOT_COMPUTED: Final[Mapping[str, Values]] = {}
UPSTREAM_FLAGS: Final = (1 << 28) - 1
"""The bits of `quality_flags` that are the publisher's; those above are marks of the sequencer."""


class History:
    """What happened in a run.

    Args:
        views: what each view must hold; named before the first event, so that events need not
            be kept.
        after: an earlier history of the same streams, judged and complete. This one goes on where
            it ended, so that a run of any length is checked in memory of the same size: numbers
            continue across, and what was accepted in an earlier one must not come again.

    Attributes:
        failure: what ended a recorder early; there is no point in waiting for more then.
        carried_rows: how many rows at the beginning of the log are the newest ones of instruments
            in earlier histories.
        earlier_sources: codes of sources whose events are complete.
    """

    def __init__(
        self, views: Iterable[ViewExpectation] = (), *, after: "History | None" = None
    ) -> None:
        self.views = {view.name: view for view in views}
        dtypes: dict[str, npt.DTypeLike] = {
            "publisher": np.int32,
            "partition": np.int32,
            "instrument": np.int64,
            "source": np.int64,
            "source_sequence": np.int64,
            "ts_publish": np.int64,
            "certain": np.bool_,
            "fingerprint": np.uint64,
        }
        for name, view in self.views.items():
            dtypes[f"expected:{name}"] = np.bool_
            if not view.says_all:
                dtypes[f"fingerprint:{name}"] = np.uint64
        self.accepted_rows = Chunks(dtypes)
        self.log_rows = Chunks(
            {
                "partition": np.int32,
                "instrument": np.int64,
                "source": np.int64,
                "sequence": np.int64,
                "epoch": np.int64,
                "fingerprint": np.uint64,
            }
        )
        self.announced_rows = Chunks(
            {
                "partition": np.int32,
                "instrument": np.int64,
                "epoch": np.int64,
                "sequence": np.int64,
                "behind": np.int64,
            }
        )
        self.epochs: list[EpochRecord] = []
        self.carried_rows = 0
        self.earlier_sources: frozenset[int] = frozenset()
        self._log_rows: defaultdict[int, int] = defaultdict(int)
        self.received = {name: ReceivedView() for name in self.views}
        self.redelivered: defaultdict[str, int] = defaultdict(int)
        self.accepted_events = 0
        self.uncertain_events = 0
        self.expected_events: defaultdict[str, int] = defaultdict(int)
        self._accepted_sources: set[int] = set()
        self._log_events: defaultdict[int, int] = defaultdict(int)
        self._seen: set[tuple[str, int, Hashable]] = set()
        self.failure: Exception | None = None
        self._names: dict[str, int] = {}
        self._lock = Lock()
        if after is not None:
            self._continue(after)

    def accepted(
        self, publisher: str, partition: int, batch: pa.RecordBatch, *, certain: bool = True
    ) -> None:
        """A publisher was told that a frame is stored; frames of a partition in that order.

        Args:
            publisher: its name; order holds within what one publisher sent.
            partition: where the frame is stored.
            batch: the events as they were sent.
            certain: False when the publisher died before it learned the outcome: such events may
                be there or not, but neither twice nor out of order.
        """
        rows = batch.num_rows
        parts = by_kind(batch)
        columns: Columns = {
            "publisher": np.full(rows, self._codes([publisher])[0], dtype=np.int32),
            "partition": np.full(rows, partition, dtype=np.int32),
            "instrument": self._symbols(batch, "instrument"),
            "source": self._symbols(batch, "source"),
            "source_sequence": _integers(batch, "source_sequence"),
            "ts_publish": _integers(batch, "ts_publish"),
            "certain": np.full(rows, certain),
            "fingerprint": _by_row(parts, _whole, np.uint64),
        }
        for name, view in self.views.items():
            mask = _by_row(parts, view.matches, np.bool_)
            columns[f"expected:{name}"] = mask
            if not view.says_all:
                columns[f"fingerprint:{name}"] = _by_row(
                    parts, partial(_delivered_content, view), np.uint64
                )
            with self._lock:
                self.expected_events[name] += int(np.count_nonzero(mask))
        with self._lock:
            self.accepted_rows.append(columns)
            self.accepted_events += rows
            self.uncertain_events += 0 if certain else rows
            self._accepted_sources.update(np.unique(columns["source"]).tolist())

    def sequenced(
        self, partition: int, batch: pa.RecordBatch, *, message_id: Hashable = None
    ) -> None:
        """A frame was read from `sequenced`; frames of a partition in the order of the log.

        Args:
            partition: of the log.
            batch: the events.
            message_id: a message received a second time under its id is a redelivery, which a
                plain client sees after a reconnect, and no doubled event.
        """
        if self._redelivered("sequenced", partition, message_id):
            return
        source = self._symbols(batch, "source")
        columns = {
            "partition": np.full(batch.num_rows, partition, dtype=np.int32),
            "instrument": self._symbols(batch, "instrument"),
            "source": source,
            "sequence": _integers(batch, "sequence"),
            "epoch": _integers(batch, "epoch"),
            "fingerprint": _by_row(by_kind(batch), _whole, np.uint64),
        }
        with self._lock:
            self.log_rows.append(columns)
            self._log_rows[partition] += batch.num_rows
            for code, count in zip(*np.unique(source, return_counts=True), strict=True):
                self._log_events[int(code)] += int(count)

    def log_control(
        self,
        partition: int,
        batch: pa.RecordBatch,
        properties: Mapping[str, str],
        *,
        message_id: Hashable = None,
    ) -> None:
        """A control frame was read from `sequenced`; in the order of the log, as events are.

        Args:
            partition: of the log.
            batch: its columns `instrument`, `sequence` and `epoch`: what comes next.
            properties: of the message.
            message_id: as for `sequenced`.
        """
        if self._redelivered("sequenced", partition, message_id):
            return
        rows = batch.num_rows
        instrument = self._symbols(batch, "instrument")
        with self._lock:
            behind = self._log_rows[partition]
            if properties["kind"] == "epoch":
                epoch, reason = int(properties["epoch"]), properties.get("reason", "")
                self.epochs.append(EpochRecord(partition, behind, epoch, reason))
            self.announced_rows.append(
                {
                    "partition": np.full(rows, partition, dtype=np.int32),
                    "instrument": instrument,
                    "epoch": _integers(batch, "epoch"),
                    "sequence": _integers(batch, "sequence"),
                    "behind": np.full(rows, behind, dtype=np.int64),
                }
            )

    def view_control(
        self,
        view: str,
        partition: int,
        properties: Mapping[str, str],
        *,
        message_id: Hashable = None,
    ) -> None:
        """A consumer of a view received a control frame; in order, as events are."""
        if self._redelivered(view, partition, message_id):
            return
        record = FrameRecord(
            partition=partition,
            delivery_epoch=int(properties["delivery_epoch"]),
            delivery_sequence=int(properties["delivery_sequence"]),
            count=int(properties["count"]),
            rows=0,
            plan=int(properties.get("plan", NO_PLAN)),
            control=properties["kind"],
            reason=properties.get("reason", ""),
        )
        with self._lock:
            self.received[view].frames.append(record)

    def delivered(
        self,
        view: str,
        partition: int,
        batch: pa.RecordBatch,
        properties: Mapping[str, str],
        *,
        message_id: Hashable = None,
        received_ns: int = 0,
    ) -> None:
        """A consumer of a view received a frame; frames of a partition in that order.

        Args:
            view: name of its expectation.
            partition: of the view's topic.
            batch: its events under their original column names (`decoding` gives them).
            properties: of the message.
            message_id: as for `sequenced`.
            received_ns: when, in nanoseconds since the epoch.
        """
        if self._redelivered(view, partition, message_id):
            return
        rows, names = batch.num_rows, batch.schema.names
        columns = {
            "partition": np.full(rows, partition, dtype=np.int32),
            "instrument": self._symbols(batch, "instrument"),
            "sequence": _integers(batch, "sequence"),
            "epoch": _integers(batch, "epoch")
            if "epoch" in names
            else np.full(rows, NOT_DELIVERED, dtype=np.int64),
            "source": self._symbols(batch, "source")
            if "source" in names
            else np.full(rows, NOT_DELIVERED, dtype=np.int64),
            "fingerprint": _content(batch, properties["kind"], names),
            "received_ns": np.full(rows, received_ns, dtype=np.int64),
        }
        record = FrameRecord(
            partition=partition,
            delivery_epoch=int(properties["delivery_epoch"]),
            delivery_sequence=int(properties["delivery_sequence"]),
            count=int(properties["count"]),
            rows=rows,
            plan=int(properties["plan"]),
        )
        received = self.received[view]
        with self._lock:
            received.rows.append(columns)
            received.frames.append(record)
            received.events += rows
            received.last_received_ns = max(received.last_received_ns, received_ns)

    @property
    def log_events(self) -> int:
        """Events read from the log so far whose source has published in this run."""
        with self._lock:
            return sum(self._log_events[source] for source in self._accepted_sources)

    def last_received_ns(self) -> int:
        """When the last frame of any view was received; 0 before the first."""
        return max((view.last_received_ns for view in self.received.values()), default=0)

    def name(self, code: int) -> str:
        """The symbol that a code stands for."""
        with self._lock:
            return next((name for name, known in self._names.items() if known == code), "?")

    def _continue(self, after: "History") -> None:
        self._names = after._names  # noqa: SLF001 - of its own class
        self._seen = set(after._seen)  # noqa: SLF001 - of its own class
        published = after._accepted_sources  # noqa: SLF001 - of its own class
        self.earlier_sources = after.earlier_sources | published
        log = after.log_rows.columns()
        backwards = log["instrument"][::-1]
        newest = len(backwards) - 1 - np.unique(backwards, return_index=True)[1]
        self.log_rows.append({name: column[newest] for name, column in log.items()})
        self.carried_rows = len(newest)
        for name, view in self.received.items():
            if name in after.received:
                earlier = after.received[name]
                view.carried = dict(earlier.carried)
                for frame in earlier.frames:
                    before = view.carried.get(frame.partition)
                    if before is not None and frame.plan == NO_PLAN:
                        frame = replace(frame, plan=before.plan)  # noqa: PLW2901
                    view.carried[frame.partition] = frame

    def _redelivered(self, stream: str, partition: int, message_id: Hashable) -> bool:
        if message_id is None:
            return False
        key = (stream, partition, message_id)
        with self._lock:
            if key in self._seen:
                self.redelivered[stream] += 1
                return True
            self._seen.add(key)
            return False

    def _symbols(self, batch: pa.RecordBatch, name: str) -> npt.NDArray[np.int64]:
        column = batch.column(name)
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        codes = np.array(self._codes(column.dictionary.to_pylist()), dtype=np.int64)
        found: npt.NDArray[np.int64] = codes[column.indices.to_numpy(zero_copy_only=False)]
        return found

    def _codes(self, names: list[str]) -> list[int]:
        with self._lock:
            return [self._names.setdefault(name, len(self._names)) for name in names]


def kind_of(batch: pa.RecordBatch) -> str:
    """The kind that a frame's schema metadata names."""
    return str((batch.schema.metadata or {})[b"kind"].decode())


def _by_row(
    parts: list[tuple[str, npt.NDArray[np.int64], pa.RecordBatch]],
    told: Callable[[pa.RecordBatch, str], npt.NDArray[Any]],
    dtype: type[np.generic],
) -> npt.NDArray[Any]:
    """What is told of each event, kind by kind, in the order of the events."""
    values = np.empty(sum(len(rows) for _, rows, _ in parts), dtype)
    for kind, rows, events in parts:
        values[rows] = told(events, kind)
    return values


def _whole(batch: pa.RecordBatch, kind: str) -> Words:
    return _content(batch, kind, batch.schema.names)


def _delivered_content(view: ViewExpectation, batch: pa.RecordBatch, kind: str) -> Words:
    return _content(batch, kind, view.columns(kind), view.computed)


def _content(
    batch: pa.RecordBatch,
    kind: str,
    names: Iterable[str],
    computed: Mapping[str, Values] = _NOT_COMPUTED,
) -> Words:
    columns = [(name, batch.column(name)) for name in published_columns(names)]
    columns = [
        (name, _upstream_flags(column) if name == "quality_flags" else column)
        for name, column in columns
    ]
    columns += [(name, values(batch, kind)) for name, values in computed.items()]
    return fingerprints(columns, batch.num_rows) ^ np.uint64(text_hash(kind))


def _upstream_flags(column: pa.Array) -> pa.Array:
    """Flags without the bits that the sequencer may add; none given is the same as 0."""
    return pc.bit_wise_and(column.fill_null(0), pa.scalar(UPSTREAM_FLAGS, column.type))


def _integers(batch: pa.RecordBatch, name: str) -> npt.NDArray[np.int64]:
    column = batch.column(name)
    if pa.types.is_timestamp(column.type):
        column = column.view(pa.int64())
    numbers: npt.NDArray[np.int64] = (
        column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    )
    return numbers
