"""The broker's binary protocol as the control plane uses it: write, read and follow topics.

One client for the process, made in the application's lifespan. Its calls block, so they run in
threads; each is bounded by `timeout_seconds`, and every failure is a BrokerUnavailableError after
which the same call may be repeated.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pulsar
import structlog

from control_plane.errors import BrokerUnavailableError
from marketdata.connection import NO_ACCESS, Access

T = TypeVar("T")

READ_POLL_MS = 500
REOPEN_PAUSE_SECONDS = 1.0
READ_ALL_SECONDS = 60.0
"""So long a topic may take that is read as a whole."""

log = structlog.get_logger(__name__)


class Broker:
    """A Pulsar client and its producers."""

    def __init__(
        self, service_url: str, *, timeout_seconds: float, access: Access = NO_ACCESS
    ) -> None:
        self._service_url = service_url
        self._access = access
        self.timeout_seconds = timeout_seconds
        self._client: pulsar.Client | None = None
        self._producers: dict[str, pulsar.Producer] = {}
        self._producer_lock = threading.Lock()
        self._keys: dict[str, tuple[pulsar.MessageId, frozenset[str]]] = {}

    async def open(self) -> None:
        """Make the client; does not need the broker to be up."""
        self._client = pulsar.Client(
            self._service_url,
            operation_timeout_seconds=max(1, round(self.timeout_seconds)),
            connection_timeout_ms=int(min(self.timeout_seconds, 3.0) * 1000),
            logger=logging.getLogger("pulsar.client"),
            **self._access.client_arguments(),
        )

    async def close(self) -> None:
        """Close the client with all that it opened; never raises."""
        client, self._client = self._client, None
        self._producers.clear()
        if client is not None:
            try:
                await asyncio.wait_for(asyncio.to_thread(client.close), self.timeout_seconds)
            except Exception as error:  # noqa: BLE001  (stopping goes on)
                log.warning("broker client did not close cleanly", error=repr(error))

    @property
    def client(self) -> pulsar.Client:
        """The open client."""
        if self._client is None:
            raise BrokerUnavailableError("The broker client is closed: the process is stopping.")
        return self._client

    async def check(self, topic: str) -> None:
        """BrokerUnavailableError unless the broker answers a lookup of a topic."""
        await self.call(lambda: self.client.get_topic_partitions(topic))

    async def publish(self, topic: str, payload: bytes, *, key: str) -> None:
        """Store a message as the newest of its key; returns when the broker has it on disk."""

        def send() -> None:
            producer = self._producer(topic)
            try:
                producer.send(payload, partition_key=key)
            except Exception:
                self._drop_producer(topic)
                raise

        await self.call(send)

    async def publish_once(
        self, topic: str, payload: bytes, *, properties: dict[str, str], name: str
    ) -> str | None:
        """Store a message of which `name` is the identity; returns when it is on disk.

        The topic's deduplication drops it when it is there already, for as long as the broker
        remembers a producer that is gone.

        Returns:
            Its ledger:entry; None when it was there already.
        """

        def send() -> str | None:
            producer = self.client.create_producer(
                topic,
                producer_name=name,
                batching_enabled=False,
                compression_type=pulsar.CompressionType.LZ4,
                send_timeout_millis=int(self.timeout_seconds * 1000),
            )
            try:
                # Not 0: the client takes that for none given, and counts on from the last one.
                place = producer.send(payload, properties=properties, sequence_id=1)
            finally:
                producer.close()
            return None if place.ledger_id() < 0 else f"{place.ledger_id()}:{place.entry_id()}"

        return await self.call(send)

    async def newest_message(self, topic: str) -> bytes | None:
        """The last message of a topic; None when there is none."""

        def read() -> bytes | None:
            timeout_ms = int(self.timeout_seconds * 1000)
            message = newest_message(self.client, topic, timeout_ms=timeout_ms, compacted=True)
            return None if message is None else bytes(message.data())

        return await self.call(read)

    async def keys(self, topic: str) -> frozenset[str]:
        """The keys of a compacted topic of which the newest message is not empty.

        The topic is read again only when its last message is another one than at the last call.
        """

        def read() -> frozenset[str]:
            timeout_ms = int(self.timeout_seconds * 1000)
            last = newest_message(self.client, topic, timeout_ms=timeout_ms, compacted=True)
            if last is None:
                return frozenset()
            end, found = self._keys.get(topic, (None, frozenset()))
            if end is None or end != last.message_id():
                found = _keys(self.client, topic, timeout_ms=timeout_ms)
                self._keys[topic] = last.message_id(), found
            return found

        return await self.call(read, seconds=READ_ALL_SECONDS)

    def _producer(self, topic: str) -> pulsar.Producer:
        with self._producer_lock:
            if topic not in self._producers:
                self._producers[topic] = self.client.create_producer(
                    topic,
                    batching_enabled=False,
                    compression_type=pulsar.CompressionType.ZSTD,
                    send_timeout_millis=int(self.timeout_seconds * 1000),
                )
            return self._producers[topic]

    def _drop_producer(self, topic: str) -> None:
        with self._producer_lock:
            producer = self._producers.pop(topic, None)
        if producer is not None:
            try:
                producer.close()
            except pulsar.exceptions.PulsarException as error:
                log.debug("producer did not close cleanly", topic=topic, error=repr(error))

    async def call(self, blocking: Callable[[], T], *, seconds: float | None = None) -> T:
        """What a call of the client gives that blocks; BrokerUnavailableError when it fails."""
        try:
            # A little longer than the client's own bound, so that its error is the one seen.
            async with asyncio.timeout((seconds or self.timeout_seconds) + 1):
                return await asyncio.to_thread(blocking)
        except (TimeoutError, pulsar.exceptions.PulsarException) as error:
            raise BrokerUnavailableError(
                f"The broker does not answer ({type(error).__name__})."
            ) from error


def newest_message(
    client: pulsar.Client, topic: str, *, timeout_ms: int, compacted: bool = False
) -> pulsar.Message | None:
    """The last message of a topic partition; None when there is none. Blocks.

    Args:
        compacted: look at the newest of each key; messages without one do not exist then.

    Raises:
        pulsar.PulsarException: the broker is away.
    """
    reader = client.create_reader(
        topic,
        pulsar.MessageId.latest,
        receiver_queue_size=1,
        is_read_compacted=compacted,
        start_message_id_inclusive=True,
    )
    try:
        # The call is what makes an inclusive `latest` work: it seeks to the last message.
        if not reader.has_message_available():
            return None
        return reader.read_next(timeout_millis=timeout_ms)
    finally:
        reader.close()


def _keys(client: pulsar.Client, topic: str, *, timeout_ms: int) -> frozenset[str]:
    """The keys of a compacted topic whose newest message is not empty, read to its end. Blocks."""
    found: set[str] = set()
    reader = client.create_reader(
        topic, pulsar.MessageId.earliest, receiver_queue_size=2, is_read_compacted=True
    )
    try:
        while reader.has_message_available():
            message = reader.read_next(timeout_millis=timeout_ms)
            key = message.partition_key()
            (found.add if message.data() else found.discard)(key)
    finally:
        reader.close()
    return frozenset(found)


class Follower:
    """Reads a compacted topic from its start for ever, in a thread, and hands over each message.

    `on_message` runs in that thread, once a message and in the topic's order; after the connection
    was lost for good the topic is read from its start again.
    """

    def __init__(
        self, broker: Broker, topic: str, on_message: Callable[[pulsar.Message], None]
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._on_message = on_message
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to follow; the broker may still be down."""
        self._thread = threading.Thread(target=self._run, name=f"follow {self._topic}", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Stop following; returns when the thread has ended or is known to hang in the client."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 2 * READ_POLL_MS / 1000)

    def _run(self) -> None:
        while not self._stop.is_set():
            reader: Any = None
            try:
                reader = self._broker.client.create_reader(
                    self._topic, pulsar.MessageId.earliest, is_read_compacted=True
                )
                self._read(reader)
            except (pulsar.exceptions.PulsarException, BrokerUnavailableError) as error:
                log.debug("cannot follow", topic=self._topic, error=type(error).__name__)
                self._stop.wait(REOPEN_PAUSE_SECONDS)
            finally:
                if reader is not None:
                    try:
                        reader.close()
                    except pulsar.exceptions.PulsarException as error:
                        log.debug("reader did not close", topic=self._topic, error=repr(error))

    def _read(self, reader: pulsar.Reader) -> None:
        while not self._stop.is_set():
            try:
                message = reader.read_next(timeout_millis=READ_POLL_MS)
            except pulsar.exceptions.Timeout:
                continue
            try:
                self._on_message(message)
            except Exception as error:  # noqa: BLE001  (one bad message stops nothing)
                log.warning("message not understood", topic=self._topic, error=repr(error))
