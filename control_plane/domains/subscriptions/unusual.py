"""Consumption that is unlike itself: a subscription's rate beyond its usual one, or redeliveries.

What is usual is the median of the last day of what was noted of its health. Only who reads much is
compared, so that a quiet subscription's first burst tells nobody, nor costs anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.alerts import repository as alert_rows
from control_plane.domains.alerts.models import AlertKind
from control_plane.domains.events.repository import Change
from control_plane.domains.events.schemas import EventType

LEAST_RATE = 10.0
"""Messages a second below which no rate is unusual."""
LEAST_SAMPLES = 30
"""Of how many looks in the last day something usual is known."""
LEAST_REDELIVERY_RATE = 1.0
STANDS_TO = 0.8
"""What was told is over below this part of where it began: who stays near that is told once."""
REDELIVERED_PART = 0.5
"""The part of what is delivered that is beyond doubt a storm: half of it was sent before."""


@dataclass(frozen=True, slots=True)
class Usual:
    """What a subscription's rate usually is, in messages a second, and who it is."""

    name: str
    consumer: str
    rate: float
    samples: int


def unusual(
    row: Mapping[str, Any], usual: Usual, factor: float, *, stands: bool = False
) -> dict[str, Any] | None:
    """What is unusual about what was just seen of a subscription; None for nothing.

    Args:
        factor: how many times its usual rate is unusual.
        stands: whether it was told before, and is not over yet.
    """
    rate, again = row["rate"], row["redelivery_rate"]
    part = STANDS_TO if stands else 1.0
    if again >= part * max(LEAST_REDELIVERY_RATE, REDELIVERED_PART * rate):
        return {"reason": "redelivery", "rate": rate, "redelivery_rate": again}
    known = usual.samples >= LEAST_SAMPLES
    if known and rate >= part * LEAST_RATE and rate > part * factor * usual.rate:
        return {"reason": "rate", "rate": rate, "usual": usual.rate}
    return None


async def tell(session: AsyncSession, seen: Sequence[Mapping[str, Any]], factor: float) -> None:
    """Tell which of the subscriptions seen are unusual and were not before. They are noted after.

    Args:
        seen: rows of `subscription_health` of different subscriptions.
        factor: how many times its usual rate is unusual.
    """
    told = await alert_rows.standing(session, AlertKind.CONSUMPTION)
    busy = {
        row["subscription_id"]: row
        for row in seen
        if row["rate"] >= LEAST_RATE
        or row["redelivery_rate"] >= LEAST_REDELIVERY_RATE
        or row["subscription_id"] in told
    }
    known = await _usual(session, list(busy)) if busy else {}
    standing = {}
    for key, usual in known.items():
        found = unusual(busy[key], usual, factor, stands=key in told)
        if found is not None:
            standing[key] = Change(
                EventType.SUBSCRIPTION_UNUSUAL,
                {"name": usual.name, **found},
                consumer=usual.consumer,
                subscription=key,
            )
    among = [row["subscription_id"] for row in seen]
    await alert_rows.settle(session, AlertKind.CONSUMPTION, standing, among=among)


async def _usual(session: AsyncSession, keys: list[str]) -> dict[str, Usual]:
    rows = await session.execute(
        text(
            "SELECT s.id, s.name, s.consumer_id, coalesce(h.rate, 0), h.samples"
            " FROM subscriptions AS s, LATERAL ("
            "  SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY rate) AS rate,"
            "  count(*) AS samples FROM subscription_health"
            "  WHERE subscription_id = s.id AND at >= now() - interval '1 day') AS h"
            " WHERE s.id IN :keys"
        ).bindparams(bindparam("keys", keys, expanding=True))
    )
    return {key: Usual(name, consumer, rate, n) for key, name, consumer, rate, n in rows}
