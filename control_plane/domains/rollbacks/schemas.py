"""Rollbacks as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from control_plane.domains.plans.schemas import PlanDifferenceOut

Part = Literal["subscriptions", "instrument_sets", "reference_tables", "rules"]
PARTS: tuple[Part, ...] = ("subscriptions", "instrument_sets", "reference_tables", "rules")

Kind = Literal["subscription", "instrument_set", "reference_table", "rules"]
Reason = Literal[
    "made_since",
    "closed_since",
    "deleted_since",
    "suspended",
    "refused",
    "draining",
    "would_widen",
    "entitlements",
    "not_kept",
]


class RollbackRequest(msgspec.Struct, forbid_unknown_fields=True):
    """How to go back to an earlier plan."""

    dry_run: Annotated[
        bool, Meta(description="Only tell what would be put back, and change nothing.")
    ] = False
    parts: Annotated[
        list[Part],
        Meta(
            min_length=1,
            max_length=len(PARTS),
            description="What to put back, everything where it is absent; the rest stays as it is.",
            examples=[["instrument_sets"]],
        ),
    ] = msgspec.field(default_factory=lambda: list(PARTS))
    widen: Annotated[
        bool,
        Meta(
            description="Put back routing rules, and sets that they name, also where somebody may "
            "receive more by them than now. Entitlements and suspensions hold all the same."
        ),
    ] = False


class PutBackOut(msgspec.Struct):
    """Something that is again what it was."""

    kind: Kind
    id: Annotated[str, Meta(description="'' for the rules, which are one list.")]
    name: str
    consumer: Annotated[str | None, Meta(description="Id of a subscription's consumer.")]
    before: Annotated[dict[str, Any], Meta(description="What of it was otherwise until now.")]
    after: dict[str, Any]


class KeptOut(msgspec.Struct):
    """Something that is not what it was, and stays so."""

    kind: Kind
    id: str
    name: str
    consumer: str | None
    reason: Annotated[
        Reason,
        Meta(
            description="made_since, closed_since, deleted_since: that is not undone. suspended: "
            "its consumer is. refused: a request for it would be, now. draining: it would lose "
            "what it still drains; repeat the rollback behind `until`. would_widen: see `widen`. "
            "entitlements: it would give more than these allow. not_kept: what it was is not known."
        ),
    ]
    detail: str
    until: datetime | None = None


class RollbackOut(msgspec.Struct):
    """What a rollback has done, or would do."""

    to: Annotated[int, Meta(description="The earlier plan.")]
    before: Annotated[int, Meta(description="The newest plan before.")]
    plan: Annotated[
        int,
        Meta(
            description="The plan from which what was put back holds: a new one, or the newest "
            "before where it makes no difference to any view."
        ),
    ]
    dry_run: bool
    put_back: list[PutBackOut]
    kept: list[KeptOut]
    changes: Annotated[
        PlanDifferenceOut | None,
        Meta(description="What changes from `before` to `plan`; null where that is one plan."),
    ]
    cut: Annotated[bool, Meta(description="Whether a list holds the first 1,000 only.")]
