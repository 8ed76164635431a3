"""The sequencer's stage: from the inputs of one partition to its log, dead letters and findings.

Everything that is decided is in the log: the frames, which rows of earlier inputs wait
(`operators/journal.py`), what was found (`marketdata/ordering.py`), which inputs were refused. So
the log alone tells after any crash what is still to be done (decision 11).
"""

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from functions.operators.admission import Policies, admit, concerns
from functions.operators.group import FrameGroup, LogGroup, merged
from functions.operators.release import assembled, segments
from functions.operators.reorder import Arrival, HeldRow, ReorderBuffer
from functions.operators.sequence import Grouped
from functions.operators.source_order import Rows
from functions.operators.state import PartitionState
from functions.runtime.function import FrameFunction, PartitionStage
from functions.runtime.held_rows import HeldInput, HeldRows
from functions.runtime.inputs import Input
from functions.runtime.letters import DeadLetters
from functions.runtime.log_writer import Frame, LogWriter
from functions.runtime.outputs import Output
from marketdata.control_frames import TICK
from marketdata.errors import InvalidFrame
from marketdata.frames import MAX_FRAME_BYTES, compact_dictionaries, decode_frame, frame_kind
from marketdata.mixed import MAX_MIXED_BYTES, MAX_MIXED_ROWS, MIXED, occurring
from marketdata.ordering import FILL_PROPERTY

MOST_RELEASED: Final = 4_096
"""Most rows of mixed inputs that leave with one input: each may need a frame, and so a place."""

_INVALID: Final = "invalid"
_NO_ROWS: Final = pa.RecordBatch.from_arrays([], names=[])


class SequencerStage(PartitionStage):
    """One partition.

    Attributes:
        clock: gives the time, in seconds, once a turn.
    """

    clock = staticmethod(time.monotonic)

    def __init__(self, function: FrameFunction, partition: int) -> None:
        self._function = function
        self._partition = partition
        self._counters = function.reporter.counters
        self._letters = DeadLetters(function, partition)
        self._writer = LogWriter(function, partition, self._letters)
        self._invalid: dict[int, tuple[str, str]] = {}
        self._now_s = 0.0
        self._begin(PartitionState())

    def _begin(self, state: PartitionState) -> None:
        self._state = state
        self._held = HeldRows(state.held)
        self._buffer = ReorderBuffer(state.order.pair)
        self._policies = Policies(self._function.settings.sources, state.order)

    def recover(self) -> None:
        """Take the log over and rebuild the state; the dead letters reopen when needed.

        Also when only the letters were lost: an input that was judged must be judged again by the
        state that it was judged by, and only the log tells which were refused.
        """
        self._letters.recover()
        found = self._writer.recover()
        self._letters.restart(found.refused)
        self._begin(found.state)

    def apply(self, items: Sequence[Input]) -> None:
        """Sequence the inputs that the log and the dead letters lack."""
        self._now_s = self.clock()
        fresh = [item for item in items if item.position > self._writer.position]
        if fresh:
            self._writer.announce_epoch(fresh[0], self._state)
        for group in self._groups(items):
            self._take(group)
        if fresh and _is_tick(fresh[-1]) and fresh[-1].position > self._writer.position:
            self._send(fresh[-1:], fresh[-1].position, None, [])
        if self._writer.wants_carrier(self._now_s):
            self._send(self._writer.unlogged[-1:], self._writer.unlogged[-1].position, None, [])

    def confirmed(self, output: Output, message_id: Any, position: int) -> None:
        """Publish the snapshot that was waiting for its frame, or for what follows from it."""
        self._letters.confirmed(output, position)
        self._writer.confirmed(output, message_id, position)

    def awaited(self) -> Collection[Output]:
        """The findings' output: no input waits for it."""
        return self._writer.awaited()

    def tidy(self) -> None:
        """When all is stored, have a snapshot cover it: retention may remove an idle log."""
        self._writer.cover(self._state)

    def due_in_s(self, now_s: float) -> float | None:
        """Seconds until an input is wanted, so that what waits can leave; None when nothing waits.

        Args:
            now_s: `time.monotonic()`.
        """
        dues = [due for due in (self._buffer.due_s(), self._writer.due_s()) if due is not None]
        return max(0.0, min(dues) - now_s) if dues else None

    def _groups(self, items: Sequence[Input]) -> Iterator[FrameGroup[Input]]:
        most = self._function.settings.max_rows
        return merged(self._accepted(items), LogGroup, max_rows=most, max_bytes=MAX_FRAME_BYTES)

    def _accepted(self, items: Sequence[Input]) -> Iterator[tuple[Input, str, pa.RecordBatch]]:
        """What the log lacks, in order: frames, ticks, and inputs that are no frame."""
        for item in items:
            item.held = False
            if _is_tick(item):
                kind, batch = TICK, _NO_ROWS
            else:
                kind, batch = self._decoded(item)
            if kind == _INVALID:
                yield item, kind, batch
            elif item.position > self._writer.position:
                lost = self._held.give_up_missing()
                if lost:
                    self._counters["held_events_lost"] += lost
                    self._function.reporter.error(
                        f"partition {self._partition}: {lost} events that waited are not delivered"
                        " again; was the sequencer's subscription moved by hand?"
                    )
                yield item, kind, batch
            elif self._letters.was_refused(item):
                self._invalid[item.position] = ("out_of_order", "refused before a restart")
                yield item, _INVALID, _NO_ROWS
            elif self._held.of(item):
                self._wait_again(item, kind, batch)

    def _decoded(self, item: Input) -> tuple[str, pa.RecordBatch]:
        try:
            batch = decode_frame(
                item.data,
                partition=self._partition,
                partitions=self._function.settings.partitions,
            )
            # An unused name in a dictionary must neither live on in the state nor grow a merge.
            return frame_kind(batch, mixed=True), compact_dictionaries(batch)
        except InvalidFrame as error:
            self._invalid[item.position] = error.code, error.reason
        except Exception as error:  # noqa: BLE001 - no input may stop the ones behind it
            self._invalid[item.position] = "undecodable", f"{type(error).__name__}: {error}"
        return _INVALID, _NO_ROWS

    def _take(self, group: FrameGroup[Input]) -> None:
        if group.kind == _INVALID:
            for item in group.items:
                self._letters.send(item, *self._invalid.pop(item.position))
        elif group.kind == TICK:
            self._leave(group.items, None)
        else:
            batch = group.batch()
            grouped = self._state.sequences.group(batch)
            rows = self._state.order.compare(batch, grouped)
            frame = Frame(group.kind, batch, grouped, rows)
            if rows is None or not self._is_special(group, rows):
                self._counters["events_in"] += batch.num_rows
                self._leave(group.items, frame)
            elif len(group.items) > 1:  # what is decided is decided for one input
                for item in group.items:
                    for single in self._groups([item]):
                        self._take(single)
            else:
                self._counters["events_in"] += batch.num_rows
                self._admit(group.items[0], frame, rows)

    def _is_special(self, group: FrameGroup[Input], rows: Rows) -> bool:
        if concerns(rows, self._policies, self._buffer):
            return True
        return bool(len(rows.odd_groups)) and any(map(_is_fill, group.items))

    def _admit(self, item: Input, frame: Frame, rows: Rows) -> None:
        origin = HeldInput(item, frame.kind, frame.batch)
        admission = admit(
            rows,
            self._state.order,
            self._policies,
            self._buffer,
            origin=origin,
            fill=_is_fill(item),
            now_s=self._now_s,
        )
        if admission.refusal:
            self._letters.refuse(item, admission.refusal)
            self._writer.note(item, admission.findings, refused=True)
            return
        if admission.findings:
            self._writer.note(item, admission.findings)
            dropped = sum(found.events for found in admission.findings)
            self._counters["events_dropped"] += dropped
        if admission.waiting:
            self._held.hold(item, admission.waiting)
            item.held = True
        if admission.left_out is None:
            self._leave([item], frame)
        elif admission.left_out.all():
            self._leave([item], None)
        else:
            left = compact_dictionaries(frame.batch.filter(pa.array(~admission.left_out)))
            batch = occurring(left) if frame.kind == MIXED else left
            self._leave([item], self._frame(frame.kind, batch))

    def _frame(self, kind: str, batch: pa.RecordBatch) -> Frame:
        grouped: Grouped = self._state.sequences.group(batch)
        return Frame(kind, batch, grouped, self._state.order.compare(batch, grouped))

    def _leave(self, items: Sequence[Input], frame: Frame | None) -> None:
        """Send a frame (None: no row of these inputs leaves) and what may leave with it."""
        released = self._released(items[-1], frame) if len(self._buffer) else []
        if not released:
            if frame is not None:
                self._send(items, items[-1].position, frame, [])
            return
        # Rows of any one kind may join a mixed frame.
        mixed = frame is not None and frame.kind == MIXED
        cut = segments(
            released,
            kind=released[0].arrival.kind if frame is None or mixed else frame.kind,
            rows=frame.batch.num_rows if frame is not None else 0,
            size_bytes=frame.batch.nbytes if frame is not None else 0,
            max_rows=self._most_rows(frame),
            max_bytes=MAX_MIXED_BYTES if mixed else MAX_FRAME_BYTES,
        )
        position = items[-1].position
        first = frame
        for rows in cut:
            if first is None and not rows:
                continue
            found = rows[0].arrival.kind if first is None else first.kind
            batch = assembled(found, first.batch if first is not None else None, rows)
            self._send(items, position, self._frame(found, batch), rows)
            # Inputs that have their entry for themselves leave room for more positions.
            position += 1
            first = None

    def _released(self, last: Input, frame: Frame | None) -> list[HeldRow]:
        most: int | None = None
        if not last.alone:
            # Their places between this input and the next one are few: none beyond a full frame.
            most = max(0, self._most_rows(frame) - (frame.batch.num_rows if frame else 0))
        elif any(origin.is_mixed for origin in self._buffer.origins):
            most = MOST_RELEASED
        return self._buffer.release(
            self._now_s,
            max_held=self._policies.hold_rows,
            one_kind=not last.alone,
            kind=frame.kind if frame is not None and frame.kind != MIXED else None,
            max_rows=most,
        )

    def _most_rows(self, frame: Frame | None) -> int:
        most = self._function.settings.max_rows
        return min(most, MAX_MIXED_ROWS) if frame is not None and frame.kind == MIXED else most

    def _send(
        self, items: Sequence[Input], position: int, frame: Frame | None, rows: list[HeldRow]
    ) -> None:
        """Send one frame, None one without events, and with it what it has to say of all inputs."""
        made_of = dict.fromkeys(held.arrival.origin.item for held in rows)
        made_of |= dict.fromkeys([*self._writer.unlogged, *items])
        for item in made_of:
            item.held = False
        for origin in self._buffer.origins:
            origin.item.held = True
        fill = None
        if frame is not None and len(items) == 1 and _is_fill(items[0]):
            fill = np.ones(frame.batch.num_rows, dtype=bool)
        self._writer.send(
            list(made_of),
            position,
            frame,
            self._state,
            self._held.journal(rows),
            fill=fill,
            late_after_ns=self._policies.late_after_ns,
        )

    def _wait_again(self, item: Input, kind: str, batch: pa.RecordBatch) -> None:
        """Put the rows that the log says wait back into the buffer."""
        waiting = self._held.of(item)
        self._held.found(item)
        item.held = True
        origin = HeldInput(item, kind, batch)
        rows = self._state.order.compare(batch, self._state.sequences.group(batch))
        assert rows is not None, "only numbered rows wait"  # noqa: S101
        for n, pair in enumerate(rows.pairs.tolist()):
            span = rows.group(n)
            arrivals = [
                Arrival(origin, *row)
                for row in zip(
                    rows.order[span].tolist(),
                    rows.numbers[span].tolist(),
                    rows.times[span].tolist(),
                    strict=True,
                )
                if row[0] in waiting
            ]
            if arrivals:
                hold_s = self._policies.of_pair(pair).hold_ms / 1000
                self._buffer.admit(pair, arrivals, self._now_s + hold_s)


def _is_tick(item: Input) -> bool:
    """Whether an input only lets time pass; one with a payload is somebody's mistake, not ours."""
    return item.properties.get("kind") == TICK and not item.data


def _is_fill(item: Input) -> bool:
    return item.properties.get(FILL_PROPERTY) == "1"
