"""Tokens as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Subject = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]
Lifetime = Annotated[
    int, Meta(ge=60, le=86_400, description="Absent: as the control plane is set up.")
]
Issuable = Literal["platform", "publisher", "consumer", "read-only"]


class TokenCreate(msgspec.Struct, forbid_unknown_fields=True):
    """Whom a token is for: a consumer, or a subject in a role, or (neither) the caller itself."""

    consumer: Annotated[
        Subject | None, Meta(description="Id or name of the consumer it is for.")
    ] = None
    role: Annotated[
        Literal["platform", "publisher", "read-only"] | None,
        Meta(description="The role it is for; the platform team only."),
    ] = None
    subject: Annotated[Subject | None, Meta(description="Who has the role.")] = None
    lifetime_seconds: Lifetime | None = None


class TokenOut(msgspec.Struct):
    """A token that was issued, without the token."""

    id: Annotated[str, Meta(description="The token's `jti`.")]
    subject: str
    role: Issuable
    issued_by: str
    renewed_from: str | None
    issued_at: datetime
    expires_at: datetime
    revoked: bool


class TokenMade(msgspec.Struct):
    """A new token: told once, and not kept."""

    token: Annotated[str, Meta(description="Send it as `Authorization: Bearer …`.")]
    id: str
    subject: str
    role: Issuable
    expires_at: datetime
    renewable_until: Annotated[
        datetime, Meta(description="Until when it, or what it is renewed to, can be renewed.")
    ]


class RevokeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Whose tokens to revoke."""

    subject: Annotated[
        Subject, Meta(description="A consumer's id, or who has another role, as in `subject`.")
    ]


class RevokedOut(msgspec.Struct):
    """What was revoked: every token of the subject that was issued up to then."""

    subject: str
    issued_until: datetime
