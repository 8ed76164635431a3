"""What is sent behind what the broker may refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pulsar
import pytest

from control_plane import topic_writer
from control_plane.broker import Broker
from control_plane.errors import BrokerUnavailableError
from control_plane.topic_writer import TopicWriter

MAX_MESSAGE = 100
ALONE = 50


class Producer:
    """Stores what is not too large, whatever was refused before."""

    def __init__(self) -> None:
        self.stored: list[bytes] = []

    def send_async(self, payload: bytes, answer: Callable[..., None], **_: Any) -> None:
        if len(payload) > MAX_MESSAGE:
            answer(pulsar.Result.MessageTooBig, None)
        else:
            self.stored.append(payload)
            answer(pulsar.Result.Ok, None)


class Calls:
    timeout_seconds = 60.0

    async def call(self, blocking: Callable[[], Any]) -> Any:
        return blocking()


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> Producer:
    monkeypatch.setattr(topic_writer, "ALONE_BYTES", ALONE)
    return Producer()


def writer_of(producer: Producer) -> TopicWriter:
    return TopicWriter(cast(Broker, Calls()), "topic", cast(pulsar.Producer, producer))


async def test_messages_are_stored_in_their_order(producer: Producer) -> None:
    payloads = [b"a", b"b" * 60, b"c", b"d" * MAX_MESSAGE]
    await writer_of(producer).append(payloads, {})
    assert producer.stored == payloads


async def test_nothing_is_sent_behind_what_the_broker_refuses(producer: Producer) -> None:
    with pytest.raises(BrokerUnavailableError, match="MessageTooBig"):
        await writer_of(producer).append([b"a", b"b" * (MAX_MESSAGE + 1), b"c"], {})
    assert producer.stored == [b"a"]
