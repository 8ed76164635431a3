"""One topic that only one control plane writes, one message behind the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from functools import partial

import pulsar

from control_plane.broker import Broker, newest_message
from control_plane.errors import BrokerUnavailableError

ALONE_BYTES = 1024 * 1024
"""What is larger may be too large for the broker, which would take what comes behind it (its
`maxMessageSize` is 5 MiB): nothing is sent behind it before it is stored."""


class TopicWriter:
    """The only writer of a topic without partitions, until somebody else becomes that.

    The topic's deduplication drops what the client sends again when its connection broke. Each call
    is bounded by the broker's `timeout_seconds`; after a failure the writer is of no use any more,
    and what was under way may be stored or not: `newest` of the next writer tells.
    """

    def __init__(self, broker: Broker, topic: str, producer: pulsar.Producer) -> None:
        self._broker = broker
        self._topic = topic
        self._producer = producer

    async def newest(self) -> bytes | None:
        """The last message of the topic; None when there is none, or not any more."""

        def read() -> bytes | None:
            timeout_ms = int(self._broker.timeout_seconds * 1000)
            message = newest_message(self._broker.client, self._topic, timeout_ms=timeout_ms)
            return None if message is None else bytes(message.data())

        return await self._broker.call(read)

    async def append(self, payloads: Sequence[bytes], properties: dict[str, str]) -> None:
        """Store messages in their order; returns when all are on disk.

        Raises:
            BrokerUnavailableError: perhaps some are, from the first one on. None behind one that
                the broker refuses for its size.
        """

        def send() -> None:
            under_way: list[Future[None]] = []
            for payload in payloads:
                alone = len(payload) > ALONE_BYTES
                if alone:
                    self._await(under_way)
                under_way.append(answer := Future[None]())
                self._producer.send_async(payload, partial(_settle, answer), properties=properties)
                if alone:
                    self._await(under_way)
            self._await(under_way)

        await self._broker.call(send)

    def _await(self, answers: list[Future[None]]) -> None:
        """Wait until all are stored; then there are none."""
        while answers:
            answers.pop(0).result(self._broker.timeout_seconds)


@asynccontextmanager
async def writing(broker: Broker, topic: str) -> AsyncIterator[TopicWriter]:
    """Become the only writer of a topic; who was it before can store nothing from then on.

    Raises:
        BrokerUnavailableError: it does not answer, or has no such topic.
    """

    def open_() -> pulsar.Producer:
        try:
            return broker.client.create_producer(
                topic,
                batching_enabled=False,
                compression_type=pulsar.CompressionType.ZSTD,
                block_if_queue_full=True,
                send_timeout_millis=int(broker.timeout_seconds * 1000),
                access_mode=pulsar.ProducerAccessMode.ExclusiveWithFencing,
            )
        except pulsar.TopicNotFound as error:
            raise BrokerUnavailableError(
                f"{topic} is not on this cluster: apply the topology"
                " (scripts/deploy_functions.py apply)."
            ) from error

    producer = await broker.call(open_)
    try:
        yield TopicWriter(broker, topic, producer)
    finally:
        with suppress(BrokerUnavailableError):
            await broker.call(producer.close)


def _settle(answer: Future[None], result: pulsar.Result, _: pulsar.MessageId | None) -> None:
    if result == pulsar.Result.Ok:
        answer.set_result(None)
    else:
        answer.set_exception(BrokerUnavailableError(f"The broker stored nothing ({result})."))
