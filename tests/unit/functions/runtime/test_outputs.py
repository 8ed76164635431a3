"""Outputs where a real client cannot be brought to fail on demand."""

from types import SimpleNamespace
from typing import Any

import pulsar
import pytest

from functions.runtime.outputs import Message, MessageTooLarge, Output, Registered
from marketdata.formats.pulsar_schemas import PulsarSchema
from marketdata.frames import MAX_MESSAGE_BYTES


class RaisingProducer:
    def send_async(self, *_: object, **__: object) -> None:
        raise pulsar.AlreadyClosed


def _opened(position: int) -> Output:
    output = Output("topic-partition-0", "test")
    output._producer = RaisingProducer()
    output.position, output.broken = position, False
    return output


def test_a_message_that_was_not_sent_does_not_count_as_sent() -> None:
    output = _opened(5)
    with pytest.raises(pulsar.AlreadyClosed):
        output.send(b"", {}, 6, lambda *_: None)
    assert (output.position, output.broken) == (5, True)


def test_a_message_too_large_for_the_broker_is_refused_and_the_output_goes_on() -> None:
    output = _opened(5)
    with pytest.raises(MessageTooLarge):
        output.send(b"x" * MAX_MESSAGE_BYTES, {"a": "b"}, 6, lambda *_: None)
    assert (output.position, output.broken) == (5, False)


class Recorder:
    """A producer that remembers what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self._producer = SimpleNamespace(flush_async=lambda _: self.told.append("flush"))

    def send_async(self, data: bytes, callback: Any, **options: Any) -> None:
        self.told.append((data, callback is not None, options))


def test_messages_sent_together_have_one_place_and_one_answer() -> None:
    output, recorder = Output("topic-partition-3", "test", together=True), Recorder()
    output._producer = recorder
    messages = [Message(b"a", {"n": "1"}, "A", 1), Message(b"b", {"n": "2"}, "B", 2)]
    output.send_together(messages, 7, lambda *_: None)
    (a, _, of_a), (b, answered, of_b), end = recorder.told
    assert (a, b, answered, end) == (b"a", b"b", True, "flush")
    assert not recorder.told[0][1], "the entry is answered once"
    assert (of_a["sequence_id"], of_b["sequence_id"], output.position) == (7, 7, 7)
    assert (of_a["partition_key"], of_b["partition_key"]) == ("A", "B")
    assert (of_a["ordering_key"], of_b["ordering_key"]) == ("3", "3")


def test_of_messages_too_large_together_none_is_sent() -> None:
    output, recorder = Output("topic-partition-3", "test", together=True), Recorder()
    output._producer = recorder
    half = Message(b"x" * (MAX_MESSAGE_BYTES // 2), {}, "A", 1)
    with pytest.raises(MessageTooLarge):
        output.send_together([half, half, half], 7, lambda *_: None)
    assert recorder.told == []


def test_an_output_whose_topic_has_another_schema_names_none() -> None:
    """Refused at every look it would hold up all views of the partition."""
    named: list[Any] = []

    def create_producer(_topic: str, *, schema: Any, **_: Any) -> Any:
        named.append(schema)
        if isinstance(schema, Registered):
            raise pulsar.exceptions.IncompatibleSchema
        return SimpleNamespace(last_sequence_id=lambda: 4)

    definition = '{"type": "record", "name": "Trade", "fields": []}'
    output = Output("topic-partition-0", "test", schema=PulsarSchema("AVRO", definition))
    client: Any = SimpleNamespace(create_producer=create_producer)
    output.open(client)
    assert (output.position, output.broken) == (4, False)
    assert [type(each) for each in named] == [Registered, pulsar.schema.BytesSchema]
