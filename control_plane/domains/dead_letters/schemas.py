"""Dead letters as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class LetterResend(msgspec.Struct):
    """That a letter's frame was sent to `ingest` again.

    `position` (ledger:entry) is where it stands there; null when the broker had it already, of an
    attempt whose answer was lost.
    """

    topic: str
    position: Annotated[str | None, Meta(examples=["812:4"])]
    resent_at: datetime


class LetterOut(msgspec.Struct):
    """What a function could not process.

    `source_topic` and `source_position` (ledger:entry:batch index) are where the input stands.
    `truncated_from_bytes` is set where the letter could not hold the whole input.
    """

    id: Annotated[str, Meta(examples=["sequencer:0:731:12"])]
    function: Literal["sequencer", "distributor", "conflator"]
    partition: int
    state: Annotated[Literal["kept", "resent"], Meta(description="`resent` says nothing of later.")]
    reason_code: Annotated[str, Meta(examples=["wrong_schema"])]
    reason: str
    source_topic: str
    source_position: str
    failed_at: datetime | None
    stored_at: datetime
    size_bytes: int
    truncated_from_bytes: int | None
    original_properties: dict[str, str]
    resend: LetterResend | None


class LettersResend(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Which letters of the sequencer are sent again; what is absent does not narrow.

    `since` and `until`: those stored from a time on, and before another one, at the latest when
    this was asked.
    """

    code: (
        Annotated[
            str, Meta(max_length=200, description="The reason code.", examples=["wrong_schema"])
        ]
        | None
    ) = None
    partition: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    since: Annotated[datetime, Meta(tz=True)] | None = None
    until: Annotated[datetime, Meta(tz=True)] | None = None


class LetterDetailOut(LetterOut):
    """A dead letter with the checksum of its payload, in hexadecimal."""

    payload_sha256: str


class LetterResendOut(msgspec.Struct):
    """The answer to a resend; `repeated` when it had been sent before and nothing was done."""

    id: str
    repeated: bool
    resend: LetterResend
