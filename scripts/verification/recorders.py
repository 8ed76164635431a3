"""Consumers that record: plain Pulsar clients, as anybody may write them, that fill a `History`.

They use nothing of ours but the names of topics: a `pulsar.Client`, pyarrow, and the message's
properties. What a client receives a second time under the same message id, as happens after a
reconnect, the history tells apart from what the service sent twice.
"""

import contextlib
import time
from threading import Event, Thread
from types import TracebackType
from typing import Any, Final, Self

import pulsar

from marketdata.control_frames import is_control
from marketdata.topics import SEQUENCED_EVENTS, partition_index
from scripts.verification.decoding import decode_arrow, decode_json
from scripts.verification.recording import History

_POLL_MS: Final = 100


def open_client(service_url: str) -> pulsar.Client:
    """A Pulsar client that keeps its reconnects to itself."""
    return pulsar.Client(
        service_url,
        operation_timeout_seconds=30,
        io_threads=1,
        logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error),
    )


class _Recorder:
    """Threads that receive until they are stopped; a failure of one is raised by `stop`."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._stopping = Event()
        self._threads: list[Thread] = []
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop receiving.

        Raises:
            Exception: what ended a thread early, such as bytes that could not be decoded.
        """
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._close()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _start(self, name: str, *arguments: Any) -> None:
        def run() -> None:
            try:
                while not self._stopping.is_set():
                    self._receive(*arguments)
            except Exception as error:  # noqa: BLE001 - raised again by stop
                self._history.failure = self._failure = error

        thread = Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _receive(self, *arguments: Any) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError


class LogRecorder(_Recorder):
    """Reads partitions of `sequenced/events` from now on, with a reader each.

    Args:
        client: a plain client.
        history: where what arrives is recorded.
        topics: the partitions; None for all that there are now.
    """

    def __init__(
        self, client: pulsar.Client, history: History, *, topics: list[str] | None = None
    ) -> None:
        super().__init__(history)
        self._readers = [
            client.create_reader(topic, pulsar.MessageId.latest)
            for topic in topics or client.get_topic_partitions(SEQUENCED_EVENTS)
        ]
        for reader in self._readers:
            # Fixes the place: the reader asks the broker for the end of the topic now.
            reader.has_message_available()
            self._start("record-sequenced", reader, partition_index(reader.topic()))

    def _receive(self, reader: pulsar.Reader, partition: int) -> None:
        try:
            message = reader.read_next(_POLL_MS)
        except pulsar.Timeout:
            return
        if is_control(message.properties()):
            return
        batch = decode_arrow(message.data())
        self._history.sequenced(partition, batch, message_id=_key(message))

    def _close(self) -> None:
        for reader in self._readers:
            with contextlib.suppress(pulsar.PulsarException):
                reader.close()


class ViewRecorder(_Recorder):
    """Reads one subscription as its owner would.

    Args:
        client: a plain client.
        history: where what arrives is recorded, under `view`.
        view: name of its expectation.
        topic: of the view, as the API says.
        subscription: Pulsar's subscription name, as the API says.
    """

    def __init__(
        self, client: pulsar.Client, history: History, view: str, topic: str, subscription: str
    ) -> None:
        super().__init__(history)
        self._expectation = history.views[view]
        self._consumer = client.subscribe(
            topic,
            subscription,
            consumer_type=pulsar.ConsumerType.Failover,
            receiver_queue_size=1000,
        )
        self._start(f"record-{view}")

    def _receive(self) -> None:
        try:
            message = self._consumer.receive(_POLL_MS)
        except pulsar.Timeout:
            return
        received_ns = time.time_ns()
        view = self._expectation
        decode = decode_json if view.format == "json" else decode_arrow
        if not is_control(message.properties()):
            self._history.delivered(
                view.name,
                partition_index(message.topic_name()),
                decode(message.data(), view.rename),
                message.properties(),
                message_id=_key(message),
                received_ns=received_ns,
            )
        with contextlib.suppress(pulsar.PulsarException):
            # What could not be acknowledged comes again, under the same id.
            self._consumer.acknowledge(message)

    def _close(self) -> None:
        with contextlib.suppress(pulsar.PulsarException):
            self._consumer.close()


def _key(message: pulsar.Message) -> tuple[int, int, int]:
    place = message.message_id()
    return place.ledger_id(), place.entry_id(), place.batch_index()
