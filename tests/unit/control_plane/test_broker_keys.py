"""Which keys a compacted topic holds, as a client in memory tells it."""

from __future__ import annotations

from typing import Any, ClassVar

import pulsar
import pytest
from held_messages import HeldReader

from control_plane.broker import Broker


class Message:
    def __init__(self, place: tuple[int, int], key: str, payload: bytes) -> None:
        self._place, self._key, self._payload = place, key, payload

    def message_id(self) -> pulsar.MessageId:
        return pulsar.MessageId(-1, *self._place, -1)

    def partition_key(self) -> str:
        return self._key

    def data(self) -> bytes:
        return self._payload


class Client:
    messages: ClassVar[list[Message]] = []
    whole_reads = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def create_reader(self, _topic: str, start: Any, **options: Any) -> HeldReader[Message]:
        assert options["is_read_compacted"]
        if start == pulsar.MessageId.latest:
            return HeldReader(self.messages[-1:])
        Client.whole_reads += 1
        return HeldReader(self.messages)

    def close(self) -> None:
        pass


async def test_keys_are_those_of_newest_messages_with_content(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulsar, "Client", Client)
    monkeypatch.setattr(Client, "whole_reads", 0)
    broker = Broker("pulsar://there:6650", timeout_seconds=5)
    await broker.open()
    Client.messages = []
    assert await broker.keys("t") == frozenset()
    Client.messages = [Message((1, n), key, value) for n, (key, value) in enumerate(
        [("a/0", b"x"), ("b/0", b"x"), ("b/1", b"x"), ("a/0", b""), ("c/0", b""), ("c/0", b"x")]
    )]  # fmt: skip
    for _ in range(2):
        assert await broker.keys("t") == {"b/0", "b/1", "c/0"}
    assert Client.whole_reads == 1  # nothing was stored in between
    # Made again, with another message: another ledger, however few messages there are.
    Client.messages = [Message((2, 5), "d/0", b"x")]
    assert await broker.keys("t") == {"d/0"}
    await broker.close()
