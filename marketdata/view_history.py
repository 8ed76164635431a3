"""Making a view's events again from the log it was made from.

A view's message holds all events that the view's filter lets pass, behind the message before it, up
to its property `position`. So what is missing between two messages is what the filter lets pass
between their positions, without the last ones, which the second message holds itself. Both the
number and those last ones are checked; where they do not agree nothing is guessed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pulsar
import pyarrow as pa

from marketdata.arrays import array_of
from marketdata.control_frames import is_control
from marketdata.errors import DistributionError
from marketdata.filters import compile_filter
from marketdata.frames import frame_kind, read_frame
from marketdata.history import read_stretch
from marketdata.missing_events import rows_in_front
from marketdata.mixed import single_kinds
from marketdata.positions import containing
from marketdata.reference import Joined
from marketdata.topics import partition_topic
from marketdata.transformations import Transformation


class NotInHistory(DistributionError):
    """Missing events cannot be had again; the text says why."""


@dataclass(frozen=True, slots=True)
class LoggedRows:
    """Events of one frame of the log that a view lacks, not transformed.

    Attributes:
        position: of the frame in the log, packed, or the place of its run of one kind before that.
        rows: events of one kind.
    """

    position: int
    rows: pa.RecordBatch


class ViewHistory:
    """What a view's filter lets pass of the log.

    Args:
        client: to read with.
        log: the topic that the view is made from.
        sql: the view's filter.
        transformation: of the view: what its rules drop is not in the view.

    Raises:
        FilterError: `sql` is none.
    """

    def __init__(
        self, client: pulsar.Client, log: str, sql: str, transformation: Transformation
    ) -> None:
        self._client = client
        self._log = log
        self._filter = compile_filter(sql)
        self._transformation = transformation

    def missing_between(
        self,
        partition: int,
        before: int,
        after: int,
        *,
        missing: int,
        shown: pa.RecordBatch,
        deadline: float,
    ) -> list[LoggedRows]:
        """The `missing` events between two messages of a view's partition.

        Args:
            before, after: the property `position` of the two messages.
            shown: the events of the second one; none for a heartbeat.
            deadline: on `time.monotonic()`.

        Returns:
            The events in the log's order.

        Raises:
            NotInHistory: the log does not hold exactly what must be there.
            HistoryTimeout, pulsar.PulsarException: see `read_stretch`.
        """
        first, last = containing(before), containing(after)
        topic = partition_topic(self._log, partition)
        kept: list[LoggedRows] = []
        total, whole = 0, False
        for position, message in read_stretch(self._client, topic, first, last, deadline=deadline):
            whole = whole or position == first
            if position.pack() <= before or is_control(message.properties()):
                continue
            for place, batch in placed_runs(position.pack(), read_frame(message.data())):
                if not before < place <= after:
                    continue
                rows = batch.filter(pa.array(self._filter.mask(batch)))
                left = self._transformation.check(Joined(rows, {})).rows
                if left is not None:
                    rows = rows.take(array_of(left, pa.int64()))
                if rows.num_rows:
                    kept.append(LoggedRows(place, rows))
                    total += rows.num_rows
            if total > missing + shown.num_rows:
                raise self._disagrees(topic, missing, "more")
        front = rows_in_front([one.rows for one in kept], shown)
        count = 0 if front is None else sum(rows.num_rows for rows in front)
        if front is None or count != missing:
            if not whole:
                raise NotInHistory(f"retention has removed them from {topic}")
            raise self._disagrees(topic, missing, "other events" if front is None else str(count))
        return [
            LoggedRows(one.position, rows)
            for one, rows in zip(kept, front, strict=True)
            if rows.num_rows
        ]

    def _disagrees(self, topic: str, missing: int, found: str) -> NotInHistory:
        return NotInHistory(
            f"where {missing} events are missing, the filter {self._filter.canonical!r} lets"
            f" {found} pass from {topic}; give the view's own filter"
        )


def placed_runs(position: int, batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The runs of one kind of a frame, each with its place; the last has the frame's own.

    A view with smaller messages has more places before a frame; what they hold is not found then.
    """
    runs = [run for _, run in single_kinds(frame_kind(batch, mixed=True), batch)]
    for behind, run in zip(reversed(range(len(runs))), runs, strict=True):
        yield position - 2 * behind, run
