"""The publisher and the consumer for asyncio: the same promises, awaitable.

Each client runs its blocking twin on a thread of its own, so every check and every recovery is the
one of `marketdata.publisher` and `marketdata.consumer`, and calls keep their order. A thread hop
costs some 50 µs a frame, not an event. Cancelling an await is safe: a frame that arrived meanwhile
is given to the next `receive`; a batch whose `publish` was cancelled may have been taken over.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar

import pulsar
import pyarrow as pa

from marketdata.consumer import BadFrame, Consumer, ConsumerStatistics, Frame
from marketdata.errors import PublishError
from marketdata.publisher import Publisher, PublisherStatistics

_P = ParamSpec("_P")
_T = TypeVar("_T")

# A receive that nobody awaits any more must end soon, so that other calls get their turn.
_RECEIVE_SLICE_S = 0.2


class _Thread:
    """One thread that runs calls in their order."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    def submit(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> "Future[_T]":
        return self._executor.submit(call, *args, **kwargs)

    async def run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        # Shielded: a cancelled await must not drop a call that stands in the queue.
        future = asyncio.wrap_future(self.submit(call, *args, **kwargs))
        return await asyncio.shield(future)

    def stop(self) -> None:
        self._executor.shutdown(wait=False)


class AsyncPublisher:
    """`marketdata.publisher.Publisher` for asyncio.

        async with await AsyncPublisher.open(url, name="feed") as publisher:
            await publisher.publish(batch)

    `on_confirmed` callbacks run on the publisher's thread; use `loop.call_soon_threadsafe` there.
    """

    def __init__(self, publisher: Publisher, thread: _Thread) -> None:
        self._publisher = publisher
        self._thread = thread

    @classmethod
    async def open(cls, service: str | pulsar.Client, **options: Any) -> Self:
        """Open one; arguments and errors are those of `Publisher`."""
        thread = _Thread("async-publisher")
        try:
            return cls(await thread.run(Publisher, service, **options), thread)
        except BaseException:
            thread.stop()
            raise

    async def publish(
        self,
        batch: pa.RecordBatch,
        *,
        traceparent: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """As `Publisher.publish`: waits for room without blocking the event loop."""
        await self._thread.run(
            self._publisher.publish, batch, traceparent=traceparent, timeout_s=timeout_s
        )

    async def flush(self, timeout_s: float | None = None) -> None:
        """As `Publisher.flush`: returns when everything published so far is stored."""
        await self._thread.run(self._publisher.flush, timeout_s)

    def on_confirmed(
        self, callback: Callable[[int, int, pulsar.MessageId | None, pa.RecordBatch], None]
    ) -> None:
        """As `Publisher.on_confirmed`."""
        self._publisher.on_confirmed(callback)

    def last_sequence_ids(self) -> dict[int, int]:
        """As `Publisher.last_sequence_ids`."""
        return self._publisher.last_sequence_ids()

    def resume_from(self, sequence_ids: dict[int, int]) -> None:
        """As `Publisher.resume_from`."""
        self._publisher.resume_from(sequence_ids)

    def statistics(self) -> PublisherStatistics:
        """As `Publisher.statistics`."""
        return self._publisher.statistics()

    async def close(self, timeout_s: float | None = 60.0) -> None:
        """As `Publisher.close`."""
        try:
            await self._thread.run(self._publisher.close, timeout_s)
        finally:
            self._thread.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
            return
        try:
            await self.close(timeout_s=5.0)
        except PublishError as second:
            error.add_note(f"and closing the publisher failed: {second}")


class AsyncConsumer:
    """`marketdata.consumer.Consumer` for asyncio.

        async with await AsyncConsumer.open(url, topic, "my-subscription") as consumer:
            async for frame in consumer.frames():
                ...

    Checks, control frames and filling of gaps are those of `Consumer`; `on_gap` and `on_silence`
    callbacks run on the consumer's thread. Cancelling a `receive` does not stop a filling.
    """

    def __init__(self, consumer: Consumer, thread: _Thread) -> None:
        self._consumer = consumer
        self._thread = thread
        self._receiving: asyncio.Future[Frame | None] | None = None

    @classmethod
    async def open(
        cls, service: str | pulsar.Client, topic: str, subscription: str, **options: Any
    ) -> Self:
        """Open one; arguments and errors are those of `Consumer`."""
        thread = _Thread("async-consumer")
        try:
            return cls(await thread.run(Consumer, service, topic, subscription, **options), thread)
        except BaseException:
            thread.stop()
            raise

    async def receive(self, timeout_s: float | None = None) -> Frame | None:
        """As `Consumer.receive`. One at a time."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        while True:
            slice_s = _RECEIVE_SLICE_S
            if deadline is not None:
                slice_s = min(slice_s, max(0.0, deadline - loop.time()))
            if self._receiving is None:
                self._receiving = asyncio.wrap_future(
                    self._thread.submit(self._consumer.receive, slice_s)
                )
            # Left behind by a cancelled await, the receive is taken up again by the next one.
            receiving = self._receiving
            await asyncio.wait((receiving,))
            self._receiving = None
            if (frame := receiving.result()) is not None:
                return frame
            if deadline is not None and loop.time() >= deadline:
                return None

    async def frames(self, timeout_s: float | None = None) -> AsyncIterator[Frame]:
        """As `Consumer.frames`."""
        while (frame := await self.receive(timeout_s)) is not None:
            yield frame

    async def events(self, timeout_s: float | None = None) -> AsyncIterator[dict[str, Any]]:
        """As `Consumer.events`."""
        async for frame in self.frames(timeout_s):
            for event in frame.events():
                yield event

    async def ack(self, frame: Frame | BadFrame) -> None:
        """As `Consumer.ack`."""
        await self._thread.run(self._consumer.ack, frame)

    async def ack_cumulative(self, frame: Frame) -> None:
        """As `Consumer.ack_cumulative`."""
        await self._thread.run(self._consumer.ack_cumulative, frame)

    async def nack(self, frame: Frame) -> None:
        """As `Consumer.nack`."""
        await self._thread.run(self._consumer.nack, frame)

    async def seek(self, position: Literal["earliest", "latest"] | datetime | Any) -> None:
        """As `Consumer.seek`; a frame that a cancelled `receive` left behind is forgotten."""
        if self._receiving is not None:
            await asyncio.wait((self._receiving,))
            self._receiving = None
        await self._thread.run(self._consumer.seek, position)

    def statistics(self) -> ConsumerStatistics:
        """As `Consumer.statistics`."""
        return self._consumer.statistics()

    async def close(self) -> None:
        """As `Consumer.close`."""
        try:
            await self._thread.run(self._consumer.close)
        finally:
            self._thread.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
