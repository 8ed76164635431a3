"""The table of what stands."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import DateTime, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base


class AlertKind(StrEnum):
    """What an alert is about; the key of each is what it is about and how urgent it is."""

    CERTIFICATE = "certificate"
    TOKEN = "token"  # noqa: S105  (no password)
    CONSUMPTION = "consumption"
    FUNCTION = "function"


class AlertRow(Base):
    """One thing that is told and not over: so that it is told once, by any control plane."""

    __tablename__ = "alerts"

    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    about: Mapped[str] = mapped_column(Text, primary_key=True)
    since: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
