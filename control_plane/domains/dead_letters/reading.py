"""Reading dead letters from their topics; every call blocks and is bounded in time and messages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import pulsar

from control_plane.domains.dead_letters.letters import TOPICS, Function, Letter, LetterId
from marketdata.connection import partition_topics

MAX_MESSAGES = 2_000
"""Letters that one request looks at."""

RECEIVER_QUEUE = 8
RECONNECT_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters a list holds; None does not narrow."""

    function: Function | None = None
    code: str | None = None
    partition: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, letter: Letter) -> bool:
        """Whether a letter belongs to the list."""
        return (
            (self.code is None or letter.code == self.code)
            and (self.since is None or letter.stored_at >= self.since)
            and (self.until is None or letter.stored_at < self.until)
        )


def read_letters(
    client: pulsar.Client, wanted: Wanted, *, after: LetterId | None, limit: int, timeout_s: float
) -> tuple[list[Letter], LetterId | None]:
    """Up to `limit` letters behind a place, without payloads, and where to go on; None at the end.

    Fewer than `limit` with a place to go on: the bound was reached on the way.

    Raises:
        TopicNotReady: the topology is not applied.
        pulsar.PulsarException: the broker is away or did not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    found: list[Letter] = []
    looked_at = 0
    for function, partition in _partitions(client, wanted):
        if after is not None and (_rank(function), partition) < (
            _rank(after.function),
            after.partition,
        ):
            continue
        here = after if after is not None and after[:2] == (function, partition) else None
        reader = _open(client, function, partition, here, wanted.since)
        try:
            while _has_more(reader, deadline):
                message = reader.read_next(timeout_millis=_left_ms(deadline))
                place = LetterId.of(function, partition, message)
                if here is not None and place <= here:
                    continue
                here = place  # after a reconnect some come again
                letter = Letter.of(place, message, with_payload=False)
                looked_at += 1
                if wanted.takes(letter):
                    if len(found) == limit:
                        return found, found[-1].id
                    found.append(letter)
                if looked_at >= MAX_MESSAGES or time.monotonic() >= deadline:
                    return found, place
        finally:
            reader.close()
    return found, None


def read_letter(client: pulsar.Client, place: LetterId, *, timeout_s: float) -> Letter | None:
    """The letter at a place, with its payload; None when there is none (any more).

    Raises:
        TopicNotReady, pulsar.PulsarException: as `read_letters`.
    """
    deadline = time.monotonic() + timeout_s
    if place.partition >= len(partition_topics(client, TOPICS[place.function])):
        return None
    reader = client.create_reader(
        place.topic, place.message_id, receiver_queue_size=1, start_message_id_inclusive=True
    )
    try:
        while reader.has_message_available():
            message = reader.read_next(timeout_millis=_left_ms(deadline))
            found = LetterId.of(place.function, place.partition, message)
            if found == place:
                return Letter.of(place, message, with_payload=True)
            if found > place:
                return None
        return None
    finally:
        reader.close()


def _partitions(client: pulsar.Client, wanted: Wanted) -> Sequence[tuple[Function, int]]:
    return [
        (function, partition)
        for function, topic in TOPICS.items()
        if wanted.function in (None, function)
        for partition in range(len(partition_topics(client, topic)))
        if wanted.partition in (None, partition)
    ]


def _rank(function: Function) -> int:
    return list(TOPICS).index(function)


def _open(
    client: pulsar.Client,
    function: Function,
    partition: int,
    after: LetterId | None,
    since: datetime | None,
) -> pulsar.Reader:
    place = LetterId(function, partition, 0, 0)
    start = pulsar.MessageId.earliest if after is None else after.message_id
    reader = client.create_reader(place.topic, start, receiver_queue_size=RECEIVER_QUEUE)
    if after is None and since is not None:
        try:
            reader.seek(max(0, int(since.timestamp() * 1000)))
        except BaseException:
            reader.close()
            raise
    return reader


def _has_more(reader: pulsar.Reader, deadline: float) -> bool:
    """Whether there is another letter; asked again while the broker does not know the reader.

    It ends the connection of a reader that seeks, a moment after it has answered.
    """
    while True:
        try:
            more: bool = reader.has_message_available()
            return more
        except pulsar.BrokerMetadataError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(RECONNECT_POLL_S)


def _left_ms(deadline: float) -> int:
    return max(1, int((deadline - time.monotonic()) * 1000))
