"""Operations as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

StateName = Literal["waiting", "running", "done", "failed"]


class FailureOut(msgspec.Struct):
    """Why an operation failed, in the words of a problem document."""

    title: str
    detail: str


class OperationOut(msgspec.Struct):
    """Something that takes its time: asked for, under way, or ended."""

    id: str
    kind: Annotated[
        str, Meta(examples=["function.restart", "function.redeploy", "dead-letters.resend"])
    ]
    target: Annotated[str, Meta(description="What it is done to.", examples=["sequencer"])]
    asked: Annotated[
        dict[str, Any] | None, Meta(description="Which dead letters, as it was asked.")
    ]
    state: Annotated[
        StateName, Meta(description="`done` and `failed` are the end: it stays as it is.")
    ]
    attempts: Annotated[
        int,
        Meta(description="How often it was begun: again where a control plane ended meanwhile."),
    ]
    progress: Annotated[str, Meta(description="What happened last, for people.")]
    result: dict[str, Any] | None
    problem: Annotated[FailureOut | None, Meta(description="Of `failed`.")]
    request_id: Annotated[str, Meta(description="The request that asked for it.")]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
