"""The audit log as it travels over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Outcome = Literal["done", "failed", "refused"]


class AuditEntryOut(msgspec.Struct):
    """One entry: a change, an attempt that was refused, or a repair."""

    id: int
    recorded_at: datetime
    actor: Annotated[
        str,
        Meta(
            description="Subject of the token; `control-plane`, `database` (changed there by hand),"
            " `unauthenticated`, or `anybody` where authentication is off."
        ),
    ]
    role: str
    token_id: str
    operation: Annotated[str, Meta(description="`operationId` of the route, or a component.")]
    request_id: str
    address: str
    database_user: str
    action: Annotated[
        str, Meta(description="`insert`, `update`, `delete`, `truncate`, `request`, or a repair.")
    ]
    resource: str
    resource_id: str
    outcome: Outcome
    before: Annotated[dict[str, Any] | None, Meta(description="Of an update only what differs.")]
    after: dict[str, Any] | None
    detail: dict[str, Any] | None
    sequence: Annotated[
        int | None, Meta(description="Place in the chain; null for about a second.")
    ]
    digest: Annotated[str | None, Meta(description="SHA-256, as hex digits.")]


class HeadOut(msgspec.Struct):
    """The end of the chain. Whoever keeps it elsewhere can prove later that nothing is missing."""

    sequence: int
    digest: str


class BreakOut(msgspec.Struct):
    """The first place at which the chain does not hold."""

    sequence: int
    reason: str


class VerificationOut(msgspec.Struct):
    """What a verification found."""

    holds: Annotated[bool, Meta(description="Nothing was found wrong in what was checked.")]
    checked: Annotated[int, Meta(description="How many entries were.")]
    verified: Annotated[HeadOut, Meta(description="Up to where the chain holds.")]
    next_after: Annotated[
        int | None, Meta(description="`after` of the next call; null when all is checked.")
    ]
    broken: BreakOut | None
    head: HeadOut
    unsealed: Annotated[int, Meta(description="Entries that are not in the chain yet.")]
    unsealed_since: datetime | None
    silenced: Annotated[
        list[str], Meta(description="Tables on which the log's triggers are switched off.")
    ]
