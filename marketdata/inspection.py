"""What a consumer makes of a message: frames to hand out, with what their sequences say.

Order of events for one message: is it a repeat; what is inside; what do its sequences say, told to
`on_finding`; are missing events to be had again, told as well. Control frames are used, counted and
acknowledged here, and handed out only on request.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pulsar

from marketdata.connection import logger
from marketdata.consumer_statistics import ConsumerStatistics
from marketdata.continuity import (
    Continuity,
    Duplicate,
    EpochChange,
    Finding,
    Gap,
    GapNotFilled,
    Reversal,
)
from marketdata.control_frames import HEARTBEAT
from marketdata.delivered_frames import BadFrame, Frame, decode_payload, position_of
from marketdata.errors import InvalidFrame
from marketdata.formats import FormatError
from marketdata.gap_filling import Border, GapFiller
from marketdata.redelivery import Arrival, RedeliveryTracker
from marketdata.topics import partition_index
from marketdata.transformations import Transformation


class FrameInspector:
    """The checks of one consumer.

    Args:
        continuity: the check of sequences that the topic promises.
        tracker: what was handed out and acknowledged.
        acknowledge: called with the message id of a message that nobody gets.
        on_finding: called with everything that is found.
        filler: fills gaps; None leaves them.
        transformation: of the view.
        deduplicate: drop messages that were acknowledged before.
        group: others read the same subscription, so steps are handovers.
        wants_control: whether a control frame with these findings is to be handed out.
    """

    def __init__(
        self,
        *,
        continuity: Continuity,
        tracker: RedeliveryTracker,
        acknowledge: Callable[[Any], None],
        on_finding: Callable[[Finding], None] | None,
        filler: GapFiller | None,
        transformation: Transformation | None,
        deduplicate: bool,
        group: bool,
        wants_control: Callable[[Frame], bool],
    ) -> None:
        self._continuity = continuity
        self._tracker = tracker
        self._acknowledge = acknowledge
        self._on_finding = on_finding
        self._filler = filler
        self._transformation = transformation
        self._deduplicate = deduplicate
        self._group = group
        self._wants_control = wants_control
        self._statistics = ConsumerStatistics()
        self._before: dict[int, Border] = {}

    def inspect(self, message: pulsar.Message) -> list[Frame]:
        """The frames to hand out for a message, in order; none when nobody is to see it.

        Raises:
            BadFrame: it cannot be decoded.
        """
        message_id, topic = message.message_id(), message.topic_name()
        partition = partition_index(topic)
        arrival = self._tracker.arrive(partition, position_of(message_id))
        if arrival is Arrival.ACKNOWLEDGED and self._deduplicate:
            self._acknowledge(message_id)
            self._statistics.dropped_frames += 1
            return []
        properties = message.properties()
        try:
            batch = decode_payload(message.data(), properties, self._transformation)
        except (InvalidFrame, FormatError) as error:
            raise BadFrame(partition, message_id, str(error)) from error
        frame = Frame(batch, properties, partition, topic, message_id, time.time_ns())
        if arrival in (Arrival.ACKNOWLEDGED, Arrival.UNACKNOWLEDGED):
            self._statistics.redelivered_frames += 1
            return self._handed_out([replace(frame, redelivered=True)])
        self._rebase(partition, arrival)
        return self._handed_out(self._checked(frame))

    def forget(self, partition: int | None) -> None:
        """The cursor of a partition (None: of all) was moved: what comes next is the baseline."""
        self._tracker.forget(partition)
        self._rebaseline(partition)

    def statistics(self) -> ConsumerStatistics:
        """What has been seen so far."""
        counts = self._continuity.counts
        self._statistics.gaps = counts[Gap.__name__]
        self._statistics.duplicates = counts[Duplicate.__name__]
        self._statistics.reversals = counts[Reversal.__name__]
        self._statistics.epoch_changes = counts[EpochChange.__name__]
        self._statistics.gaps_not_filled = counts[GapNotFilled.__name__]
        return self._statistics

    def _checked(self, frame: Frame) -> list[Frame]:
        """The frame with its findings, behind the frames that fill its gaps."""
        if frame.is_control:
            self._count_control(frame)
            findings = self._continuity.check_control(
                frame.partition, frame.batch, frame.properties
            )
        else:
            findings = self._continuity.check(frame.partition, frame.batch, **_delivery(frame))
            self._statistics.frames += 1
            self._statistics.events += frame.batch.num_rows
        self._tell(findings)
        before, self._before[frame.partition] = self._before.get(frame.partition), Border.of(frame)
        gaps = [finding for finding in findings if isinstance(finding, Gap)]
        filled: list[Frame] = []
        if gaps and before is not None and self._filler is not None:
            filled, outcomes = self._filler.fill(gaps, before, frame)
            self._continuity.count(outcomes)
            self._tell(outcomes)
            findings = [finding for finding in findings if finding not in gaps] + outcomes
            for one in filled:
                self._count_filled(one)
        return [*filled, replace(frame, findings=tuple(findings))]

    def _handed_out(self, frames: list[Frame]) -> list[Frame]:
        """The frames without a control frame that nobody wants; that one is done."""
        last = frames[-1]
        if not last.is_control or self._wants_control(last):
            return frames
        self._acknowledge(last.message_id)
        self._tracker.acknowledge(
            last.partition, position_of(last.message_id), now_ns=time.monotonic_ns()
        )
        return frames[:-1]

    def _rebase(self, partition: int, arrival: Arrival) -> None:
        """Where the cursor moved without us, the sequences are expected to jump."""
        if arrival is Arrival.REWOUND:
            logger.warning("partition %d: the cursor was moved back; reading again", partition)
            self._statistics.rewinds += 1
            self._rebaseline(partition)
        elif arrival is Arrival.SKIPPED and self._group:
            self._statistics.handovers += 1
            self._rebaseline(partition)

    def _rebaseline(self, partition: int | None) -> None:
        self._continuity.forget(partition)
        if partition is None:
            self._before.clear()
        else:
            self._before.pop(partition, None)

    def _count_control(self, frame: Frame) -> None:
        if frame.kind == HEARTBEAT:
            self._statistics.heartbeats += 1
            self._statistics.last_heartbeat_at = datetime.fromtimestamp(
                frame.received_at_ns / 1e9, UTC
            )
        else:
            self._statistics.epochs += 1

    def _count_filled(self, frame: Frame) -> None:
        self._continuity.fill(frame.partition, frame.batch, **_delivery(frame))
        if frame.message_id is not None:
            self._tracker.hand_out(frame.partition, position_of(frame.message_id))
        self._statistics.frames += 1
        self._statistics.events += frame.batch.num_rows
        self._statistics.filled_frames += 1
        self._statistics.filled_events += frame.batch.num_rows

    def _tell(self, findings: list[Finding]) -> None:
        if self._on_finding is not None:
            for finding in findings:
                self._on_finding(finding)


def _delivery(frame: Frame) -> dict[str, Any]:
    """What a frame's properties say about its delivery sequences, for `Continuity`."""
    return {
        "view": frame.properties.get("view"),
        "delivery_sequence": frame.delivery_sequence,
        "delivery_epoch": frame.delivery_epoch,
        "properties": frame.properties,
    }
