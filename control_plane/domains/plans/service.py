"""Reading plans: lists, documents, and how far each has been rolled out."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from control_plane.database import Database
from control_plane.domains.functions.schemas import StatusReport
from control_plane.domains.functions.service import StatusBoard, moment
from control_plane.domains.plans import repository
from control_plane.domains.plans.models import PlanRow
from control_plane.domains.plans.schemas import (
    InstanceRollout,
    PlanDetail,
    PlanOut,
    Rollout,
    RolloutOut,
)
from control_plane.errors import NotFoundError
from control_plane.pages import Page


class PlanService:
    """Plans and their rollouts."""

    def __init__(self, database: Database, board: StatusBoard) -> None:
        self._database = database
        self._board = board

    async def page(self, *, cursor: str | None, limit: int, sort: str | None) -> Page[PlanOut]:
        """One page of plans."""
        asked = repository.LISTING.ask(sort, cursor, limit)
        async with self._database.transaction() as session:
            rows = await repository.page(session, asked)
            published = await repository.newest_published(session)
        return asked.page([PlanOut(**self._fields(row, published)) for row in rows], rows)

    async def get(self, number: int) -> PlanDetail:
        """One plan with its views."""
        async with self._database.transaction() as session:
            row = await repository.find(session, number)
            published = await repository.newest_published(session)
        return self._detail(row, published)

    async def current(self) -> PlanDetail:
        """The newest published plan: what the functions run or are about to run."""
        async with self._database.transaction() as session:
            published = await repository.newest_published(session)
            if not published:
                raise NotFoundError("plan", "current")
            row = await repository.find(session, published)
        return self._detail(row, published)

    async def rollouts(self, *, cursor: str | None, limit: int) -> Page[RolloutOut]:
        """One page of the rollouts of plans, newest first."""
        asked = repository.LISTING.ask(None, cursor, limit)
        async with self._database.transaction() as session:
            rows = await repository.page(session, asked)
            published = await repository.newest_published(session)
        return asked.page([self._rollout_out(row, published) for row in rows], rows)

    async def rollout(self, number: int) -> RolloutOut:
        """The rollout of one plan."""
        async with self._database.transaction() as session:
            row = await repository.find(session, number)
            published = await repository.newest_published(session)
        return self._rollout_out(row, published)

    def _rollout_out(self, row: PlanRow, published: int) -> RolloutOut:
        rollout = self._rollout(row, published)
        reports = [] if rollout.state == "superseded" else self._board.plan_reports()
        return RolloutOut(
            plan=row.number,
            created_at=row.created_at,
            published_at=row.published_at,
            applied_at=row.applied_at,
            rolled_back_to=row.rolled_back_to,
            instances=[self._instance(report, row.number) for report in reports],
            **msgspec.structs.asdict(rollout),
        )

    def _instance(self, report: StatusReport, number: int) -> InstanceRollout:
        state: Literal["applied", "behind"] = "applied" if report.plan >= number else "behind"
        return InstanceRollout(
            function=report.function,
            instance=report.instance,
            state=state if self._board.is_fresh(report) else "silent",
            plan=report.plan,
            reported_at=moment(report.reported_at_ns),
            last_error=report.last_error,
        )

    def _detail(self, row: PlanRow, published: int) -> PlanDetail:
        views = msgspec.json.decode(row.document)["views"]
        return PlanDetail(views=views, **self._fields(row, published))

    def _fields(self, row: PlanRow, published: int) -> dict[str, Any]:
        return {
            "number": row.number,
            "digest": row.digest,
            "view_count": row.view_count,
            "correlation_id": row.correlation_id,
            "created_at": row.created_at,
            "published_at": row.published_at,
            "rolled_back_to": row.rolled_back_to,
            "rollout": self._rollout(row, published),
        }

    def _rollout(self, row: PlanRow, published: int) -> Rollout:
        progress = self._board.progress(row.number)
        detail = f"applied by {progress.applied} of {progress.expected}"
        if row.number < published:
            return Rollout("superseded", progress.applied, progress.expected, detail)
        if row.published_at is None:
            return Rollout("pending", 0, progress.expected, "not published yet")
        state = "applied" if progress.complete else "rolling"
        return Rollout(state, progress.applied, progress.expected, detail)  # type: ignore[arg-type]
