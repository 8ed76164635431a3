"""What a message of a dead-letter topic says, and the ids by which letters are found again.

A letter's id is its place: function, partition, ledger, entry and, in a batch, the place in it. It
is stable for as long as the topic keeps the letter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Self

import pulsar

from marketdata.topics import (
    DEADLETTER_CONFLATOR,
    DEADLETTER_DISTRIBUTOR,
    DEADLETTER_SEQUENCER,
    partition_topic,
)

Function = Literal["sequencer", "distributor", "conflator"]

TOPICS: dict[Function, str] = {
    "sequencer": DEADLETTER_SEQUENCER,
    "distributor": DEADLETTER_DISTRIBUTOR,
    "conflator": DEADLETTER_CONFLATOR,
}
ORIGINAL = "original_"

_ID = re.compile(
    rf"({'|'.join(TOPICS)}):([0-9]{{1,9}}):([0-9]{{1,18}}):([0-9]{{1,18}})(?::([0-9]{{1,9}}))?",
    re.ASCII,
)


class LetterId(NamedTuple):
    """Where a letter stands; ids order as the letters of a topic do, partition by partition.

    >>> str(LetterId.parse("sequencer:0:12:3"))
    'sequencer:0:12:3'
    """

    function: Function
    partition: int
    ledger: int
    entry: int
    batch_index: int = -1

    @classmethod
    def parse(cls, text: str) -> Self:
        """The id that a text spells; ValueError for one that was not made here."""
        found = _ID.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no id of a dead letter")
        name, *numbers = found.groups("-1")
        [function] = (function for function in TOPICS if function == name)
        made = cls(function, *map(int, numbers))
        if str(made) != text:
            raise ValueError(f"{text!r} is no id of a dead letter")
        return made

    @classmethod
    def of(cls, function: Function, partition: int, message: pulsar.Message) -> Self:
        """The id of a message of a dead-letter topic."""
        place = message.message_id()
        index = place.batch_index()
        return cls(function, partition, place.ledger_id(), place.entry_id(), index)

    def __str__(self) -> str:
        numbers = self[1:] if self.batch_index >= 0 else self[1:4]
        return ":".join(map(str, (self.function, *numbers)))

    @property
    def topic(self) -> str:
        """The topic of its partition."""
        return partition_topic(TOPICS[self.function], self.partition)

    @property
    def message_id(self) -> pulsar.MessageId:
        """Its place, as the client wants it."""
        return pulsar.MessageId(self.partition, self.ledger, self.entry, self.batch_index)


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it was read.

    Attributes:
        stored_at: when the broker took it.
        properties: of the letter, as the function wrote them; `functions/runtime/deadletters.py`.
        payload: None where only its size is wanted.
    """

    id: LetterId
    stored_at: datetime
    properties: dict[str, str]
    size: int
    payload: bytes | None

    @classmethod
    def of(cls, place: LetterId, message: pulsar.Message, *, with_payload: bool) -> Self:
        """A message as a letter."""
        data = message.data()
        return cls(
            id=place,
            stored_at=datetime.fromtimestamp(message.publish_timestamp() / 1e3, UTC),
            properties=dict(message.properties()),
            size=len(data),
            payload=bytes(data) if with_payload else None,
        )

    @property
    def code(self) -> str:
        """Why it is here, for machines; empty when it does not say."""
        return self.properties.get("reason_code", "")

    @property
    def failed_at(self) -> datetime | None:
        """When the function gave up; None when it does not say."""
        value = self.properties.get("failed_at_ns", "")
        return datetime.fromtimestamp(int(value) / 1e9, UTC) if _is_number(value) else None

    @property
    def truncated_from(self) -> int | None:
        """How many bytes the input had, where the letter could not hold them all."""
        value = self.properties.get("truncated_from_bytes")
        if value is None:
            return None
        return int(value) if _is_number(value) else self.size

    @property
    def original(self) -> dict[str, str]:
        """The input's own properties."""
        return {
            name.removeprefix(ORIGINAL): value
            for name, value in self.properties.items()
            if name.startswith(ORIGINAL)
        }


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= 19
