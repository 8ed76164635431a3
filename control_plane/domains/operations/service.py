"""Asking for operations and asking how they are; `worker` carries them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
from sqlalchemy.exc import IntegrityError

from control_plane.database import Database, integrity_constraint
from control_plane.domains.functions.service import StatusBoard
from control_plane.domains.operations import repository
from control_plane.domains.operations.models import (
    DEAD_LETTERS,
    UNIQUE_TARGET,
    OperationKind,
    OperationRow,
)
from control_plane.domains.operations.schemas import FailureOut, OperationOut, StateName
from control_plane.errors import ConflictError
from control_plane.pages import Page
from control_plane.requests import current_request_id


class OperationService:
    """Stores what is asked for; `wake` has the workers of this control plane look for it."""

    def __init__(self, database: Database, board: StatusBoard, *, wake: Callable[[], None]) -> None:
        self._database = database
        self._board = board
        self._wake = wake

    async def ask(self, kind: OperationKind, function: str) -> OperationOut:
        """Have something done to a function; it outlives this control plane.

        Raises:
            NotFoundError: there is no such function.
            ConflictError: something is being done to it already.
        """
        self._board.describe(function)
        return await self._stored(kind, function, function)

    async def ask_resend(self, asked: Mapping[str, Any]) -> OperationOut:
        """Have dead letters sent again.

        Args:
            asked: which, as `resending.LetterResends` reads it.

        Raises:
            ConflictError: some are being sent already.
        """
        what = OperationKind.RESEND_DEAD_LETTERS
        return await self._stored(what, DEAD_LETTERS, "dead letters", dict(asked))

    async def _stored(
        self, kind: OperationKind, target: str, told: str, asked: dict[str, Any] | None = None
    ) -> OperationOut:
        row = OperationRow(
            id=repository.new_id(),
            kind=kind.value,
            target=target,
            asked=asked,
            correlation_id=current_request_id(),
        )
        try:
            async with self._database.transaction() as session:
                session.add(row)
                await session.flush()
                await session.refresh(row)
        except IntegrityError as error:
            if integrity_constraint(error) == UNIQUE_TARGET:
                raise ConflictError(
                    f"An operation on {told!r} is under way: see /v1/operations?target="
                    f"{target}, and ask again when it has ended."
                ) from None
            raise
        self._wake()
        return _out(row)

    async def get(self, key: str) -> OperationOut:
        """How an operation is; NotFoundError."""
        async with self._database.transaction() as session:
            return _out(await repository.find(session, key))

    async def page(
        self,
        *,
        cursor: str | None,
        limit: int,
        sort: str | None = None,
        target: str | None,
        state: StateName | None,
    ) -> Page[OperationOut]:
        """One page of operations."""
        asked = repository.LISTING.ask(sort, cursor, limit)
        async with self._database.transaction() as session:
            rows = await repository.page(session, asked, target=target, state=state)
        return asked.page([_out(row) for row in rows], rows)


def _out(row: OperationRow) -> OperationOut:
    return OperationOut(
        id=row.id,
        kind=row.kind,
        target=row.target,
        asked=row.asked,
        state=cast(StateName, str(row.state)),
        attempts=row.attempts,
        progress=row.progress,
        result=row.result,
        problem=None if row.problem is None else msgspec.convert(row.problem, FailureOut),
        request_id=row.correlation_id,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )
