"""One partition of a publisher: its buffer, its producer, and the frames not yet confirmed.

Promises: frames of the partition reach the broker in the order they were cut, each under its own
rising sequence id, and a frame that is sent again is sent under the same id, so that the broker's
deduplication stores it once. Connection losses are healed by the Pulsar client; what the client
gives up on is either sent again over a new producer or ends the lane with a `PublishError`.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

import pulsar
import pyarrow as pa
from pulsar import Result

from marketdata.batching import Cut, PartitionBuffer
from marketdata.errors import PublishError
from marketdata.frames import (
    MAX_FRAME_BYTES,
    compact_dictionaries,
    encode_frame,
    frame_properties,
)
from marketdata.mixed import MIXED, occurring
from marketdata.ordering import FILL_PROPERTY
from marketdata.pace import Pace

RETRIABLE: Final = frozenset(
    {
        # The client fails every unconfirmed frame at once with these, so sending all of them again
        # cannot overtake one that is still on its way.
        Result.AlreadyClosed,
        Result.BrokerMetadataError,
        Result.BrokerPersistenceError,
        Result.ConnectError,
        Result.LookupError,
        Result.NotConnected,
        Result.ProducerBlockedQuotaExceededError,
        Result.ProducerBlockedQuotaExceededException,
        Result.ProducerBusy,
        Result.ReadError,
        Result.ServiceUnitNotReady,
        Result.Timeout,
        Result.TooManyLookupRequestException,
        Result.UnknownError,
    }
)
"""What a new producer can heal. Everything else ends the lane."""

UNCONNECTED_S: Final = 20.0
"""How long frames wait for the client to connect a producer again before it is replaced."""

_ADVICE: Final = {
    Result.AlreadyClosed: "the Pulsar client was closed; close it after its publishers",
    Result.AuthorizationError: "the role may not produce here; grant it, then start again",
    Result.AuthenticationError: "the credentials are refused; renew them, then start again",
    Result.MessageTooBig: "the frame is larger than the broker takes; lower max_bytes",
    Result.MemoryBufferIsFull: "raise the Pulsar client's memory limit or lower max_pending_bytes",
    Result.ProducerFenced: "another producer took the topic exclusively; find and stop it",
    Result.TopicNotFound: "the topic is gone; apply the topology, then start again",
    Result.TopicTerminated: "the topic was terminated; publish to its successor",
}

FREE_BELOW_FRAMES: Final = 1
"""A paced lane sends at once while fewer frames are unconfirmed; otherwise events gather.

Frames thereby are as small as the latency wants when little happens, and as large as the load
makes them: the longer the broker needs for a frame, the more go into the next.
"""


class _FirstId(int):
    """Sequence id 0 that the Python client sends: a plain 0 is none to it, which it numbers."""

    def __bool__(self) -> bool:
        return True


_FIRST_ID: Final = _FirstId()
_BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)


class Answer(NamedTuple):
    """What became of a frame, as the client's callback says it."""

    lane: "Lane"
    generation: int
    sequence_id: int
    result: Any
    message_id: pulsar.MessageId | None


@dataclass(slots=True)
class PendingFrame:
    """A frame that the broker has not confirmed yet."""

    sequence_id: int
    payload: bytes
    properties: dict[str, str]
    batch: pa.RecordBatch
    sent_at_ns: int


class Lane:
    """The way of one partition's events to its topic. Thread safe.

    Args:
        partition: the partition's number.
        buffer: cuts the frames.
        open_producer: opens the partition's producer; called again after a failure.
        answers: where the client's answers go. Its reader hands them back to `settle`; the client's
            own threads therefore never run our code or take our locks.
        on_pending: told (frames, bytes) whenever frames become pending.
        compression: Arrow's own, None, "lz4" or "zstd".
        pace: of all frames of the publisher: they are cut by what is under way and by how many have
            left. None: only by count, size and `flush_buffer`.
    """

    def __init__(
        self,
        partition: int,
        buffer: PartitionBuffer,
        open_producer: Callable[[], pulsar.Producer],
        answers: "SimpleQueue[Any]",
        on_pending: Callable[[int, int], None],
        compression: str | None,
        *,
        pace: Pace | None,
    ) -> None:
        self.partition = partition
        self.resent_frames = 0
        self._lock = threading.Lock()
        self._buffer = buffer
        self._open_producer = open_producer
        self._answers = answers
        self._on_pending = on_pending
        self._compression = compression
        self._pace = pace
        self._pending: deque[PendingFrame] = deque()
        self._producer = open_producer()
        # What the broker says here may still be on its way to storage and fail there: good for
        # numbers that are new, no proof that anything is stored.
        self._confirmed = int(self._producer.last_sequence_id())
        self._next_sequence_id = self._confirmed + 1
        self._generation = 0
        self._recovering = False
        self._connected_at = time.monotonic()
        self._closed = threading.Event()
        self._failure: PublishError | None = None

    @property
    def failure(self) -> PublishError | None:
        """Why nothing can be sent any more; None while all is well."""
        return self._failure

    @property
    def buffered_events(self) -> int:
        """Events that wait for a frame."""
        return self._buffer.events

    @property
    def confirmed_sequence_id(self) -> int:
        """Sequence id up to which every frame is stored; -1 before the first."""
        return self._confirmed

    def resume_from(self, sequence_id: int) -> None:
        """Number the next frame `sequence_id` + 1; the broker drops frames that it has stored."""
        with self._lock:
            if self._pending or self._buffer.events:
                raise ValueError("resume_from comes before the first publish")
            self._next_sequence_id = sequence_id + 1
            self._confirmed = sequence_id

    def add(
        self, kind: str, batch: pa.RecordBatch, traceparent: str | None, *, fill: bool = False
    ) -> bool:
        """Take events over; True when some wait for a frame that did not wait before."""
        with self._lock:
            waited = self._buffer.events > 0
            cuts = self._buffer.add(kind, batch, traceparent, fill=fill)
            for cut in cuts:
                self._send(cut)
            self._send_if_free()
            return self._buffer.events > 0 and (not waited or bool(cuts))

    def flush_buffer(self) -> int:
        """Send what waits; returns the sequence id of the last frame sent so far."""
        with self._lock:
            for cut in self._buffer.take():
                self._send(cut)
            return self._next_sequence_id - 1

    def send_if_free(self) -> None:
        """Send what waits unless as many frames are under way as may be while others fill."""
        with self._lock:
            self._send_if_free()

    def settle(self, answer: Answer) -> list[PendingFrame]:
        """Take the client's answer; returns the frames that are stored now, in order."""
        with self._lock:
            if answer.generation != self._generation or self._failure:
                return []
            if answer.result == Result.Ok:
                stored = []
                # One answer settles all before it: the broker stores in order.
                while self._pending and self._pending[0].sequence_id <= answer.sequence_id:
                    stored.append(self._pending.popleft())
                return stored
            if answer.result in RETRIABLE and not self._closed.is_set():
                self._begin_recovery()
                return []
            self._fail(answer.result, f"frame {answer.sequence_id} was refused")
            return []

    def heal(self) -> None:
        """Open the producer anew when its connection has been gone for long; called now and then.

        After a broker's restart the client leaves a producer unconnected for ever now and then:
        nothing is answered any more, and nothing fails.
        """
        with self._lock:
            waits = self._pending and not self._recovering and not self._failure
            if not waits or self._closed.is_set() or self._producer.is_connected():
                self._connected_at = time.monotonic()
            elif time.monotonic() - self._connected_at > UNCONNECTED_S:
                self._connected_at = time.monotonic()
                self._begin_recovery()

    def confirm(self, sequence_id: int) -> None:
        """Frames up to this id have been reported as stored."""
        self._confirmed = sequence_id

    def close(self) -> None:
        """Release the producer; frames still pending are given up."""
        self._closed.set()
        with self._lock:
            self._generation += 1
            # Nothing of ours depends on an orderly goodbye: every frame has its answer.
            with suppress(pulsar.PulsarException):
                self._producer.close()

    def _begin_recovery(self) -> None:
        self._generation += 1
        self._recovering = True
        threading.Thread(
            target=self._recover, name=f"publisher-recover-{self.partition}", daemon=True
        ).start()

    def _send_if_free(self) -> None:
        if self._pace is None or len(self._pending) >= FREE_BELOW_FRAMES:
            return
        if self._pace.waits_s(time.monotonic()) == 0.0:
            for cut in self._buffer.take():
                self._send(cut)

    def _send(self, cut: Cut) -> None:
        payload = encode_frame(cut.batch, compression=self._compression).to_pybytes()
        if len(payload) > MAX_FRAME_BYTES:
            half = cut.batch.num_rows // 2
            for piece in (cut.batch.slice(0, half), cut.batch.slice(half)):
                part = compact_dictionaries(piece)
                self._send(replace(cut, batch=occurring(part) if cut.kind == MIXED else part))
            return
        properties = frame_properties(cut.batch, cut.kind)
        if cut.traceparent:
            properties["traceparent"] = cut.traceparent
        if cut.fill:
            properties[FILL_PROPERTY] = "1"
        sequence_id = self._next_sequence_id
        self._next_sequence_id += 1
        frame = PendingFrame(sequence_id, payload, properties, cut.batch, time.monotonic_ns())
        self._pending.append(frame)
        if self._pace is not None:
            now_s = time.monotonic()
            self._pace.sent(now_s, now_s, 1, math.inf)
        self._on_pending(1, len(payload))
        if not self._recovering and not self._failure:
            self._transmit(frame)

    def _transmit(self, frame: PendingFrame) -> None:
        generation, sequence_id = self._generation, frame.sequence_id

        def answered(result: Any, message_id: pulsar.MessageId | None) -> None:
            self._answers.put(Answer(self, generation, sequence_id, result, message_id))

        self._producer.send_async(
            frame.payload,
            answered,
            properties=frame.properties,
            sequence_id=sequence_id or _FIRST_ID,
        )

    def _recover(self) -> None:
        attempt = 0
        while not self._closed.wait(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)]):
            attempt += 1
            # Already closed is what most often brought us here.
            with suppress(pulsar.PulsarException):
                self._producer.close()
            try:
                producer = self._open_producer()
            except pulsar.PulsarException as error:
                result = result_of(error)
                if result in RETRIABLE and result != Result.AlreadyClosed:
                    continue
                with self._lock:
                    self._fail(result, "its producer cannot be opened again")
                self._answers.put(None)
                return
            with self._lock:
                self._producer = producer
                self._recovering = False
                # All of them: the broker alone knows which it has stored (docs/decisions/0062).
                self.resent_frames += len(self._pending)
                for frame in self._pending:
                    self._transmit(frame)
                if self._closed.is_set():
                    producer.close()
            return

    def _fail(self, result: Any, what: str) -> None:
        advice = _ADVICE.get(result, "see the broker's log, then start a new publisher")
        self._failure = PublishError(
            f"partition {self.partition}: {what}: {getattr(result, 'name', result)}; {advice}."
            f" {len(self._pending)} frames are unconfirmed; the last confirmed one has sequence id"
            f" {self._confirmed}"
        )


def result_of(error: BaseException) -> Any:
    """The client's result code behind one of its exceptions (their names are the same)."""
    return getattr(Result, type(error).__name__, Result.UnknownError)
