"""What becomes of each definition in a rollback: put back, or kept for a reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from control_plane.domains.rollbacks.schemas import KeptOut, Kind, PutBackOut, Reason
from control_plane.domains.subscriptions.models import Subscription

MOST = 1_000
"""Longest list of an answer."""


@dataclass(slots=True)
class Outcome:
    """What was put back, and what was not."""

    put_back: list[PutBackOut] = field(default_factory=list)
    kept: list[KeptOut] = field(default_factory=list)

    def put(
        self,
        kind: Kind,
        name: str,
        before: dict[str, Any],
        after: dict[str, Any],
        *,
        id_: str = "",
        consumer: str | None = None,
    ) -> None:
        """Tell what is again what it was."""
        self.put_back.append(PutBackOut(kind, id_, name, consumer, before, after))

    def keep(
        self,
        kind: Kind,
        name: str,
        reason: Reason,
        detail: str,
        *,
        id_: str = "",
        consumer: str | None = None,
        until: datetime | None = None,
    ) -> None:
        """Tell what stays as it is."""
        self.kept.append(KeptOut(kind, id_, name, consumer, reason, detail, until))

    def keep_subscription(
        self, row: Subscription, reason: Reason, detail: str, until: datetime | None = None
    ) -> None:
        """Tell of a subscription that stays as it is."""
        self.keep(
            "subscription",
            row.name,
            reason,
            detail,
            id_=row.id,
            consumer=row.consumer_id,
            until=until,
        )

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """How many of each kind were put back, and kept for each reason."""
        return {
            "put_back": dict(Counter(each.kind for each in self.put_back)),
            "kept": dict(Counter(each.reason for each in self.kept)),
        }

    @property
    def cut(self) -> bool:
        """Whether an answer cannot tell all."""
        return max(len(self.put_back), len(self.kept)) > MOST
