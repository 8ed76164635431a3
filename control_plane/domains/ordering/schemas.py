"""Gaps, findings and instruments as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from marketdata.ordering import OrderingEventType

SourceNumber = Annotated[int, Meta(description="A source's own number of an event.")]


class GapOut(msgspec.Struct):
    """Events of a source that are missing for an instrument, or were.

    `first` … `last` are the missing source sequences, both included; `missing` is how many they
    were when the gap opened, `remaining` how many still are. `sequence` is ours of the event that
    showed the gap, `position` that of its frame on `sequenced`.
    """

    id: Annotated[str, Meta(examples=["2:1374389534724:0"])]
    state: Literal["open", "closed"]
    source: Annotated[str, Meta(examples=["cme"])]
    instrument: Annotated[str, Meta(examples=["ESZ6"])]
    partition: int
    first: SourceNumber
    last: SourceNumber
    missing: int
    remaining: int
    opened_at: datetime
    closed_at: datetime | None
    closed_by: Literal["late_arrival", "fill", "reset"] | None
    ts_event: datetime
    sequence: int
    epoch: int
    position: int
    resend_requests: Annotated[int, Meta(description="Requests made through this API.")]
    resend_requested_at: datetime | None


class FindingOut(msgspec.Struct):
    """One finding of the sequencer, as it was published on `control/ordering`.

    `gap_id` stands with `gap_opened` and `gap_closed`, `closed_by` and `remaining` with the latter;
    `action` is what the source's policy did, `reason` is for people. A finding without instrument
    and source sums up many of its type that one frame showed.
    """

    id: Annotated[str, Meta(examples=["2:1374389534724:0"])]
    type: OrderingEventType
    source: str
    instrument: str
    partition: int
    first: SourceNumber
    last: SourceNumber
    events: int
    detected_at: datetime
    ts_event: datetime
    sequence: int
    epoch: int
    position: int
    gap_id: str
    closed_by: str
    remaining: int
    action: str
    reason: str


class SourceOut(msgspec.Struct):
    """The newest of one source for an instrument; the sequence is null when it gives none."""

    source: str
    source_sequence: int | None
    ts_event: datetime
    ts_event_age_seconds: float


class InstrumentOut(msgspec.Struct):
    """Where an instrument stands, as read from the log for this answer.

    `sequence` is that of its newest event; `sequenced_at` and its age are null, and sources that
    do not number their events are left out, when that event is too far back in the log to be found
    within a request. `complete` is false when the log grew faster than it could be read within a
    request: the figures are then of a moment before.
    """

    instrument: Annotated[str, Meta(examples=["ESZ6"])]
    partition: int
    epoch: int
    sequence: int
    sequenced_at: datetime | None
    sequence_age_seconds: float | None
    sources: list[SourceOut]
    open_gap_count: int
    open_gaps: Annotated[list[GapOut], Meta(description="The oldest 100.")]
    as_of: datetime
    complete: bool


class ResendRange(msgspec.Struct):
    """Source sequences that were asked for, both included."""

    first: SourceNumber
    last: SourceNumber


class ResendOut(msgspec.Struct):
    """What was asked for on `control/resend`: one request a range that is still missing."""

    gap_id: str
    source: str
    instrument: str
    requested_at: datetime
    ranges: list[ResendRange]
