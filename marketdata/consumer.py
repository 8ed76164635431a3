"""The consumer client: checked frames of a topic, one after the other.

Delivery guarantee: every frame of the subscription is handed out at least once, in the order of its
partition, and is delivered again to whoever reads next until it is acknowledged. Within one
consumer's life a frame that was acknowledged is not handed out a second time, whatever the broker
repeats after a reconnect. Gaps, repeats and reversals are found by the sequences that the frames
carry (`marketdata.continuity`) and that heartbeats announce, counted, and reported or raised; with
`fill`, missing events are read again (`marketdata.gap_filling`) and handed out where they belong.

Errors: `BadFrame` (skip it with `ack`, or stop), `ContinuityBroken` (strict consumers only),
`pulsar.PulsarException` (the broker refuses; lost connections heal by themselves).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Literal, Self

import pulsar

from marketdata.connection import UNRESOLVED_S, open_client, opened
from marketdata.consumer_statistics import ConsumerStatistics
from marketdata.continuity import Continuity, Finding
from marketdata.delivered_frames import (
    BadFrame,
    ContinuityBroken,
    Frame,
    decode_payload,
    position_of,
)
from marketdata.gap_filling import GapFill, GapFiller
from marketdata.inspection import FrameInspector
from marketdata.liveness import Liveness, Silence
from marketdata.redelivery import RedeliveryTracker
from marketdata.topics import partition_index
from marketdata.transformations import Transformation

__all__ = [
    "BadFrame",
    "Consumer",
    "ConsumerStatistics",
    "ContinuityBroken",
    "Frame",
    "GapFill",
    "Silence",
    "SubscriptionType",
    "decode_payload",
]

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


class Consumer:
    """Reads a topic of frames. Not thread safe; a context manager that closes at its end.

    Args:
        service: Pulsar service URL, or a `pulsar.Client` that the caller closes afterwards.
        topic: any topic of frames: a view's, `sequenced/events`, `ingest/events`.
        subscription: the name of the Pulsar subscription (cursor).
        subscription_type: the two that keep the order; "failover" lets members take over.
        initial_position: where a subscription begins that does not exist yet.
        strict: raise `ContinuityBroken` on gaps that are not filled, repeats and reversals.
        on_gap: called with every `Finding`, before its frame is handed out.
        fill: read what is missing again; the frame that showed a gap then comes behind frames with
            the missing events, marked `filled`.
        auto_ack: acknowledge a frame when the next one is asked for. A loop that is left early
            leaves its last frame unacknowledged.
        deduplicate: drop frames that were acknowledged before.
        group: other members read the same subscription, so this consumer may find that they have
            read on in its partitions: such a step is a handover, not a gap.
        contiguous: holes in an instrument's sequences are gaps. None: for `sequenced` topics only.
        include_control: hand heartbeats and epoch frames out, too (`Frame.is_control`). They are
            used, counted and acknowledged without that.
        heartbeat_timeout_s: call `on_silence` when a partition that was heard of, or the whole
            topic, has given neither event nor heartbeat for so long while `receive` was asking.
            Choose several times the pace of heartbeats.
        on_silence: called once for each `Silence`.
        transformation: of the view, needed to fill its gaps and for frames with renamed or
            computed columns in formats without a schema of their own.
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
        fill: GapFill | None = None,
        auto_ack: bool = True,
        deduplicate: bool = True,
        group: bool = False,
        contiguous: bool | None = None,
        include_control: bool = False,
        heartbeat_timeout_s: float | None = None,
        on_silence: Callable[[Silence], None] | None = None,
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
        self._auto_ack = auto_ack
        self._include_control = include_control
        self._on_silence = on_silence
        self._tracker = RedeliveryTracker(window_ns=int(deduplicate_window_s * 1e9))
        self._liveness = Liveness(
            None if heartbeat_timeout_s is None else int(heartbeat_timeout_s * 1e9),
            by_partition=not group,
            now_ns=time.monotonic_ns(),
        )
        self._left_at_ns = time.monotonic_ns()
        self._pending: deque[Frame] = deque()
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
            filler = (
                None
                if fill is None
                else GapFiller(self._client, fill, transformation, reader=subscription)
            )
            self._consumer = self._subscribe(topic)
        except BaseException:
            if self._owns_client:
                self._client.close()
            raise
        self._inspector = FrameInspector(
            continuity=Continuity(
                contiguous="/sequenced/" in topic if contiguous is None else contiguous
            ),
            tracker=self._tracker,
            acknowledge=self._acknowledge,
            on_finding=on_gap,
            filler=filler,
            transformation=transformation,
            deduplicate=deduplicate,
            group=group,
            wants_control=self._wants_control,
        )

    def receive(self, timeout_s: float | None = None) -> Frame | None:
        """The next frame, or None when none came in time (None: wait for ever).

        Raises:
            BadFrame, ContinuityBroken: see there; the next call goes on behind it.
        """
        if self._auto_ack and self._held is not None:
            self.ack(self._held)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._liveness.absent(time.monotonic_ns() - self._left_at_ns)
        try:
            while not self._pending:
                message = self._next_message(deadline)
                if message is None:
                    return None
                self._pending += self._inspector.inspect(message)
        finally:
            self._left_at_ns = time.monotonic_ns()
        frame = self._pending.popleft()
        if self._breaks(frame):
            raise ContinuityBroken(frame)
        self._held = frame
        return frame

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
        self._release(frame)
        if frame.message_id is None:
            return  # filled from the log: there is no message to be acknowledged
        self._consumer.acknowledge(frame.message_id)
        self._tracker.acknowledge(
            frame.partition, position_of(frame.message_id), now_ns=time.monotonic_ns()
        )

    def ack_cumulative(self, frame: Frame) -> None:
        """This frame and every one before it in its partition is done.

        Raises:
            ValueError: the frame was filled from the log; acknowledge the one behind it.
        """
        if frame.message_id is None:
            raise ValueError(
                "a frame filled from the log is no message of this topic;"
                " acknowledge the frame behind it cumulatively"
            )
        self._release(frame)
        self._consumer.acknowledge_cumulative(frame.message_id)
        self._tracker.acknowledge_up_to(
            frame.partition, position_of(frame.message_id), now_ns=time.monotonic_ns()
        )

    def nack(self, frame: Frame) -> None:
        """Have this frame again after `redelivery_delay_ms`; it will be out of order.

        A filled frame comes again at once: the subscription's cursor may have left it out.
        """
        self._release(frame)
        if frame.filled:
            self._pending.append(replace(frame, redelivered=True))
        else:
            self._consumer.negative_acknowledge(frame.message_id)

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
        self._pending = deque(
            frame for frame in self._pending if partition not in (None, frame.partition)
        )
        self._inspector.forget(partition)

    def statistics(self) -> ConsumerStatistics:
        """What has been seen so far."""
        statistics = self._inspector.statistics()
        statistics.idle_s = self._liveness.idle_ns(now_ns=time.monotonic_ns()) / 1e9
        return statistics

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
        return opened(
            lambda: self._client.subscribe(topic, self._subscription, **self._options),
            time.monotonic() + UNRESOLVED_S,
        )

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
            message = None
            with suppress(pulsar.Timeout):
                message = self._consumer.receive(timeout_millis=max(1, left_ms))
            self._listen(message)
            if message is not None:
                return message
            if deadline is not None and time.monotonic() >= deadline:
                return None

    def _listen(self, message: pulsar.Message | None) -> None:
        now_ns = time.monotonic_ns()
        if message is not None:
            self._liveness.heard(partition_index(message.topic_name()), now_ns=now_ns)
        for silence in self._liveness.silences(now_ns=now_ns):
            if self._on_silence is not None:
                self._on_silence(silence)

    def _acknowledge(self, message_id: Any) -> None:
        self._consumer.acknowledge(message_id)

    def _wants_control(self, frame: Frame) -> bool:
        return self._include_control or self._breaks(frame)

    def _breaks(self, frame: Frame) -> bool:
        return self._strict and any(finding.is_breach for finding in frame.findings)

    def _release(self, frame: Frame | BadFrame) -> None:
        held = self._held
        if held is frame or (
            held is not None
            and frame.message_id is not None
            and (held.partition, held.message_id) == (frame.partition, frame.message_id)
        ):
            self._held = None
