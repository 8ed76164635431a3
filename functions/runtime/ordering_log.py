"""What the sequencer finds goes to `control/ordering`, exactly once; requests to `control/resend`.

The findings of a frame stand in the frame itself (a property), so publishing them is copying, once
the frame is stored: under its position as sequence id, in log order. After a crash those frames are
read again whose findings are not known to be stored, and the broker drops what it has. Requests are
sent at least once, and again for what is still missing after a recovery.
"""

import threading
from collections import deque
from typing import Any

import pulsar

from functions.runtime.function import FrameFunction
from functions.runtime.outputs import Output
from marketdata.ordering import (
    OrderingEvent,
    ResendRequest,
    encode_ordering_events,
    encode_resend_request,
)


class OrderingLog:
    """The findings of one partition.

    Args:
        function: whose connection and reporter are used.
        topic: the partition of `control/ordering`.
        resend_topic: `control/resend`.
        partition: its number.
    """

    def __init__(
        self, function: FrameFunction, topic: str, resend_topic: str, partition: int
    ) -> None:
        self.output = Output(topic, "sequencer")
        self._function = function
        self._resend_topic = resend_topic
        self._partition = partition
        self._waiting: deque[tuple[int, list[OrderingEvent], list[ResendRequest]]] = deque()
        self._unconfirmed: deque[int] = deque()
        self._requests = _Requests(function, resend_topic)

    @property
    def is_awaited(self) -> bool:
        """Whether findings are on their way."""
        return bool(self._unconfirmed)

    def restart(self) -> None:
        """Forget what was under way: recovery tells it again from the log."""
        self.output.close()
        self._waiting.clear()
        self._unconfirmed.clear()
        self._requests.restart()

    def tell(
        self, position: int, events: list[OrderingEvent], requests: list[ResendRequest]
    ) -> None:
        """Have what a frame shows published when the frame is stored, and not before."""
        self._waiting.append((position, events, requests))

    def stored(self, position: int) -> None:
        """The log is stored up to a position: publish what follows from it and is not published.

        When the broker is away the rest stays for the next call. When it may have lost what was on
        its way, the rest stays for the recovery: nothing must be stored behind what is not.
        """
        if self.output.broken and self._unconfirmed:
            return
        try:
            while self._waiting and self._waiting[0][0] <= position:
                self._publish(*self._waiting[0])
                self._waiting.popleft()
        except pulsar.PulsarException as error:
            self._function.reporter.error(f"{self.output.topic}: {type(error).__name__}: {error}")

    def confirmed(self, position: int) -> None:
        """The findings up to a position are stored."""
        while self._unconfirmed and self._unconfirmed[0] <= position:
            self._unconfirmed.popleft()

    def settled(self, position: int) -> bool:
        """Whether everything that was said of the log up to a position is stored."""
        first = [*self._unconfirmed, *(place for place, _, _ in self._waiting)][:1]
        return self._requests.settled and not (first and first[0] <= position)

    def _publish(
        self, position: int, events: list[OrderingEvent], requests: list[ResendRequest]
    ) -> None:
        if self.output.broken:
            self.output.open(self._function.client)
        if position > self.output.position:
            properties = {"count": str(len(events)), "position": str(position)}
            data = encode_ordering_events(events)
            self._function.send(
                self.output, self._partition, (), data, properties, position=position
            )
            self._unconfirmed.append(position)
        for request in requests:
            self._requests.send(request)


class _Requests:
    """Sends resend requests; several instances share the topic."""

    def __init__(self, function: FrameFunction, topic: str) -> None:
        self._function = function
        self._topic = topic
        self._producer: pulsar.Producer | None = None
        self._lock = threading.Lock()
        self._under_way = 0

    @property
    def settled(self) -> bool:
        """Whether every request sent is stored."""
        with self._lock:
            return not self._under_way

    def restart(self) -> None:
        """Begin anew; answers of the past are void."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()
        with self._lock:
            self._under_way = 0

    def send(self, request: ResendRequest) -> None:
        """Send one; the answer comes on a client thread."""
        if self._producer is None:
            self._producer = self._function.client.create_producer(
                self._topic, send_timeout_millis=0, block_if_queue_full=True
            )
        producer = self._producer

        def answered(result: Any, _: Any) -> None:
            with self._lock:
                if producer is self._producer and result == pulsar.Result.Ok:
                    self._under_way -= 1
            if result != pulsar.Result.Ok:
                # Until a recovery sends it again no snapshot covers it.
                self._function.reporter.error(f"resend request for {request.gap_id}: {result}")

        with self._lock:
            self._under_way += 1
        producer.send_async(
            encode_resend_request(request),
            answered,
            partition_key=f"{request.source}/{request.instrument}",
        )
