"""The publisher client: batches of events in, confirmed frames on `ingest/events` out.

Delivery guarantee: an event that `publish` took over is stored exactly once and, per instrument, in
the order of the `publish` calls, as long as this publisher lives: lost connections and restarted
brokers are healed by sending again under the same sequence id, which the broker deduplicates.
What a publisher had not confirmed when its process died is the caller's to publish again; a caller
that can repeat its calls exactly uses `resume_from` and gets exactly once across processes too.

Errors: `InvalidEvents` (nothing of the batch was taken, fix it), `PublishTimeout` (nothing was
taken, or not everything is confirmed yet: call again), `PublishError` (for good; its text says what
to do).
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Condition, Lock, Thread
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pulsar
import pyarrow as pa

from marketdata.batching import PartitionBuffer, conform_events, split_by_partition
from marketdata.connection import logger, open_client, opened, partition_topics
from marketdata.errors import PublishError
from marketdata.frames import MAX_FRAME_BYTES, MAX_ROWS
from marketdata.lane import Answer, Lane, PendingFrame
from marketdata.pace import Pace
from marketdata.topics import INGEST_EVENTS, partition_topic

Confirmed = Callable[[int, int, pulsar.MessageId | None, pa.RecordBatch], None]
"""Called with (partition, sequence_id, message_id, batch) for every stored frame, in order.

`message_id` is None when the broker had stored the frame before its confirmation was lost. The
events may be of several kinds (`marketdata.mixed`), unless the publisher has no `max_delay_ms`.
"""

_LATENCIES_KEPT: Final = 10_000
_HEAL_INTERVAL_S: Final = 1.0

_FREE_FRAMES_A_SECOND: Final = 100.0
_FREE_AT_ONCE: Final = 8
"""What a publisher sends beyond this gathers for up to its `max_delay_ms` (`marketdata.pace`)."""

_STOP: Final = object()


class PublishTimeout(PublishError):
    """The time given ran out before there was room, or before everything was confirmed."""


class NameTaken(PublishError):
    """Another publisher of this name is connected: names must be unique."""


@dataclass(frozen=True, slots=True)
class PublisherStatistics:
    """What a publisher has done so far.

    `events`, `frames` and `frame_bytes` count what the broker confirmed; `already_stored_frames` of
    these the broker knew before. Latencies run from handing a frame to the Pulsar client to its
    confirmation, over the last 10,000 frames; None before the first.
    """

    events: int
    frames: int
    frame_bytes: int
    already_stored_frames: int
    resent_frames: int
    pending_frames: int
    pending_bytes: int
    buffered_events: int
    confirm_latency_p50_ms: float | None
    confirm_latency_p99_ms: float | None
    confirm_latency_max_ms: float | None


class Publisher:
    """Publishes batches of events. Thread safe; a context manager that flushes at its end.

    Args:
        service: Pulsar service URL, or a `pulsar.Client` that the caller closes afterwards.
        name: stable name of this publisher, unique among those that publish at the same time. The
            broker deduplicates by `<name>-<partition>`.
        topic: a partitioned topic in a namespace with deduplication.
        max_events: events in a frame at most, 1…32768.
        max_bytes: frames are cut before they grow beyond this.
        max_delay_ms: longest time an event waits for its frame to fill. It waits only while a
            frame of its partition is unconfirmed, or while this publisher sends more than a hundred
            frames a second (8, or one for each partition, may be ahead of that), so that frames are
            small when little happens and large under load.
            None for no limit: only `flush` and full frames send, and a frame holds one kind.
        max_pending_frames, max_pending_bytes: `publish` blocks while this much is unconfirmed. One
            batch is always taken as a whole, so the limit may be passed by one batch.
        publish_timeout_s: how long `publish` blocks for room; None for ever.
        open_timeout_s: how long to wait for a publisher of the same name to go away, or for a
            broker's name to be known.
        partitions: number of partitions; None asks the broker.
        stamp_ts_publish: write the time of the `publish` call into `ts_publish`.
        compression: Arrow's own in the frames: None, "lz4" or "zstd".
        client_options: further arguments of `pulsar.Client` when `service` is a URL.

    Raises:
        TopicNotReady: the topic is missing or not partitioned.
        NameTaken: another publisher of this name is connected.
        pulsar.PulsarException: the broker cannot be reached or refuses.
    """

    def __init__(
        self,
        service: str | pulsar.Client,
        *,
        name: str,
        topic: str = INGEST_EVENTS,
        max_events: int = MAX_ROWS,
        max_bytes: int = 5 * 512 * 1024,
        max_delay_ms: float | None = 25.0,
        max_pending_frames: int = 256,
        max_pending_bytes: int = 64 * 1024 * 1024,
        publish_timeout_s: float | None = None,
        open_timeout_s: float = 10.0,
        partitions: int | None = None,
        stamp_ts_publish: bool = True,
        compression: str | None = None,
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        if not name:
            raise ValueError("a publisher needs a stable name of its own")
        if not 1 <= max_bytes <= MAX_FRAME_BYTES:
            raise ValueError(f"max_bytes is {max_bytes}; give 1 to {MAX_FRAME_BYTES}")
        if max_pending_frames < 1 or max_pending_bytes < 1:
            raise ValueError("max_pending_frames and max_pending_bytes must be at least 1")
        self._name = name
        self._max_delay_s = None if max_delay_ms is None else max_delay_ms / 1000
        self._max_pending_frames = max_pending_frames
        self._max_pending_bytes = max_pending_bytes
        self._publish_timeout_s = publish_timeout_s
        self._stamp = stamp_ts_publish
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._changed = Condition()
        self._pending_frames = 0
        self._pending_bytes = 0
        self._events = self._frames = self._bytes = self._already_stored = 0
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._on_confirmed: list[Confirmed] = []
        self._started = False
        self._closed = False
        self._closing = Lock()
        self._lanes: list[Lane] = []
        self._client, self._owns_client = open_client(service, client_options)
        try:
            names = (
                partition_topics(self._client, topic)
                if partitions is None
                else [partition_topic(topic, number) for number in range(partitions)]
            )
            deadline = time.monotonic() + open_timeout_s
            pace = self._pace(len(names))
            for number, lane_topic in enumerate(names):
                self._lanes.append(
                    Lane(
                        number,
                        # What is to be resumed is cut as it always was.
                        PartitionBuffer(
                            max_events=max_events,
                            max_bytes=max_bytes,
                            mixed=self._max_delay_s is not None,
                        ),
                        self._opener(number, lane_topic, deadline),
                        self._inbox,
                        self._count_pending,
                        compression,
                        pace=pace,
                    )
                )
        except BaseException:
            self._release()
            raise
        self._worker = Thread(target=self._work, name=f"publisher-{name}", daemon=True)
        self._worker.start()

    @property
    def partitions(self) -> int:
        """Number of partitions published to."""
        return len(self._lanes)

    def publish(
        self,
        batch: pa.RecordBatch,
        *,
        traceparent: str | None = None,
        fill: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Take over a batch of events of one kind, of any instruments and any length.

        Returns when the batch is taken over; `flush` or `on_confirmed` tell when it is stored.

        Args:
            batch: columns and metadata of the kind's ingest schema; `ts_publish` may be absent
                when this publisher stamps it.
            traceparent: W3C trace context that the frames carry.
            fill: the events answer a resend request (`marketdata.ordering`); their frames say so
                and hold nothing else.
            timeout_s: how long to block for room instead of `publish_timeout_s`.

        Raises:
            InvalidEvents: the batch breaks the contract; nothing was taken.
            PublishTimeout: no room in time; nothing was taken: call again.
            PublishError: nothing can be published any more.
        """
        kind, events = conform_events(batch, ts_publish_ns=time.time_ns() if self._stamp else None)
        self._wait_for_room(self._publish_timeout_s if timeout_s is None else timeout_s)
        self._started = True
        for partition, piece in split_by_partition(events, len(self._lanes)):
            lane = self._lanes[partition]
            if lane.add(kind, piece, traceparent, fill=fill) and self._max_delay_s is not None:
                self._inbox.put((lane, time.monotonic() + self._max_delay_s))

    def flush(self, timeout_s: float | None = None) -> None:
        """Send everything taken over before this call and wait until all of it is stored.

        Raises:
            PublishTimeout: not everything is confirmed in time; nothing is given up: call again.
            PublishError: something cannot be stored any more.
        """
        targets = [(lane, lane.flush_buffer()) for lane in self._lanes]

        def stored() -> bool:
            return all(lane.confirmed_sequence_id >= target for lane, target in targets)

        with self._changed:
            done = self._changed.wait_for(lambda: self._failed() or stored(), timeout_s)
            if stored():
                return
        self._raise_failure()
        if not done:
            raise PublishTimeout(
                f"{self._pending_frames} frames are unconfirmed after {timeout_s} s; they are still"
                " being sent: call flush again, or look whether the broker is up"
            )

    def on_confirmed(self, callback: Confirmed) -> None:
        """Have `callback` told of every frame that is stored, before `flush` returns.

        It runs on the publisher's own thread and must not call the publisher.
        """
        self._on_confirmed.append(callback)

    def last_sequence_ids(self) -> dict[int, int]:
        """Per partition, the sequence id up to which every frame is stored; -1 for none."""
        return {lane.partition: lane.confirmed_sequence_id for lane in self._lanes}

    def resume_from(self, sequence_ids: Mapping[int, int]) -> None:
        """Continue a publisher that repeats its calls: exactly once across restarts.

        After `flush`, keep `last_sequence_ids()` beside your own read position. After a restart, go
        back to that position, give the ids here before the first `publish`, and make the same
        calls again (the same batches, the same flushes): frames that the broker has already are
        dropped by it and count as confirmed. Partitions that are not named start at the beginning.

        Raises:
            ValueError: after a `publish`, or with a `max_delay_ms`: frames cut by a clock are
                not the same the next time.
        """
        if self._max_delay_s is not None:
            raise ValueError("resume_from needs max_delay_ms=None: a clock cuts frames differently")
        if self._started:
            raise ValueError("resume_from comes before the first publish")
        for lane in self._lanes:
            lane.resume_from(sequence_ids.get(lane.partition, -1))

    def statistics(self) -> PublisherStatistics:
        """What has been done so far."""
        with self._changed:
            latencies = np.array(self._latencies_ms)
            p50, p99 = np.percentile(latencies, (50, 99)) if len(latencies) else (None, None)
            return PublisherStatistics(
                events=self._events,
                frames=self._frames,
                frame_bytes=self._bytes,
                already_stored_frames=self._already_stored,
                resent_frames=sum(lane.resent_frames for lane in self._lanes),
                pending_frames=self._pending_frames,
                pending_bytes=self._pending_bytes,
                buffered_events=sum(lane.buffered_events for lane in self._lanes),
                confirm_latency_p50_ms=None if p50 is None else float(p50),
                confirm_latency_p99_ms=None if p99 is None else float(p99),
                confirm_latency_max_ms=float(latencies.max()) if len(latencies) else None,
            )

    def close(self, timeout_s: float | None = 60.0) -> None:
        """Flush, then release everything; a second call does nothing.

        Raises:
            PublishTimeout, PublishError: as `flush`; everything is released all the same.
        """
        with self._closing:
            if self._closed:
                return
            try:
                self.flush(timeout_s)
            finally:
                self._closed = True
                with self._changed:
                    self._changed.notify_all()
                self._inbox.put(_STOP)
                self._worker.join()
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close(timeout_s=5.0)
        except PublishError as second:
            # The caller's own error is the one to see.
            error.add_note(f"and closing the publisher failed: {second}")

    def _pace(self, partitions: int) -> Pace | None:
        if self._max_delay_s is None:
            return None
        burst = max(_FREE_AT_ONCE, partitions)
        return Pace(_FREE_FRAMES_A_SECOND, burst=burst, longest_s=self._max_delay_s)

    def _opener(self, number: int, topic: str, deadline: float) -> Callable[[], pulsar.Producer]:
        def create_producer() -> pulsar.Producer:
            return self._client.create_producer(
                topic,
                producer_name=f"{self._name}-{number}",
                # Retry for ever: giving up would leave a hole that a later frame passes.
                send_timeout_millis=0,
                # Unlimited here: `publish` bounds what is pending, and a client that refuses one
                # frame and takes the next would break the order.
                max_pending_messages=0,
                batching_enabled=False,
                # Transparent to every reader; the broker moves a third of the bytes.
                compression_type=pulsar.CompressionType.LZ4,
            )

        def open_producer() -> pulsar.Producer:
            while True:
                try:
                    return opened(create_producer, deadline)
                except pulsar.ProducerBusy as error:
                    if self._started:
                        raise
                    if time.monotonic() > deadline:
                        raise NameTaken(
                            f"a publisher named {self._name!r} is connected to {topic}; stop it or"
                            " choose another name"
                        ) from error
                    time.sleep(0.2)

        return open_producer

    def _wait_for_room(self, timeout_s: float | None) -> None:
        with self._changed:
            roomy = self._changed.wait_for(
                lambda: (
                    self._closed
                    or self._failed()
                    or (
                        self._pending_frames < self._max_pending_frames
                        and self._pending_bytes < self._max_pending_bytes
                    )
                ),
                timeout_s,
            )
        self._raise_failure()
        if self._closed:
            raise PublishError("this publisher is closed; open a new one")
        if not roomy:
            raise PublishTimeout(
                f"no room after {timeout_s} s: {self._pending_frames} frames"
                f" ({self._pending_bytes} bytes) are unconfirmed. Nothing of this batch was taken:"
                " call again, or look whether the broker is up"
            )

    def _failed(self) -> bool:
        return any(lane.failure for lane in self._lanes)

    def _raise_failure(self) -> None:
        for lane in self._lanes:
            if lane.failure:
                raise PublishError(str(lane.failure))

    def _count_pending(self, frames: int, frame_bytes: int) -> None:
        with self._changed:
            self._pending_frames += frames
            self._pending_bytes += frame_bytes

    def _work(self) -> None:
        """Take the client's answers and flush what has waited long enough."""
        due: dict[Lane, float] = {}
        heal_at = 0.0
        while True:
            wait_s = max(0.0, min([heal_at, *due.values()]) - time.monotonic())
            try:
                item = self._inbox.get(timeout=wait_s)
            except Empty:
                item = None
            if item is _STOP:
                return
            if isinstance(item, Answer):
                self._settle(item)
            elif item is not None:
                lane, deadline = item
                due[lane] = deadline
            now = time.monotonic()
            for lane in [lane for lane, deadline in due.items() if deadline <= now]:
                del due[lane]
                lane.flush_buffer()
            if now >= heal_at:
                heal_at = now + _HEAL_INTERVAL_S
                for lane in self._lanes:
                    lane.heal()
            if self._failed():
                with self._changed:
                    self._changed.notify_all()

    def _settle(self, answer: Answer) -> None:
        stored = answer.lane.settle(answer)
        if not stored:
            return
        for frame in stored:
            self._report(answer, frame)
        now_ns = time.monotonic_ns()
        with self._changed:
            self._pending_frames -= len(stored)
            for frame in stored:
                self._pending_bytes -= len(frame.payload)
                self._bytes += len(frame.payload)
                self._events += frame.batch.num_rows
                self._latencies_ms.append((now_ns - frame.sent_at_ns) / 1e6)
            self._frames += len(stored)
        # Counted before it counts as stored: who has waited for that finds it in the statistics.
        answer.lane.confirm(stored[-1].sequence_id)
        answer.lane.send_if_free()
        with self._changed:
            self._changed.notify_all()

    def _report(self, answer: Answer, frame: PendingFrame) -> None:
        message_id = answer.message_id if frame.sequence_id == answer.sequence_id else None
        if message_id is not None and message_id.ledger_id() < 0:
            message_id = None
        if message_id is None:
            self._already_stored += 1
        for callback in self._on_confirmed:
            try:
                callback(answer.lane.partition, frame.sequence_id, message_id, frame.batch)
            except Exception:  # noqa: BLE001  (the frame is stored; an observer's fault is its own)
                logger.exception("an on_confirmed callback of publisher %r failed", self._name)

    def _release(self) -> None:
        for lane in self._lanes:
            lane.close()
        if self._owns_client:
            self._client.close()
