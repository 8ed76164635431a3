"""The tables of tokens. What a token says is stored, never the token itself."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, DateTime, Identity, Index, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base


class IssuedToken(Base):
    """A token that was issued over HTTP; kept for a day after its end."""

    __tablename__ = "tokens"
    __table_args__ = (
        Index("ix_tokens_expires_at", "expires_at"),
        Index("ix_tokens_subject", "subject", "created_at"),
        Index("ix_tokens_renewed_from", "renewed_from"),
        CheckConstraint("id ~ '^[0-9a-f]{32}$'", name="id_form"),
        CheckConstraint(
            "role IN ('platform', 'publisher', 'consumer', 'read-only')", name="role_known"
        ),
        CheckConstraint("expires_at > issued_at", name="lifetime_positive"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    subject: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text)
    issued_by: Mapped[str] = mapped_column(Text)
    renewed_from: Mapped[str | None] = mapped_column(Text)
    issued_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )


class Revocation(Base):
    """One token that is revoked, or all of a subject that were issued up to a moment."""

    __tablename__ = "token_revocations"
    __table_args__ = (
        Index("ix_token_revocations_forget_after", "forget_after"),
        CheckConstraint("(token_id IS NULL) <> (subject IS NULL)", name="token_or_subject"),
        CheckConstraint("(subject IS NULL) = (issued_until IS NULL)", name="subject_complete"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    token_id: Mapped[str | None] = mapped_column(Text)
    subject: Mapped[str | None] = mapped_column(Text)
    issued_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_by: Mapped[str] = mapped_column(Text)
    revoked_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    # No token that this is about can be valid then.
    forget_after: Mapped[datetime] = mapped_column(DateTime(timezone=True))
