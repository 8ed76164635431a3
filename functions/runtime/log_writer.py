"""Writes the log of one partition: frames, and with them all that was decided about their inputs.

What is said of inputs that leave no row (dropped, refused) rides on the next frame; when none comes
soon, or many such inputs wait for one, a heartbeat without rows carries it.
"""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from functions.operators.epoch import NewEpoch, new_epoch
from functions.operators.found import Finding, Observation
from functions.operators.heartbeat import ToldSequences
from functions.operators.pairs import Gap
from functions.operators.sequence import Grouped, with_sequences
from functions.operators.source_order import Rows
from functions.operators.state import PartitionState
from functions.runtime.deadletters import trace_properties
from functions.runtime.findings import ordering_events, resend_requests
from functions.runtime.function import FrameFunction
from functions.runtime.inputs import Input
from functions.runtime.letters import DeadLetters
from functions.runtime.ordering_log import OrderingLog
from functions.runtime.outputs import Output
from functions.runtime.sequence_log import (
    PARTITIONS_PROPERTY,
    REFUSED_PROPERTY,
    Recovered,
    recover_state,
)
from functions.runtime.snapshots import Snapshots
from marketdata.arrays import array_of
from marketdata.control_frames import EPOCH, HEARTBEAT, NEXT_SEQUENCES
from marketdata.frames import encode_frame, frame_properties
from marketdata.ordering import (
    ORDERING_PROPERTY,
    ResendRequest,
    ordering_property,
    read_ordering_property,
)
from marketdata.positions import NO_POSITION, place_before
from marketdata.topics import partition_topic

CARRIER_INTERVAL_S: Final = 1.0
MAX_UNLOGGED_INPUTS: Final = 32
"""A frame without events is sent for this many inputs without a row, or once in an interval."""

_NO_SEQUENCES: Final = pa.RecordBatch.from_arrays(
    [pa.array([], field.type) for field in NEXT_SEQUENCES], schema=NEXT_SEQUENCES
)


class Frame(NamedTuple):
    """Events for the log: their kind, the ingest batch, its rows by instrument and by pair."""

    kind: str
    batch: pa.RecordBatch
    grouped: Grouped
    rows: Rows | None


class LogWriter:
    """The log of one partition and what follows from it: findings, requests, snapshots.

    Args:
        function: whose connection, settings and reporter are used.
        partition: its number.
        letters: of the partition; a snapshot waits for those of refused inputs.

    Attributes:
        unlogged: inputs of which no frame has told yet what became of them.
    """

    def __init__(self, function: FrameFunction, partition: int, letters: DeadLetters) -> None:
        topics = function.settings.topics
        self.unlogged: list[Input] = []
        self._function = function
        self._partition = partition
        self._counters = function.reporter.counters
        self._log = Output(partition_topic(topics.sequenced, partition), "sequencer")
        self._ordering = OrderingLog(
            function, partition_topic(topics.ordering, partition), topics.resend, partition
        )
        self._snapshots = Snapshots(
            function,
            partition_topic(topics.state, partition),
            partition,
            lambda position: self._ordering.settled(position) and letters.settled(position),
        )
        self._stored = NO_POSITION
        self._notes: list[Finding] = []
        self._refused: list[int] = []
        self._carrier_due_s = 0.0
        self._told = ToldSequences()
        self._new_epoch: NewEpoch | None = None

    @property
    def position(self) -> int:
        """Of the last input that the log holds."""
        return self._log.position

    def awaited(self) -> Collection[Output]:
        """Outputs that have something to confirm for which no input waits."""
        return (self._ordering.output,) if self._ordering.is_awaited else ()

    def recover(self) -> Recovered:
        """Take the log over, read it, and publish what follows from it and is not published.

        Raises:
            pulsar.PulsarException, NotYetReadable: try again later.
        """
        self._log.open(self._function.client)
        try:
            found = recover_state(self._function.client, self._log, self._snapshots.topic)
            self._ordering.restart()
            self._tell_again(found)
        except BaseException:
            self._log.broken = True
            raise
        self._log.position = self._stored = found.position
        self._snapshots.restart(found.position, found.message_id)
        self.unlogged, self._notes, self._refused = [], [], []
        self._told = ToldSequences()
        self._begin_epoch(found)
        epoch = found.state.sequences.epoch
        self._function.log.info(
            "sequencer: partition %d continues after input %d with %d instruments in epoch %d"
            " (%d frames read, %d inputs wait, %d gaps are open)",
            self._partition,
            found.position,
            len(found.state.sequences),
            epoch,
            found.frames,
            len(found.state.held),
            found.state.order.open_gaps,
        )
        return found

    def announce_epoch(self, first: Input, state: PartitionState) -> None:
        """Put an epoch frame, where one is due, before the first input that the log lacks.

        Raises:
            pulsar.PulsarException: the broker is away; recover.
        """
        if self._new_epoch is None:
            return
        position = place_before(first.position)
        reason = self._new_epoch.reason
        events = ordering_events(
            [Finding("epoch_changed", -1, 0, 0, 0, -1, 0, reason=reason)],
            state.order,
            partition=self._partition,
            position=position,
            epoch=self._new_epoch.epoch,
            sequences=np.empty(0, dtype=np.uint64),
            detected_at_ns=time.time_ns(),
        )
        properties = {
            "kind": EPOCH,
            "count": "0",
            "position": str(position),
            "epoch": str(self._new_epoch.epoch),
            "reason": reason,
            PARTITIONS_PROPERTY: str(self._function.settings.partitions),
            ORDERING_PROPERTY: ordering_property(events),
        }
        data = encode_frame(_NO_SEQUENCES).to_pybytes()
        self._function.send(self._log, self._partition, (), data, properties, position=position)
        self._new_epoch = None
        self._counters["ordering_epoch_changed"] += 1
        self._ordering.tell(position, events, [])

    def note(self, item: Input, findings: list[Finding], *, refused: bool = False) -> None:
        """Have the next frame tell of rows of an input that the log will never have."""
        item.held = True
        self._notes += findings
        self.unlogged.append(item)
        if refused:
            self._refused.append(item.position)

    def wants_carrier(self, now_s: float) -> bool:
        """Whether it is time for a frame without events."""
        wanted = bool(self.unlogged) and (
            len(self.unlogged) >= MAX_UNLOGGED_INPUTS or now_s >= self._carrier_due_s
        )
        if wanted:
            self._carrier_due_s = now_s + CARRIER_INTERVAL_S
        return wanted

    def due_s(self) -> float | None:
        """When a frame without events is wanted; None when there is nothing to tell."""
        return self._carrier_due_s if self.unlogged else None

    def send(
        self,
        items: Sequence[Input],
        position: int,
        frame: Frame | None,
        state: PartitionState,
        journal: dict[str, str],
        *,
        fill: npt.NDArray[np.bool_] | None,
        late_after_ns: dict[int, int],
    ) -> None:
        """Append a frame; the state goes on behind it.

        Args:
            items: all inputs that it tells of.
            position: of the frame, behind the one before.
            frame: the events; None for a frame without any.
            state: of the partition.
            journal: properties about the rows that wait.
            fill, late_after_ns: as in `SourceOrder.observe`.

        Raises:
            pulsar.PulsarException: the broker is away; recover.
        """
        now_ns = time.time_ns()
        if frame is None:
            observation = Observation([])
            sequences = np.empty(0, dtype=np.uint64)
            batch = self._told.take(state.sequences)
            epoch = str(state.sequences.epoch)
            properties = {"kind": HEARTBEAT, "count": "0", "epoch": epoch}
            self._counters["heartbeats"] += 1
        else:
            observation = state.order.observe(
                frame.rows, position, fill=fill, late_after_ns=late_after_ns
            )
            sequences = state.sequences.assign(frame.batch, frame.grouped)
            batch = with_sequences(
                _marked(frame.batch, observation),
                frame.kind,
                sequences,
                epoch=state.sequences.epoch,
                ts_sequenced_ns=now_ns,
            )
            properties = frame_properties(batch, frame.kind)
            properties.update(trace_properties(items[-1]))
            self._counters["events_out"] += batch.num_rows
            self._function.reporter.observe_latency(batch.column("ts_publish")[-1].value)
        properties["position"] = str(position)
        properties.update(journal)
        if self._refused:
            properties[REFUSED_PROPERTY] = ",".join(map(str, self._refused))
        findings = [*observation.findings, *self._notes]
        events = []
        if findings:
            events = ordering_events(
                findings,
                state.order,
                partition=self._partition,
                position=position,
                epoch=state.sequences.epoch,
                sequences=sequences,
                detected_at_ns=now_ns,
            )
            properties[ORDERING_PROPERTY] = ordering_property(events)
        self.unlogged, self._notes, self._refused = [], [], []
        self._function.send(
            self._log,
            self._partition,
            items,
            encode_frame(batch).to_pybytes(),
            properties,
            position=position,
            event_timestamp_ms=int(properties.get("ts_event_last", 0)) // 1_000_000,
        )
        self._counters["frames_out"] += 1
        if findings:
            self._count(findings, observation)
            opened = {each.pair for each in observation.findings if each.type == "gap_opened"}
            gaps = (
                (pair, gap)
                for pair in sorted(opened)
                for gap in state.order.gaps.get(pair, ())
                if gap.position == position
            )
            self._ordering.tell(position, events, self._requests(state, gaps))
        if frame is not None or journal or findings:
            self._snapshots.offer(position, state)

    def confirmed(self, output: Output, message_id: Any, position: int) -> None:
        """A message of an output (of the log, of findings, of letters) is stored."""
        if output is self._log:
            self._stored = position
            self._ordering.stored(position)
            self._snapshots.stored(position, message_id)
        elif output is self._ordering.output:
            self._ordering.confirmed(position)
        self._snapshots.settle()

    def cover(self, state: PartitionState) -> None:
        """When all is stored, have a snapshot cover it."""
        self._ordering.stored(self._stored)  # again, in case that the broker was away
        if self._new_epoch is None:  # else the state is of an epoch that the log does not tell yet
            self._snapshots.cover(self._log.position, state)

    def _begin_epoch(self, found: Recovered) -> None:
        """Number anew in a higher epoch where the recovered numbers cannot be continued."""
        settings = self._function.settings
        self._new_epoch = new_epoch(
            found.state.sequences.epoch,
            lost=found.lost,
            floor=settings.epoch.floor,
            floor_reason=settings.epoch.reason,
            partitions=settings.partitions,
            recovered_partitions=found.partitions,
        )
        if self._new_epoch is not None:
            found.state.sequences.restart(self._new_epoch.epoch)
            self._function.reporter.error(
                f"partition {self._partition}: sequences start anew in epoch"
                f" {self._new_epoch.epoch}: {self._new_epoch.reason}"
            )

    def _tell_again(self, found: Recovered) -> None:
        requests: defaultdict[int, list[ResendRequest]] = defaultdict(list)
        for pair, gaps in found.state.order.gaps.items():
            for gap in gaps:
                requests[gap.position] += self._requests(found.state, [(pair, gap)])
        for position, text in sorted(found.findings.items()):
            self._ordering.tell(position, read_ordering_property(text), requests[position])
        self._ordering.stored(found.position)

    def _requests(
        self, state: PartitionState, gaps: Iterable[tuple[int, Gap]]
    ) -> list[ResendRequest]:
        return resend_requests(gaps, state.order, partition=self._partition, now_ns=time.time_ns())

    def _count(self, findings: list[Finding], observation: Observation) -> None:
        for found in findings:
            self._counters[f"ordering_{found.type}"] += 1
            self._counters[f"ordering_{found.type}_events"] += found.events
        if observation.forgotten:
            self._counters["ordering_forgotten_events"] += observation.forgotten


def _marked(batch: pa.RecordBatch, observation: Observation) -> pa.RecordBatch:
    """The batch with what was found in `quality_flags`."""
    if observation.marks is None:
        return batch
    index = batch.schema.get_field_index("quality_flags")
    given = pc.fill_null(batch.column(index), 0)
    marks = array_of(observation.marks, pa.uint32())
    return batch.set_column(index, batch.schema.field(index), pc.bit_wise_or(given, marks))
