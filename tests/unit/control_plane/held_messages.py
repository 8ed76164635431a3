"""A reader of messages that are held in memory."""

from typing import Generic, TypeVar

M = TypeVar("M")


class HeldReader(Generic[M]):
    """As a `pulsar.Reader` that gives some messages, one after the other."""

    def __init__(self, messages: list[M]) -> None:
        self._messages = messages

    def has_message_available(self) -> bool:
        return bool(self._messages)

    def read_next(self, timeout_millis: int) -> M:
        assert timeout_millis > 0
        message, *self._messages = self._messages
        return message

    def close(self) -> None:
        pass
