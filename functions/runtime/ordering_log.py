"""What the sequencer finds goes to `control/ordering`, exactly once; requests to `control/resend`.

The findings of a frame stand in the frame itself (a property), so publishing them is copying: under
the frame's position as sequence id, in log order. After a crash those frames are read again whose
findings are not known to be stored, and the broker drops what it has. Requests are sent at least
once, and again for what is still missing after a recovery.
"""

import threading
from collections import deque
from collections.abc import Iterable
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
        self._unconfirmed: deque[int] = deque()
        self._requests = _Requests(function, resend_topic)

    @property
    def lost(self) -> bool:
        """Whether findings that were sent may not be stored."""
        return self.output.broken and bool(self._unconfirmed)

    def restart(self) -> None:
        """Forget what was under way: recovery publishes it from the log."""
        self.output.close()
        self._unconfirmed.clear()
        self._requests.restart()

    def publish(self, position: int, events: list[OrderingEvent]) -> None:
        """Publish the findings of the frame of a position, unless they are stored.

        Raises:
            pulsar.PulsarException: the broker is away; recovery does it again.
        """
        if self.output.broken:
            self.output.open(self._function.client)
        if position <= self.output.position:
            return
        properties = {"count": str(len(events)), "position": str(position)}
        data = encode_ordering_events(events)
        self._unconfirmed.append(position)
        self._function.send(self.output, self._partition, (), data, properties, position=position)

    def request(self, requests: Iterable[ResendRequest]) -> None:
        """Ask upstream for what is missing.

        Raises:
            pulsar.PulsarException: the broker is away; recovery does it again.
        """
        for request in requests:
            self._requests.send(request)

    def confirmed(self, position: int) -> None:
        """The findings up to a position are stored."""
        while self._unconfirmed and self._unconfirmed[0] <= position:
            self._unconfirmed.popleft()

    def settled(self, position: int) -> bool:
        """Whether everything that was said of the log up to a position is stored."""
        return self._requests.settled and not (
            self._unconfirmed and self._unconfirmed[0] <= position
        )


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
