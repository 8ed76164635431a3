"""The consumer client: checked frames of a topic, one after the other.

Delivery guarantee: every frame of the subscription is handed out at least once, in the order of its
partition, and is delivered again to whoever reads next until it is acknowledged. Within one
consumer's life a frame that was acknowledged is not handed out a second time, whatever the broker
repeats after a reconnect. Gaps, repeats and reversals are found by the sequences that the frames
carry (`marketdata.continuity`), counted, and reported or raised.

Errors: `BadFrame` (skip it with `ack`, or stop), `ContinuityBroken` (strict consumers only),
`pulsar.PulsarException` (the broker refuses; lost connections heal by themselves).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, Literal, Self

import pulsar
import pyarrow as pa

from marketdata.connection import logger, open_client
from marketdata.continuity import Continuity, Duplicate, EpochChange, Finding, Gap, Reversal
from marketdata.errors import DistributionError, InvalidFrame
from marketdata.formats import FormatError, get_format
from marketdata.frames import read_frame
from marketdata.positions import Position
from marketdata.redelivery import Arrival, RedeliveryTracker
from marketdata.schemas import SEQUENCED_SCHEMAS, decimal_scale
from marketdata.topics import partition_index
from marketdata.transformations import Transformation

SubscriptionType = Literal["failover", "exclusive"]

_TYPES: Final = {
    "failover": pulsar.ConsumerType.Failover,
    "exclusive": pulsar.ConsumerType.Exclusive,
}
_INITIAL: Final = {
    "earliest": pulsar.InitialPosition.Earliest,
    "latest": pulsar.InitialPosition.Latest,
}
# Short waits inside long ones let a signal (Ctrl-C) through.
_WAIT_SLICE_MS: Final = 500


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it was delivered.

    Attributes:
        batch: the events.
        properties: the message's properties, all strings (kind, count, format, plan, view …).
        partition: of the topic.
        topic: the partition's own topic.
        message_id: Pulsar's, for `Consumer.seek`. To keep it, store `message_id.serialize()` and
            `topic`, and restore with `pulsar.MessageId.deserialize(data, topic)`.
        received_at_ns: when this process took it over, nanoseconds since the epoch, UTC.
        redelivered: it was handed out before and not acknowledged.
        findings: what its sequences say; empty when all is well.
    """

    batch: pa.RecordBatch
    properties: Mapping[str, str]
    partition: int
    topic: str
    message_id: Any
    received_at_ns: int
    redelivered: bool = False
    findings: tuple[Finding, ...] = ()

    @property
    def kind(self) -> str:
        """The kind of its events."""
        return self.properties.get("kind", "")

    @property
    def delivery_sequence(self) -> int | None:
        """The delivery sequence of the first event; None outside `delivery` topics."""
        text = self.properties.get("delivery_sequence")
        return None if text is None else int(text)

    def events(self) -> Iterator[dict[str, Any]]:
        """The events as dictionaries: `kind` and the columns.

        Prices and sizes are `Decimal` in units, times integers of nanoseconds, missing is None.
        """
        columns = {
            field.name: _values(field, column)
            for field, column in zip(self.batch.schema, self.batch.columns, strict=True)
        }
        for row in zip(*columns.values(), strict=True):
            yield {"kind": self.kind, **dict(zip(columns, row, strict=True))}


class BadFrame(DistributionError):
    """A message that cannot be decoded. `Consumer.ack(error)` skips it."""

    def __init__(self, partition: int, message_id: Any, reason: str) -> None:
        super().__init__(
            f"message {message_id} of partition {partition} is no frame: {reason};"
            " acknowledge this error to skip the message"
        )
        self.partition = partition
        self.message_id = message_id


class ContinuityBroken(DistributionError):
    """A strict consumer met a gap, a repeat or a reversal in `frame`, which is not acknowledged."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(
            f"partition {frame.partition}, message {frame.message_id}:"
            f" {'; '.join(map(str, frame.findings[:5]))}. The frame is in `.frame`;"
            " acknowledge it to go on, or seek back"
        )
        self.frame = frame


@dataclass(slots=True)
class ConsumerStatistics:
    """What a consumer has seen.

    Attributes:
        events, frames: handed out, redelivered ones not counted again.
        gaps, duplicates, reversals, epoch_changes: findings by class.
        redelivered_frames: handed out again because they had not been acknowledged.
        dropped_frames: delivered again by the broker after they had been acknowledged.
        rewinds: times the cursor was moved back behind this consumer.
        handovers: times another member of the group had read on in between.
    """

    events: int = 0
    frames: int = 0
    gaps: int = 0
    duplicates: int = 0
    reversals: int = 0
    epoch_changes: int = 0
    redelivered_frames: int = 0
    dropped_frames: int = 0
    rewinds: int = 0
    handovers: int = 0


class Consumer:
    """Reads a topic of frames. Not thread safe; a context manager that closes at its end.

    Args:
        service: Pulsar service URL, or a `pulsar.Client` that the caller closes afterwards.
        topic: any topic of frames: a view's, `sequenced/events`, `ingest/events`.
        subscription: the name of the Pulsar subscription (cursor).
        subscription_type: the two that keep the order; "failover" lets members take over.
        initial_position: where a subscription begins that does not exist yet.
        strict: raise `ContinuityBroken` on gaps, repeats and reversals.
        on_gap: called with every `Finding`, before its frame is handed out.
        auto_ack: acknowledge a frame when the next one is asked for. A loop that is left early
            leaves its last frame unacknowledged.
        deduplicate: drop frames that were acknowledged before.
        group: other members read the same subscription, so this consumer may find that they have
            read on in its partitions: such a step is a handover, not a gap.
        contiguous: holes in an instrument's sequences are gaps. None: for `sequenced` topics only.
        transformation: of the view, needed for JSON frames with renamed columns.
        receiver_queue_frames: frames prefetched per partition.
        redelivery_delay_ms: how long after `nack` a frame comes again.
        deduplicate_window_s: how long acknowledged frames are remembered; a redelivery from before
            is taken for a cursor moved back on purpose.
        client_options: further arguments of `pulsar.Client` when `service` is a URL.

    Raises:
        pulsar.PulsarException: the broker cannot be reached or refuses.
    """

    def __init__(
        self,
        service: str | pulsar.Client,
        topic: str,
        subscription: str,
        *,
        subscription_type: SubscriptionType = "failover",
        initial_position: Literal["earliest", "latest"] = "earliest",
        strict: bool = False,
        on_gap: Callable[[Finding], None] | None = None,
        auto_ack: bool = True,
        deduplicate: bool = True,
        group: bool = False,
        contiguous: bool | None = None,
        transformation: Transformation | None = None,
        consumer_name: str | None = None,
        receiver_queue_frames: int = 64,
        redelivery_delay_ms: int = 1000,
        deduplicate_window_s: float = 60.0,
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        if subscription_type not in _TYPES:
            raise ValueError(
                f"subscription_type {subscription_type!r} does not keep the order per instrument;"
                f" choose one of {sorted(_TYPES)}"
            )
        self._strict = strict
        self._on_gap = on_gap
        self._auto_ack = auto_ack
        self._deduplicate = deduplicate
        self._group = group
        self._transformation = transformation
        if contiguous is None:
            contiguous = "/sequenced/" in topic
        self._continuity = Continuity(contiguous=contiguous)
        self._tracker = RedeliveryTracker(window_ns=int(deduplicate_window_s * 1e9))
        self._statistics = ConsumerStatistics()
        self._held: Frame | None = None
        self._closed = False
        self._topic = topic
        self._subscription = subscription
        self._options: dict[str, Any] = {
            "consumer_type": _TYPES[subscription_type],
            "consumer_name": consumer_name,
            "initial_position": _INITIAL[initial_position],
            "receiver_queue_size": receiver_queue_frames,
            "negative_ack_redelivery_delay_ms": redelivery_delay_ms,
            "start_message_id_inclusive": True,
        }
        self._client, self._owns_client = open_client(service, client_options)
        try:
            self._consumer = self._subscribe(topic)
        except BaseException:
            if self._owns_client:
                self._client.close()
            raise

    def receive(self, timeout_s: float | None = None) -> Frame | None:
        """The next frame, or None when none came in time (None: wait for ever).

        Raises:
            BadFrame, ContinuityBroken: see there; the next call goes on behind it.
        """
        if self._auto_ack and self._held is not None:
            self.ack(self._held)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (message := self._next_message(deadline)) is not None:
            frame = self._accept(message)
            if frame is None:
                continue
            if self._strict and any(finding.is_breach for finding in frame.findings):
                raise ContinuityBroken(frame)
            self._held = frame
            return frame
        return None

    def frames(self, timeout_s: float | None = None) -> Iterator[Frame]:
        """Frames until none comes for `timeout_s` (None: for ever)."""
        while (frame := self.receive(timeout_s)) is not None:
            yield frame

    def events(self, timeout_s: float | None = None) -> Iterator[dict[str, Any]]:
        """Events one by one, as `Frame.events` gives them; frames are faster by far."""
        for frame in self.frames(timeout_s):
            yield from frame.events()

    def ack(self, frame: Frame | BadFrame) -> None:
        """This frame is done: it is not to be delivered again. Other frames are not touched."""
        self._consumer.acknowledge(frame.message_id)
        self._release(frame)
        self._tracker.acknowledge(
            frame.partition, position_of(frame.message_id), now_ns=time.monotonic_ns()
        )

    def ack_cumulative(self, frame: Frame) -> None:
        """This frame and every one before it in its partition is done."""
        self._consumer.acknowledge_cumulative(frame.message_id)
        self._release(frame)
        self._tracker.acknowledge_up_to(
            frame.partition, position_of(frame.message_id), now_ns=time.monotonic_ns()
        )

    def nack(self, frame: Frame) -> None:
        """Have this frame delivered again after `redelivery_delay_ms`; it will be out of order."""
        self._consumer.negative_acknowledge(frame.message_id)
        self._release(frame)

    def seek(self, position: Literal["earliest", "latest"] | datetime | Any) -> None:
        """Move the subscription: what comes next is the new baseline of all checks.

        Args:
            position: "earliest", "latest", a time with time zone (of publishing), or the
                message id of a frame of this topic, which moves that frame's partition only and
                delivers that frame first. Frames of other partitions that are not acknowledged
                come again, marked as redelivered.
        """
        partition: int | None = None
        if isinstance(position, str):
            if position not in _INITIAL:
                raise ValueError(f"cannot seek to {position!r}; choose one of {sorted(_INITIAL)}")
            self._consumer.seek(getattr(pulsar.MessageId, position))
        elif isinstance(position, datetime):
            if position.tzinfo is None:
                raise ValueError("give a time with its time zone, for example datetime.now(UTC)")
            self._consumer.seek(int(position.timestamp() * 1000))
        else:
            partition = max(0, position.partition())
            self._seek_partition(position)
        self._held = None
        self._tracker.forget(partition)
        self._continuity.forget(partition)

    def statistics(self) -> ConsumerStatistics:
        """What has been seen so far."""
        counts = self._continuity.counts
        self._statistics.gaps = counts[Gap.__name__]
        self._statistics.duplicates = counts[Duplicate.__name__]
        self._statistics.reversals = counts[Reversal.__name__]
        self._statistics.epoch_changes = counts[EpochChange.__name__]
        return self._statistics

    def close(self) -> None:
        """Send outstanding acknowledgements and release everything; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._consumer.close()
        finally:
            if self._owns_client:
                self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _subscribe(self, topic: str) -> Any:
        return self._client.subscribe(topic, self._subscription, **self._options)

    def _seek_partition(self, message_id: Any) -> None:
        """Move one partition only.

        Pulsar's client, seeking in one partition, throws away what it has prefetched of the others
        and never asks for it again; so the seek is left to a consumer of that partition alone.
        """
        names = self._client.get_topic_partitions(self._topic)
        self._consumer.close()
        try:
            alone = self._subscribe(names[max(0, message_id.partition())])
            try:
                alone.seek(message_id)
            finally:
                alone.close()
        finally:
            self._consumer = self._subscribe(self._topic)

    def _next_message(self, deadline: float | None) -> pulsar.Message | None:
        while True:
            left_ms = _WAIT_SLICE_MS
            if deadline is not None:
                left_ms = min(left_ms, int((deadline - time.monotonic()) * 1000))
            try:
                return self._consumer.receive(timeout_millis=max(1, left_ms))
            except pulsar.Timeout:
                if deadline is not None and time.monotonic() >= deadline:
                    return None

    def _accept(self, message: pulsar.Message) -> Frame | None:
        received_at_ns = time.time_ns()
        message_id, topic = message.message_id(), message.topic_name()
        partition = partition_index(topic)
        arrival = self._tracker.arrive(partition, position_of(message_id))
        if arrival is Arrival.ACKNOWLEDGED and self._deduplicate:
            self._consumer.acknowledge(message_id)
            self._statistics.dropped_frames += 1
            return None
        properties = message.properties()
        try:
            batch = decode_payload(message.data(), properties, self._transformation)
        except (InvalidFrame, FormatError) as error:
            raise BadFrame(partition, message_id, str(error)) from error
        if arrival in (Arrival.ACKNOWLEDGED, Arrival.UNACKNOWLEDGED):
            self._statistics.redelivered_frames += 1
            return Frame(batch, properties, partition, topic, message_id, received_at_ns, True)
        self._rebase(partition, arrival)
        findings = self._check(partition, batch, properties)
        self._statistics.frames += 1
        self._statistics.events += batch.num_rows
        return Frame(
            batch, properties, partition, topic, message_id, received_at_ns, False, findings
        )

    def _rebase(self, partition: int, arrival: Arrival) -> None:
        """Where the cursor moved without us, the sequences are expected to jump."""
        if arrival is Arrival.REWOUND:
            logger.warning("partition %d: the cursor was moved back; reading again", partition)
            self._statistics.rewinds += 1
            self._continuity.forget(partition)
        elif arrival is Arrival.SKIPPED and self._group:
            self._statistics.handovers += 1
            self._continuity.forget(partition)

    def _check(
        self, partition: int, batch: pa.RecordBatch, properties: Mapping[str, str]
    ) -> tuple[Finding, ...]:
        number = properties.get("delivery_sequence")
        findings = self._continuity.check(
            partition,
            batch,
            view=properties.get("view"),
            delivery_sequence=None if number is None else int(number),
            delivery_epoch=int(properties.get("delivery_epoch", "0")),
        )
        if self._on_gap:
            for finding in findings:
                self._on_gap(finding)
        return tuple(findings)

    def _release(self, frame: Frame | BadFrame) -> None:
        if self._held is not None and (self._held.partition, self._held.message_id) == (
            frame.partition,
            frame.message_id,
        ):
            self._held = None


def decode_payload(
    data: bytes, properties: Mapping[str, str], transformation: Transformation | None = None
) -> pa.RecordBatch:
    """The events of a message, by the format that its properties name (Arrow without one).

    Args:
        data: the message's payload.
        properties: the message's properties.
        transformation: of the view; formats without a schema of their own need it to read renamed
            columns.

    Raises:
        InvalidFrame, FormatError: the payload is not of that format, or the format is unknown.
    """
    name = properties.get("format", "arrow")
    if name == "arrow":
        return read_frame(data)
    whole = SEQUENCED_SCHEMAS.get(properties.get("kind", ""))
    schema = None if transformation is None or whole is None else transformation.schema(whole)
    return get_format(name).decode(data, schema)


def position_of(message_id: Any) -> Position:
    """A message id's place in its partition."""
    return Position(message_id.ledger_id(), message_id.entry_id(), max(0, message_id.batch_index()))


def _values(field: pa.Field, column: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(field.type):
        nanoseconds = column.cast(pa.timestamp("ns", tz=field.type.tz))
        return list(nanoseconds.view(pa.int64()).to_pylist())
    scale = decimal_scale(field)
    values: list[Any] = column.to_pylist()
    if scale is None or not pa.types.is_integer(field.type):
        return values
    return [None if value is None else Decimal(value).scaleb(-scale) for value in values]
