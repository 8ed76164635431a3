"""Filling gaps: events that a consumer missed are read again where history is there.

First in the topic itself: what a skipped cursor left out is still stored there. What a view's topic
has lost is made again from the log (`marketdata.view_history`), for which the view's filter must be
given. Nothing but a gap's own events is handed out, each once; what cannot be had is reported with
the reason. The work is bounded in time and events.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import pulsar
import pyarrow as pa

from marketdata.delivered_frames import Frame, decode_payload, position_of
from marketdata.errors import DistributionError, InvalidFrame
from marketdata.findings import Finding, Gap, GapFilled, GapNotFilled
from marketdata.formats import FormatError
from marketdata.frames import frame_kind, frame_properties
from marketdata.history import read_stretch
from marketdata.missing_events import MissingDeliveries, MissingInstruments
from marketdata.positions import Position
from marketdata.reference import Joined
from marketdata.skipped import CONFLATED_PROPERTY
from marketdata.topics import SEQUENCED_EVENTS
from marketdata.transformations import Transformation
from marketdata.view_history import NotInHistory, ViewHistory

_VIEW_KEY: Final = "view:"
_NO_ROWS: Final = pa.RecordBatch.from_arrays([], schema=pa.schema([]))


@dataclass(frozen=True, slots=True)
class GapFill:
    """How a consumer fills gaps. The topic itself is always asked first.

    Attributes:
        filter: of the view, as SQL ("" lets everything pass), to make its events again from the
            log; None leaves the log alone. The control plane's answer to a subscription holds it.
        log: the topic that the view is made from.
        max_events: larger gaps are not filled: their events are held in memory.
        timeout_s: how long one filling may take; `receive` waits for it.
    """

    filter: str | None = None
    log: str = SEQUENCED_EVENTS
    max_events: int = 1_000_000
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Border:
    """A message beside a gap.

    Attributes:
        at: its position in its own partition.
        log_position: of its last input in the log, packed; None when it does not say.
        epoch: of the delivery sequences.
        following: the delivery sequence behind its last event; None without delivery sequences.
    """

    at: Position
    log_position: int | None
    epoch: int
    following: int | None

    @classmethod
    def of(cls, frame: Frame) -> "Border":
        """The border that a frame is, events or none."""
        position, first = frame.properties.get("position"), frame.delivery_sequence
        count = 0 if frame.is_control else frame.batch.num_rows
        return cls(
            at=position_of(frame.message_id),
            log_position=None if position is None else int(position),
            epoch=frame.delivery_epoch,
            following=None if first is None else first + count,
        )


class GapFiller:
    """Fills the gaps of one consumer.

    Args:
        client: to read with.
        options: what may be done.
        transformation: of the view.
        reader: how the names of the cursors begin that it reads the consumer's topic with.

    Raises:
        FilterError: the filter of the options is none.
    """

    def __init__(
        self,
        client: pulsar.Client,
        options: GapFill,
        transformation: Transformation | None,
        *,
        reader: str = "",
    ) -> None:
        self._client = client
        self._reader = reader
        self._options = options
        self._transformation = transformation or Transformation()
        self._view_history: ViewHistory | None = None
        if options.filter is not None:
            self._view_history = ViewHistory(
                client, options.log, options.filter, self._transformation
            )

    def fill(
        self, gaps: Sequence[Gap], before: Border, after: Frame
    ) -> tuple[list[Frame], list[Finding]]:
        """Read missing events again.

        Args:
            gaps: what `after` showed.
            before: the message before it in its partition.
            after: the frame that showed the gaps.

        Returns:
            Frames of the missing events in their order; and for each gap a `GapFilled`, or a
            `GapNotFilled` for each range that could not be had.
        """
        missing = sum(gap.last - gap.first + 1 for gap in gaps)
        if missing > self._options.max_events:
            reason = f"{missing} events are more than max_events={self._options.max_events}"
            return [], [_not_filled(gap, gap.first, gap.last, reason) for gap in gaps]
        deadline = time.monotonic() + self._options.timeout_s
        stored, reason = self._stored_between(before, after, deadline)
        of_view = [gap for gap in gaps if gap.key.startswith(_VIEW_KEY)]
        of_instruments = [gap for gap in gaps if gap not in of_view]
        instruments = MissingInstruments(of_instruments)
        frames: list[Frame] = []
        findings: list[Finding] = []
        for gap in of_view:
            filled, outcome = self._fill_deliveries(gap, before, stored, after, reason, deadline)
            frames += filled
            findings += outcome
        # Where both tell of a gap they tell of the same events.
        for frame in frames if of_view else stored:
            rows = instruments.take(frame.batch)
            if rows.num_rows and not of_view:
                frames.append(_part(frame, rows))
        for gap in of_instruments:
            findings += _outcome(gap, instruments.left(gap), reason)
        return frames, findings

    def _stored_between(
        self, before: Border, after: Frame, deadline: float
    ) -> tuple[list[Frame], str]:
        """The frames of events between two messages of the topic, and why some may be absent."""
        frames: list[Frame] = []
        last = position_of(after.message_id)
        whole, events = False, 0
        try:
            for position, message in read_stretch(
                self._client, after.topic, before.at, last, deadline=deadline, reader=self._reader
            ):
                whole = whole or position == before.at
                if before.at < position < last:
                    frame = self._frame(message, after)
                    if frame is not None:
                        frames.append(frame)
                        events += frame.batch.num_rows
                if events > self._options.max_events:
                    return frames, f"more than max_events={self._options.max_events} were read"
        except (DistributionError, pulsar.PulsarException) as error:
            return frames, f"{type(error).__name__}: {error}"
        if not whole:
            return frames, f"retention has removed them from {after.topic}"
        return frames, f"{after.topic} does not hold them"

    def _frame(self, message: pulsar.Message, after: Frame) -> Frame | None:
        """A stored message as a frame that fills a gap; None when it holds no events."""
        properties = message.properties()
        try:
            batch = decode_payload(message.data(), properties, self._transformation)
        except (InvalidFrame, FormatError):
            return None  # no event to be had from it; its gap stays open and says so
        frame = replace(
            after,
            batch=batch,
            properties=properties,
            message_id=message.message_id(),
            received_at_ns=time.time_ns(),
            findings=(),
            filled=True,
        )
        return None if frame.is_control else frame

    def _fill_deliveries(
        self,
        gap: Gap,
        before: Border,
        stored: Sequence[Frame],
        after: Frame,
        reason: str,
        deadline: float,
    ) -> tuple[list[Frame], list[Finding]]:
        missing = MissingDeliveries(gap)
        filled: list[Frame] = []
        lefts, rights = {before.following: before}, {after.delivery_sequence: after}
        for frame in stored:
            first = frame.delivery_sequence
            view = f"{_VIEW_KEY}{frame.properties.get('view')}"
            if first is None or (view, frame.delivery_epoch) != (gap.key, gap.epoch):
                continue
            parts = [_part(frame, rows, start) for start, rows in missing.take(frame.batch, first)]
            if parts:
                filled += parts
                border = Border.of(frame)
                lefts[border.following], rights[first] = border, frame
        for first, last in missing.ranges():
            try:
                filled += self._from_log(
                    missing, (first, last), lefts.get(first), rights.get(last + 1), deadline
                )
            except (DistributionError, pulsar.PulsarException) as error:
                reason = f"{reason}; {error}"
        filled.sort(key=lambda frame: frame.delivery_sequence or 0)
        return filled, _outcome(gap, missing.ranges(), reason)

    def _from_log(
        self,
        missing: MissingDeliveries,
        hole: tuple[int, int],
        left: Border | None,
        right: Frame | None,
        deadline: float,
    ) -> list[Frame]:
        """Make the events of a hole between two messages again.

        Raises:
            NotInHistory, HistoryTimeout, InvalidFrame, pulsar.PulsarException: they stay missing.
        """
        if self._view_history is None:
            raise NotInHistory("give `GapFill` the view's filter to make them again from the log")
        if left is None or right is None:
            raise NotInHistory("the messages on both sides of the hole are not known")
        ends_at = Border.of(right).log_position
        if left.log_position is None or ends_at is None:
            raise NotInHistory("the messages beside the hole do not name their position in the log")
        if left.epoch != right.delivery_epoch:
            raise NotInHistory("the count started anew within the gap")
        if CONFLATED_PROPERTY in right.properties:
            raise NotInHistory("what the view is conflated to is known to the functions only")
        if self._transformation.custom:
            raise NotInHistory("the view's custom transformation works in the functions only")
        if self._transformation.enrich:
            raise NotInHistory("the view's reference tables are known to the functions only")
        first, last = hole
        found = self._view_history.missing_between(
            right.partition,
            left.log_position,
            ends_at,
            missing=last - first + 1,
            shown=_NO_ROWS if right.is_control else right.batch,
            deadline=deadline,
        )
        start, frames = first, []
        for one in found:
            kind = frame_kind(one.rows)
            properties = frame_properties(one.rows, kind) | {
                "view": right.properties["view"],
                "delivery_epoch": str(right.delivery_epoch),
                "delivery_sequence": str(start),
                "position": str(one.position),
            }
            marks = self._transformation.check(Joined(one.rows, {})).marks
            rows = self._transformation.apply(one.rows, added=() if marks is None else (marks,))
            missing.take(rows, start)
            frames.append(
                replace(
                    right,
                    batch=rows,
                    properties=properties,
                    message_id=None,
                    received_at_ns=time.time_ns(),
                    findings=(),
                    filled=True,
                )
            )
            start += rows.num_rows
        return frames


def _part(frame: Frame, rows: pa.RecordBatch, first: int | None = None) -> Frame:
    """Some of a frame's events, of which the first has that delivery sequence."""
    numbered = {"count": str(rows.num_rows)}
    if first is not None:
        numbered["delivery_sequence"] = str(first)
    return replace(frame, batch=rows, properties={**frame.properties, **numbered})


def _outcome(gap: Gap, left: Sequence[tuple[int, int]], reason: str) -> list[Finding]:
    """What became of a gap of which these ranges are still missing."""
    if not left:
        return [GapFilled(gap.partition, gap.key, gap.epoch, gap.first, gap.last)]
    return [_not_filled(gap, first, last, reason) for first, last in left]


def _not_filled(gap: Gap, first: int, last: int, reason: str) -> GapNotFilled:
    return GapNotFilled(gap.partition, gap.key, gap.epoch, first, last, reason)
