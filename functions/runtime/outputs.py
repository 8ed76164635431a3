"""An output: one topic partition written by one owner at a time, each input at most once.

The producer has a fixed name and exclusive access with fencing: opening it takes the partition
over from whoever had it (but for topics that several write to, each under a name of its own). The
Pulsar sequence id of a message is the position of the (last) input it holds, so the broker drops
repeats and says, after any crash, which inputs are stored.
"""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import _pulsar
import pulsar
import pulsar.schema

from marketdata.errors import DistributionError
from marketdata.formats.pulsar_schemas import PulsarSchema
from marketdata.frames import MAX_MESSAGE_BYTES
from marketdata.positions import NO_POSITION
from marketdata.topics import partition_index

POSITION_PROPERTY: Final = "position"
"""Message property that names the last input an output message holds."""

STORED_TIMEOUT_S: Final = 10.0
"""How long to wait for a message that the broker has accepted to become readable."""

TRIMMED_TIMEOUT_S: Final = 1.0
"""How long an empty topic whose producer is known may take to show a message, before retention is
taken to have removed them all."""

ROLE: Final = "functions"
"""Who the functions are to a broker that asks; `topology/namespaces.yaml` says what they may do."""

READ_TIMEOUT_MS: Final = 5_000

NEVER_REACHED: Final = 2**31 - 1
"""Bounds of an entry: messages, bytes and milliseconds (24 days, for an instance that stood still).

Ended by one of them an entry would hold a part of what has one position, and the rest would be
dropped as a repeat."""

UNCONNECTED_LOOKS: Final = 20
"""So many looks, one a second, an output may be unconnected before it is opened anew."""


class MessageTooLarge(DistributionError):
    """An output message would be larger than the broker takes; nothing was sent."""


class NotYetReadable(Exception):
    """The newest message of an output could not be read in time; opening is tried again."""


class Message(NamedTuple):
    """One of several messages that are stored together."""

    data: bytes
    properties: dict[str, str]
    key: str | None
    event_timestamp_ms: int


class Registered(pulsar.schema.Schema):
    """A schema of the broker's registry, for a producer whose messages are written already."""

    def __init__(self, schema: PulsarSchema) -> None:
        definition = json.loads(schema.definition)
        super().__init__(bytes, getattr(_pulsar.SchemaType, schema.type), definition, schema.type)

    def encode(self, obj: bytes) -> bytes:
        """The bytes as they are."""
        return obj


class Output:
    """One output topic partition.

    Args:
        topic: full name of the partition.
        producer_name: fixed, so that the broker knows what it has stored.
        together: messages may be sent as one entry (`send_together`).
        shared: others write there, too, under names of their own.
        schema: of the topic; where the topic has another one, messages name none.

    Attributes:
        topic: full name of the partition.
        position: of the last input that is stored or sent; inputs at or before it are skipped.
        broken: a send failed or the producer was fenced; nothing is sent until it is reopened.
        generation: rises with every opening; confirmations of older ones are void.
    """

    def __init__(
        self,
        topic: str,
        producer_name: str,
        *,
        together: bool = False,
        shared: bool = False,
        schema: PulsarSchema | None = None,
    ) -> None:
        self.topic = topic
        self._together = together
        mode = pulsar.ProducerAccessMode
        self._access_mode = mode.Shared if shared else mode.ExclusiveWithFencing
        # The broker deals whole entries out by this key; without it, by the first message's own.
        self._ordering = str(partition_index(topic)) if together else None
        self._schema = schema
        self.position = NO_POSITION
        self.broken = True
        self.generation = 0
        self._name = producer_name
        self._producer: pulsar.Producer | None = None
        self._looks_unconnected = 0

    def open(self, client: pulsar.Client) -> None:
        """Take the partition over and learn which inputs it holds.

        Raises:
            pulsar.PulsarException: the broker is away or refuses; try again later.
        """
        self.close()
        try:
            self._producer = self._created(client, self._schema)
        except pulsar.exceptions.IncompatibleSchema:
            # The topic has another one, and the control plane told so. Messages are written
            # already; without a version they reach those who read bytes, and hold nobody up.
            self._producer = self._created(client, None)
        self.position = self._producer.last_sequence_id()
        self._looks_unconnected = 0
        self.broken = False

    def _created(self, client: pulsar.Client, schema: PulsarSchema | None) -> pulsar.Producer:
        return client.create_producer(
            self.topic,
            producer_name=self._name,
            access_mode=self._access_mode,
            # Never give a message up: a later one could be stored and would hide the loss.
            send_timeout_millis=0,
            # An entry is one call's messages, all of them: nothing but that call may end it.
            batching_enabled=self._together,
            batching_max_messages=NEVER_REACHED,
            batching_max_allowed_size_in_bytes=NEVER_REACHED,
            batching_max_publish_delay_ms=NEVER_REACHED,
            schema=Registered(schema) if schema else pulsar.schema.BytesSchema(),
            # Every client reads it without being told; the broker then moves a third of the bytes.
            compression_type=pulsar.CompressionType.LZ4,
            # Inputs bound what is under way. An entry of single events counts as its messages, and
            # a worker that blocks here for one view's broker would hold up all others.
            max_pending_messages=0 if self._together else 10_000,
            block_if_queue_full=True,
        )

    def close(self) -> None:
        """Close the producer; confirmations that are still under way become void."""
        self.generation += 1
        self.broken = True
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(pulsar.PulsarException):  # a fenced one is closed already
                producer.close()

    def is_left_alone(self) -> bool:
        """Whether its connection has been gone for long; asked about once a second.

        After a broker's restart the client leaves a producer unconnected for ever now and then:
        nothing is answered any more, and nothing fails.
        """
        connected = self._producer is None or self._producer.is_connected()
        self._looks_unconnected = 0 if connected else self._looks_unconnected + 1
        return self._looks_unconnected > UNCONNECTED_LOOKS

    def send(
        self,
        data: bytes,
        properties: dict[str, str],
        position: int,
        on_done: Callable[[int, Any, Any], None],
        *,
        event_timestamp_ms: int | None = None,
    ) -> None:
        """Send what was made of the inputs up to `position`.

        A message that the broker would refuse for its size must not be sent: it alone would fail,
        and a later one that is stored would make this one look stored as well.

        `on_done(generation, result, message_id)` is called from a client thread.
        """
        self._transmit([(data, properties, None, event_timestamp_ms)], position, on_done)

    def send_together(
        self,
        messages: Sequence[Message],
        position: int,
        on_done: Callable[[int, Any, Any], None],
    ) -> None:
        """Send what was made of the inputs up to `position` as one entry of several messages.

        All of them are stored or none: they are one batch of the client, which it hands over when
        it is told to, and which the broker stores, and drops as a repeat, as one. A crash in the
        middle leaves nothing. See `send`; `on_done` is called once.
        """
        self._transmit(messages, position, on_done)

    def _transmit(
        self,
        messages: Sequence[tuple[bytes, dict[str, str], str | None, int | None]],
        position: int,
        on_done: Callable[[int, Any, Any], None],
    ) -> None:
        """The one place where messages are sent one by one: the client knows no other way."""
        assert self._producer is not None, "an output is opened before it is sent to"  # noqa: S101
        size = sum(_size(data, properties) for data, properties, *_ in messages)
        if size > MAX_MESSAGE_BYTES:
            raise MessageTooLarge(f"{size} bytes do not fit a message of {MAX_MESSAGE_BYTES}")
        last = len(messages) - 1
        done = partial(on_done, self.generation)
        try:
            for n, (data, properties, key, event_timestamp_ms) in enumerate(messages):
                self._producer.send_async(
                    data,
                    done if n == last else None,  # an entry is answered as a whole
                    properties=properties,
                    partition_key=key,
                    ordering_key=self._ordering,
                    sequence_id=position,
                    event_timestamp=event_timestamp_ms,
                )
            if self._together:
                # Without waiting, which only the client's own producer offers.
                self._producer._producer.flush_async(_flushed)  # noqa: SLF001
        except BaseException:
            self.broken = True  # so that it is opened again and asked what it holds
            raise
        self.position = position


def _size(data: bytes, properties: dict[str, str]) -> int:
    return len(data) + sum(len(k) + len(v) for k, v in properties.items())


def _flushed(_result: Any) -> None:
    """The entry has its answer already."""


def newest_message(client: pulsar.Client, topic: str) -> pulsar.Message | None:
    """The newest message of a topic partition; None when it holds none."""
    reader = client.create_reader(
        topic,
        pulsar.MessageId.latest,
        receiver_queue_size=1,
        # Views take only subscriptions whose names begin with the role that reads.
        subscription_role_prefix=ROLE,
        start_message_id_inclusive=True,
    )
    try:
        # Asking moves the reader to the newest message; without it `latest` never answers.
        if not reader.has_message_available():
            return None
        return reader.read_next(READ_TIMEOUT_MS)
    finally:
        reader.close()


def newest_stored(client: pulsar.Client, output: Output) -> pulsar.Message | None:
    """The newest message of an output just opened, waiting for the one of `output.position`.

    The broker tells the last sequence id as soon as a message is under way to its storage, a
    moment before a reader sees it; counters that continue from the message must not miss it.

    Returns:
        None when the topic holds no message (none was ever sent, or retention removed them).

    Raises:
        NotYetReadable: it did not appear in time.
    """
    deadline = time.monotonic() + STORED_TIMEOUT_S
    trimmed = time.monotonic() + TRIMMED_TIMEOUT_S
    while True:
        message = newest_message(client, output.topic)
        if message is not None and position_property(message) == NO_POSITION:
            message = None  # written by somebody else before this output had an owner
        if message is not None and position_property(message) >= output.position:
            return message
        if message is None and (output.position == NO_POSITION or time.monotonic() > trimmed):
            return None
        if message is not None and time.monotonic() > deadline:
            raise NotYetReadable(
                f"{output.topic}: the newest message is of input {position_property(message)},"
                f" the broker speaks of {output.position}"
            )
        time.sleep(0.01)


def position_property(message: pulsar.Message) -> int:
    """Position of the last input that an output message holds; `NO_POSITION` for foreign ones."""
    return int(message.properties().get(POSITION_PROPERTY, NO_POSITION))
