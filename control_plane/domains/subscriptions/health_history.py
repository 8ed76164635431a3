"""How a subscription was read over time: what was noted, put together by steps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from control_plane.database import Database
from control_plane.domains.subscriptions import health_rows, repository
from control_plane.domains.subscriptions.health import STATES, Health
from control_plane.errors import FieldProblem, InvalidRequestError

MOST_POINTS = 1_000
USUAL_POINTS = 288
"""At most, where no step is asked for: of a day one for every five minutes."""
LONGEST_STEP_SECONDS = 366 * 86_400
DAY = timedelta(days=1)
FIRST = datetime(1, 1, 2, tzinfo=UTC)


class HealthPointOut(msgspec.Struct):
    """How a subscription was read in one step."""

    at: Annotated[datetime, Meta(description="When the step begins.")]
    samples: Annotated[int, Meta(description="How often it was looked at in the step.")]
    state: Annotated[Health, Meta(description="The worst that was seen.")]
    members: Annotated[int, Meta(description="The fewest.")]
    backlog_messages: Annotated[int, Meta(description="The most.")]
    backlog_bytes: Annotated[int, Meta(description="The most.")]
    backlog_age_seconds: Annotated[
        float | None, Meta(description="The highest; null when nothing waited.")
    ]
    rate: Annotated[float, Meta(description="Messages a second, the mean.")]
    redelivery_rate: Annotated[float, Meta(description="The mean.")]
    last_acknowledged_at: datetime | None


class HealthHistoryOut(msgspec.Struct):
    """How a subscription was read, oldest first; steps in which nobody looked are left out."""

    since: datetime
    until: datetime
    step_seconds: int
    items: list[HealthPointOut]


@dataclass(frozen=True, slots=True)
class Span:
    """A time in steps; the last one may be shorter."""

    since: datetime
    until: datetime
    step: timedelta

    @classmethod
    def of(
        cls, since: datetime | None, until: datetime | None, step_seconds: int | None, now: datetime
    ) -> Span:
        """What is asked for: up to now, of the day before `until`, in a few hundred steps.

        Raises:
            InvalidRequestError: it ends before it begins, or has too many steps.
        """
        until = now if until is None else until
        since = max(until, FIRST) - DAY if since is None else since
        if since >= until:
            problem = FieldProblem("query:since", f"it must be before {until.isoformat()}")
            raise InvalidRequestError("The history ends before it begins.", [problem])
        seconds = (until - since).total_seconds()
        if step_seconds is None:
            # In whole minutes: as often as is looked.
            step_seconds = max(60, -int(-seconds // (USUAL_POINTS * 60)) * 60)
        if seconds > step_seconds * MOST_POINTS:
            least = -int(-seconds // MOST_POINTS)
            problem = FieldProblem("query:step", f"of this time it must be {least} or more")
            raise InvalidRequestError(f"These are more than {MOST_POINTS} steps.", [problem])
        return cls(since, until, timedelta(seconds=step_seconds))


class HealthHistoryService:
    """Tells what was noted of how subscriptions are read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def history(self, key: str, span: Span, *, only: str | None = None) -> HealthHistoryOut:
        """How a subscription was read, closed or not.

        Raises:
            NotFoundError: there is no such subscription as far as `only`, a consumer, may know.
        """
        async with self._database.transaction() as session:
            await repository.find(session, key, only=only)
            rows = await health_rows.points(
                session, key, since=span.since, until=span.until, step=span.step
            )
        items = []
        for row in rows:
            values = row._asdict()
            state = STATES[values.pop("rank")]
            items.append(HealthPointOut(state=state, **values))
        return HealthHistoryOut(span.since, span.until, int(span.step.total_seconds()), items)
