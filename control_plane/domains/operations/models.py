"""The table of operations, with their state machine as constraints."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, DateTime, Index, Integer, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base

UNIQUE_TARGET = "uq_operations_target_live"
_LIVE = "state IN ('waiting', 'running')"


class OperationState(StrEnum):
    """waiting → running → done or failed; running again when a control plane ended meanwhile."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class OperationKind(StrEnum):
    """What is done; the target is a function, or `DEAD_LETTERS`."""

    RESTART_FUNCTION = "function.restart"
    REDEPLOY_FUNCTION = "function.redeploy"
    RESEND_DEAD_LETTERS = "dead-letters.resend"


DEAD_LETTERS = "dead-letters"
"""The target of what is done to all of them: one such operation at a time."""


class OperationRow(Base):
    """One operation; immutable once it has ended."""

    __tablename__ = "operations"
    __table_args__ = (
        Index(UNIQUE_TARGET, "target", unique=True, postgresql_where=text(_LIVE)),
        Index("ix_operations_created_at", "created_at", "id"),
        CheckConstraint("id ~ '^o[0-9a-f]{16}$'", name="id_form"),
        CheckConstraint("state IN ('waiting', 'running', 'done', 'failed')", name="state_known"),
        CheckConstraint(
            "(state IN ('done', 'failed')) = (ended_at IS NOT NULL)", name="ended_complete"
        ),
        CheckConstraint("(state = 'failed') = (problem IS NOT NULL)", name="failed_problem"),
        CheckConstraint(
            "state <> 'running' OR (attempts >= 1 AND started_at IS NOT NULL)",
            name="running_started",
        ),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    target: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, server_default=OperationState.WAITING.value)
    # How often it was begun: a control plane that ends meanwhile leaves it to the next.
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    # What was asked for beside kind and target, and up to where it was done.
    asked: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    place: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[str] = mapped_column(Text, server_default="")
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    # Title and detail, as of a problem document.
    problem: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    correlation_id: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


OF_DEAD_LETTERS = OperationRow.kind == OperationKind.RESEND_DEAD_LETTERS
OF_FUNCTIONS = ~OF_DEAD_LETTERS
"""Also those of kinds that a newer control plane knows: they fail, and wait for nobody."""
