"""Where a subscription begins that names a time or sequences: what is asked, what was found.

Pure: no database, no broker, no clock. `start_search` finds the messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from control_plane.errors import FieldProblem, InvalidRequestError
from control_plane.pages import read_moment
from control_plane.pulsar_values import MessagePosition

MOST_PARTITIONS = 1024
LARGEST = 2**63 - 1
OLDEST = (-1, -1)
"""Ledger and entry that stand for the oldest message, as Pulsar has it."""


class SequenceStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With which message to begin in one partition; the names are those of its properties."""

    partition: Annotated[int, Meta(ge=0, lt=MOST_PARTITIONS)]
    delivery_sequence: Annotated[
        int,
        Meta(ge=1, le=LARGEST, description="The first event that is wanted.", examples=[1234]),
    ]
    delivery_epoch: (
        Annotated[
            int, Meta(ge=0, le=LARGEST, description="null: that of the partition's newest message.")
        ]
        | None
    ) = None


class StartPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A place on the view's topic: a time or sequences."""

    time: (
        Annotated[
            str,
            Meta(
                max_length=40,
                description="In each partition the first message written then or later.",
                examples=["2026-11-30T15:00:00Z"],
                extra_json_schema={"format": "date-time"},
            ),
        ]
        | UnsetType
    ) = UNSET
    sequences: (
        Annotated[
            list[SequenceStart],
            Meta(
                min_length=1,
                max_length=MOST_PARTITIONS,
                description="In each of these partitions the message that holds the sequence, in "
                "others the oldest one.",
            ),
        ]
        | UnsetType
    ) = UNSET


Start = Annotated[
    Literal["latest", "earliest"] | StartPlace,
    Meta(
        description="Begin with what comes now, with what the view's topic still holds, or there "
        "at a time or at sequences.",
        examples=[
            "latest",
            {"time": "2026-11-30T15:00:00Z"},
            {"sequences": [{"partition": 0, "delivery_sequence": 1234}]},
        ],
    ),
]


At = Literal["asked", "oldest", "next"]


class BeginOut(msgspec.Struct, frozen=True):
    """With what reading begins in a partition."""

    partition: int
    at: Annotated[
        At,
        Meta(
            description="`asked`: the message that was asked for, and all behind it are there. "
            "`oldest`: the oldest that the topic holds; what was asked for may have been before "
            "it. `next`: what comes next, since nothing from there on is there yet."
        ),
    ]


class Begin(msgspec.Struct, frozen=True):
    """The message with which reading begins in a partition, and what `BeginOut` tells of it."""

    partition: int
    ledger: int
    entry: int
    at: At

    @property
    def position(self) -> MessagePosition:
        """As the broker takes it."""
        return MessagePosition(self.ledger, self.entry, self.partition)


class Found(msgspec.Struct, frozen=True):
    """What was asked for, and what was found for it on the topic of one view.

    A partition that is not named begins with its oldest message.
    """

    asked: StartPlace
    view: str
    begins: tuple[Begin, ...]

    def stored(self) -> dict[str, Any]:
        """As a row holds it."""
        made: dict[str, Any] = msgspec.to_builtins(self)
        return made

    @property
    def told(self) -> list[BeginOut]:
        """As the API tells it."""
        return [BeginOut(begin.partition, begin.at) for begin in self.begins]


def time_of(asked: StartPlace) -> datetime | None:
    """The time that is asked for; None where it is sequences.

    Raises:
        InvalidRequestError: it is no time, or ambiguous.
    """
    return None if asked.time is UNSET else read_moment(asked.time, "/start/time")


def check(start: Literal["latest", "earliest"] | StartPlace, now: datetime) -> None:
    """Refuse a start that says nothing, too much, or lies in the future.

    Raises:
        InvalidRequestError: with the place of what is wrong.
    """
    if isinstance(start, str):
        return
    for problem in _problems(start, now):
        raise InvalidRequestError(f"start: {problem.detail}.", [problem])


def _problems(start: StartPlace, now: datetime) -> Iterator[FieldProblem]:
    if (start.time is UNSET) == (start.sequences is UNSET):
        hint = "give one of time and sequences"
        yield FieldProblem("/start", "it is not clear where to begin", hint=hint)
        return
    time = time_of(start)
    if time is not None and time > now:
        hint = "begin with 'latest', and skip what comes before"
        yield FieldProblem("/start/time", "the time lies in the future", hint=hint)
    counts = Counter(each.partition for each in start.sequences or ())
    for number, count in counts.items():
        if count > 1:
            hint = "give one sequence for each partition"
            yield FieldProblem("/start/sequences", f"partition {number} comes twice", hint=hint)
