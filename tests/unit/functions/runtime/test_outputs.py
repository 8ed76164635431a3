"""Outputs where a real client cannot be brought to fail on demand."""

import pulsar
import pytest

from functions.runtime.outputs import MessageTooLarge, Output
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
