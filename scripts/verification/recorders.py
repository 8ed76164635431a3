"""Consumers that record: plain Pulsar clients, as anybody may write them, that fill a `History`.

They use nothing of ours but the names of topics: a `pulsar.Client`, pyarrow, and the message's
properties. What a client receives a second time under the same message id, as happens after a
reconnect, the history tells apart from what the service sent twice.
"""

import contextlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Final, Self

import pulsar
import pyarrow as pa
from pulsar.schema import AvroSchema, BytesSchema

from marketdata.connection import UNRESOLVED_S, Access, opened
from marketdata.topics import SEQUENCED_EVENTS, partition_index
from scripts.verification.closing import CLOSE_S, close
from scripts.verification.decoding import decode_arrow, decode_avro, decode_json
from scripts.verification.recording import History

_POLL_MS: Final = 100
_CONTROL_KINDS: Final = frozenset({"heartbeat", "epoch"})


def open_client(service_url: str, *, log: Path | None = None) -> pulsar.Client:
    """A Pulsar client that keeps its reconnects to itself, or to a log file."""
    level = pulsar.LoggerLevel.Error
    return pulsar.Client(
        service_url,
        operation_timeout_seconds=30,
        io_threads=1,
        logger=pulsar.FileLogger(level, str(log)) if log else pulsar.ConsoleLogger(level),
        **Access.from_environment().client_arguments(),
    )


class _Recorder:
    """Threads that receive until they are stopped; a failure of one is raised by `stop`."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._reading = Event()
        self._reading.set()
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

    def record_to(self, history: History) -> None:
        """Go on in another history; nothing may be on its way at that moment."""
        self._history = history

    def pause(self) -> None:
        """Receive nothing more until `go_on`, as a consumer that cannot keep up."""
        self._reading.clear()

    def go_on(self) -> None:
        """Receive again."""
        self._reading.set()

    def stop(self) -> None:
        """Stop receiving.

        Raises:
            TimeoutError: a thread does not come back from the client.
            Exception: what ended a thread early, such as bytes that could not be decoded.
        """
        self._stopping.set()
        for thread in self._threads:
            thread.join(CLOSE_S)
            if thread.is_alive() and self._failure is None:
                self._failure = TimeoutError(f"{thread.name} has not come back from the client")
        self._close()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _start(self, name: str, *arguments: Any) -> None:
        def run() -> None:
            try:
                while not self._stopping.is_set():
                    if self._reading.wait(_POLL_MS / 1000):
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
    """Reads partitions of `sequenced/events`, with a reader each.

    Args:
        client: a plain client.
        history: where what arrives is recorded.
        topics: partitions that came to be meanwhile, read from their beginning; None for all
            that there are, from now on.
    """

    def __init__(
        self, client: pulsar.Client, history: History, *, topics: list[str] | None = None
    ) -> None:
        super().__init__(history)
        start = pulsar.MessageId.earliest if topics else pulsar.MessageId.latest
        deadline = time.monotonic() + UNRESOLVED_S
        self._readers = [
            opened(partial(client.create_reader, topic, start), deadline)
            for topic in topics or client.get_topic_partitions(SEQUENCED_EVENTS)
        ]
        for reader in self._readers:
            if topics is None:
                # Fixes the place: the reader asks the broker for the end of the topic now.
                reader.has_message_available()
            self._start("record-sequenced", reader, partition_index(reader.topic()))

    def _receive(self, reader: pulsar.Reader, partition: int) -> None:
        try:
            message = reader.read_next(_POLL_MS)
        except pulsar.Timeout:
            return
        batch = decode_arrow(message.data())
        properties = message.properties()
        if properties["kind"] in _CONTROL_KINDS:
            self._history.log_control(partition, batch, properties, message_id=_key(message))
        else:
            self._history.sequenced(partition, batch, message_id=_key(message))

    def _close(self) -> None:
        for reader in self._readers:
            close(reader)


class ViewRecorder(_Recorder):
    """Reads one subscription as its owner would.

    Args:
        client: a plain client.
        history: where what arrives is recorded, under `view`.
        view: name of its expectation.
        topic: of the view, as the API says.
        subscription: Pulsar's subscription name, as the API says.
        on_batch: called with (partition, batch) of everything received.
        definition: of the topic's Avro schema, as the API says, for views of Avro events.
    """

    def __init__(
        self,
        client: pulsar.Client,
        history: History,
        view: str,
        topic: str,
        subscription: str,
        *,
        on_batch: Callable[[int, pa.RecordBatch], None] | None = None,
        definition: str | None = None,
    ) -> None:
        super().__init__(history)
        self.on_batch = on_batch
        self._expectation = history.views[view]
        self._consumer = opened(
            lambda: client.subscribe(
                topic,
                subscription,
                consumer_type=pulsar.ConsumerType.Failover,
                receiver_queue_size=1000,
                schema=AvroSchema(None, json.loads(definition)) if definition else BytesSchema(),
            ),
            time.monotonic() + UNRESOLVED_S,
        )
        self._start(f"record-{view}")

    def _receive(self) -> None:
        try:
            message = self._consumer.receive(_POLL_MS)
        except pulsar.Timeout:
            return
        self._record(message, received_ns=time.time_ns())
        with contextlib.suppress(pulsar.PulsarException):
            # What could not be acknowledged comes again, under the same id.
            self._consumer.acknowledge(message)

    def _record(self, message: pulsar.Message, *, received_ns: int) -> None:
        view, properties = self._expectation, message.properties()
        partition = partition_index(message.topic_name())
        if properties["kind"] in _CONTROL_KINDS:
            self._history.view_control(view.name, partition, properties, message_id=_key(message))
            return
        if view.format == "avro":
            batch = decode_avro(message.value())
        elif view.format == "json":
            line_end = b"\n" if view.by_event else b""
            batch = decode_json(message.data() + line_end, view.rename)
        else:
            batch = decode_arrow(message.data(), view.rename)
        if self.on_batch is not None:
            self.on_batch(partition, batch)
        self._history.delivered(
            view.name,
            partition,
            batch,
            properties,
            message_id=_key(message),
            received_ns=received_ns,
        )

    def _close(self) -> None:
        close(self._consumer)


def _key(message: pulsar.Message) -> tuple[int, int, int]:
    place = message.message_id()
    return place.ledger_id(), place.entry_id(), place.batch_index()
