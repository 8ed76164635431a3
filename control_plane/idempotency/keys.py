"""Keys in PostgreSQL: claimed in the transaction of the change, answered afterwards, forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, event, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.errors import ConflictError
from control_plane.idempotency.models import IdempotencyKey

KEPT = timedelta(hours=24)
PURGED_AT_ONCE = 100


class KeyTakenError(ConflictError):
    """The same request is carried out elsewhere at this moment, or was meanwhile."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: status, headers and body."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass(slots=True)
class Claim:
    """One request's right to be carried out under a key.

    `make` is called first in every transaction of the request that may change something: whoever
    commits first has the key, and all others wait for that in PostgreSQL and are refused.
    """

    caller: str
    key: str
    fingerprint: bytes
    request_id: str
    committed: bool = False
    taken: bool = False

    async def make(self, session: AsyncSession) -> None:
        """Claim the key in a transaction; KeyTakenError when somebody else has it."""
        if self.committed:
            return
        values: dict[str, Any] = {
            "caller": self.caller,
            "key": self.key,
            "fingerprint": self.fingerprint,
            "request_id": self.request_id,
        }
        forgotten = {"status": None, "headers": None, "body": None}
        statement = (
            insert(IdempotencyKey)
            .values(**values)
            .on_conflict_do_update(
                index_elements=[IdempotencyKey.caller, IdempotencyKey.key],
                set_={**values, **forgotten, "created_at": func.clock_timestamp()},
                where=IdempotencyKey.created_at < func.now() - KEPT,
            )
            .returning(IdempotencyKey.key)
        )
        if (await session.execute(statement)).one_or_none() is None:
            self.taken = True
            raise KeyTakenError("A request with this Idempotency-Key is under way.")
        event.listen(session.sync_session, "after_commit", self._note, once=True)

    def _note(self, _session: object) -> None:
        self.committed = True


async def find(session: AsyncSession, caller: str, key: str) -> IdempotencyKey | None:
    """What is known of a key."""
    return await session.scalar(
        select(IdempotencyKey).where(
            IdempotencyKey.caller == caller,
            IdempotencyKey.key == key,
            IdempotencyKey.created_at >= func.now() - KEPT,
        )
    )


async def store(session: AsyncSession, claim: Claim, answer: Answer) -> None:
    """Keep the answer to a request, and forget some keys whose time is over."""
    await session.execute(
        update(IdempotencyKey)
        .where(IdempotencyKey.caller == claim.caller, IdempotencyKey.key == claim.key)
        .values(
            status=answer.status,
            headers=[[part.decode("latin-1") for part in header] for header in answer.headers],
            body=answer.body,
        )
    )
    old = (
        select(IdempotencyKey.caller, IdempotencyKey.key)
        .where(IdempotencyKey.created_at < func.now() - KEPT)
        .limit(PURGED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    await session.execute(
        delete(IdempotencyKey)
        .where(tuple_(IdempotencyKey.caller, IdempotencyKey.key).in_(old))
        .execution_options(synchronize_session=False)
    )


def stored_answer(row: IdempotencyKey) -> Answer | None:
    """The answer to a request; None while it is not known."""
    if row.status is None or row.headers is None or row.body is None:
        return None
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in row.headers]
    return Answer(row.status, headers, row.body)
