"""Reads and verifies the audit log, and writes what is no change of a row: refusals and repairs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.acting import NOBODY, Actor, Refusal, component
from control_plane.database import Database, Lock, try_lock
from control_plane.domains.audit import repository
from control_plane.domains.audit.chain import Break, Head, follow
from control_plane.domains.audit.models import AuditEntry
from control_plane.domains.audit.refused_events import RefusedEvents
from control_plane.domains.audit.repository import Wanted
from control_plane.domains.audit.schemas import (
    AuditEntryOut,
    BreakOut,
    HeadOut,
    Outcome,
    VerificationOut,
)
from control_plane.domains.events.repository import record
from control_plane.errors import FieldProblem, InvalidRequestError, UnavailableError
from control_plane.pages import Page

SEALED_AT_ONCE = 1000
READ_AT_ONCE = 2000
MOST_REFUSALS = 200
"""Different ones told one by one in `REFUSALS_SECONDS`, of callers who are known and of others
each; of the rest only the number."""
REFUSALS_SECONDS = 60.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Repair:
    """Something that the reconciler did to the cluster, or could not do (`failure`)."""

    action: str
    resource: str
    resource_id: str
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    failure: str = ""


RECONCILER = component("reconciler")


class AuditService:
    """The audit log. `run` is the task that seals it; all control planes have one."""

    def __init__(self, database: Database, *, seal_seconds: float) -> None:
        self._database = database
        self._seal_seconds = seal_seconds
        self._refusals: dict[Refusal, tuple[Refusal, int]] = {}
        self._untold = 0
        self._told: Counter[bool] = Counter()
        self._told_until = 0.0
        self._events = RefusedEvents()
        self._failure: str | None = None

    async def page(
        self, wanted: Wanted, *, cursor: str | None, limit: int, sort: str | None
    ) -> Page[AuditEntryOut]:
        """One page of entries."""
        asked = repository.LISTING.ask(sort, cursor, limit)
        async with self._database.transaction() as session:
            rows = await repository.page(session, asked, wanted)
        return asked.page([_out(row) for row in rows], rows)

    async def verify(
        self, *, after: int = 0, limit: int, noted: Head | None = None
    ) -> VerificationOut:
        """Check up to `limit` entries behind a place whose entry is taken as it stands.

        Args:
            noted: the head at an earlier time, kept elsewhere: the entry there must be the same.

        Raises:
            InvalidRequestError: there is no entry at `after`.
        """
        async with self._database.transaction() as session:
            # One state of the log, whatever is sealed meanwhile.
            await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            head = await repository.head(session)
            at = await _start(session, after)
            broken = await _differs(session, noted)
            checked = 0
            more = True
            while broken is None and more and checked < limit:
                most = min(READ_AT_ONCE, limit - checked)
                read = await repository.links(session, after=at.sequence, limit=most)
                at, broken = follow(at, read)
                checked += len(read)
                more = len(read) == most
            if broken is None and not more and at != head:
                broken = Break(at.sequence + 1, "missing: the chain does not end at its head")
            unsealed, since = await repository.unsealed(session)
            silenced = await repository.silenced(session)
        return VerificationOut(
            holds=broken is None and not silenced,
            checked=checked,
            verified=_head(at),
            next_after=at.sequence if broken is None and more else None,
            broken=BreakOut(broken.sequence, broken.reason) if broken else None,
            head=_head(head),
            unsealed=unsealed,
            unsealed_since=since,
            silenced=silenced,
        )

    def refused(self, refusal: Refusal) -> None:
        """Note an attempt that was refused; it is written at the next run.

        Equal ones are told once: with the request id of the first, and how many they were. Those of
        nobody who is known are equal whatever the path, which a stranger may choose.
        """
        self._events.count(refusal)
        self._note(refusal, 1)

    def _note(self, refusal: Refusal, times: int) -> None:
        known = refusal.actor.actor != NOBODY
        equal = replace(refusal, actor=replace(refusal.actor, request_id=""))
        if not known:
            equal = replace(equal, path="")
        if time.monotonic() >= self._told_until:
            self._told.clear()
            self._told_until = time.monotonic() + REFUSALS_SECONDS
        if equal in self._refusals:
            first, before = self._refusals[equal]
            self._refusals[equal] = first, before + times
        elif max(len(self._refusals), self._told[known]) < MOST_REFUSALS:
            self._refusals[equal] = refusal, times
            self._told[known] += 1
        else:
            self._untold += times

    async def repaired(self, repairs: Iterable[Repair]) -> None:
        """Write what the reconciler did."""
        entries = [(RECONCILER, _repair(each)) for each in repairs]
        if entries:
            async with self._database.transaction() as session:
                await repository.add(session, entries)

    async def run(self) -> None:
        """Write refusals and seal entries for ever; a failure is logged and tried again."""
        while True:
            await asyncio.sleep(self._seal_seconds)
            failure = None
            for part in (self.write_refusals, self.tell_refusals, self._seal_all):
                try:
                    await part()
                except UnavailableError as error:
                    failure = str(error)
                except Exception:
                    log.exception("the audit log is behind")
            if failure is not None and failure != self._failure:
                log.warning("the audit log waits", reason=failure)
            self._failure = failure

    async def close(self) -> None:
        """Write what was noted; what cannot be written is lost, but for its log lines."""
        try:
            await self.write_refusals()
        except UnavailableError as error:
            log.warning("refusals not written", reason=str(error), lost=len(self._refusals))

    async def write_refusals(self) -> None:
        """Write the refusals noted so far."""
        if not (self._refusals or self._untold):
            return
        # Those that come from here on are the next run's.
        noted, self._refusals = self._refusals, {}
        untold, self._untold = self._untold, 0
        entries = [_refusal(first, times) for first, times in noted.values()]
        if untold:
            entries.append((component("audit"), _request("*", {"times": untold})))
        written = False
        try:
            async with self._database.transaction() as session:
                await repository.add(session, entries)
            written = True
        finally:
            if not written:
                later, self._refusals = self._refusals, noted
                self._untold += untold
                for first, times in later.values():
                    self._note(first, times)

    async def tell_refusals(self) -> None:
        """Tell refusals as events, those of a minute together.

        Where the database is away they are lost as events, not as entries.
        """
        changes = self._events.take()
        if changes:
            async with self._database.transaction() as session:
                await record(session, *changes)

    async def _seal_all(self) -> None:
        while await self.seal() == SEALED_AT_ONCE:
            pass

    async def seal(self) -> int:
        """Chain some entries, unless another control plane does; gives how many."""
        async with self._database.transaction() as session:
            if not await try_lock(session, Lock.AUDIT):
                return 0
            sealed, head = await repository.seal_some(session, SEALED_AT_ONCE)
        if sealed:
            # Outside the database: what it later says of this place can be compared.
            log.info("audit log sealed", sequence=head.sequence, digest=head.digest.hex())
        return sealed


async def _start(session: AsyncSession, after: int) -> Head:
    """The head behind which a verification begins; InvalidRequestError where there is no entry."""
    if not after:
        return Head()
    digest = await repository.digest_at(session, after)
    if digest is None:
        raise InvalidRequestError(
            "There is no sealed entry to begin behind.",
            [FieldProblem("query:after", "use `next_after`, or 0 to begin anew")],
        )
    return Head(after, digest)


async def _differs(session: AsyncSession, noted: Head | None) -> Break | None:
    """What is wrong with the entry at a head that was noted before; None for nothing."""
    if noted is None or noted == Head():
        return None
    there = await repository.digest_at(session, noted.sequence)
    if there == noted.digest:
        return None
    what = "missing" if there is None else "changed"
    return Break(noted.sequence, f"{what}: not the entry that was noted at the time")


def _refusal(first: Refusal, times: int) -> tuple[Actor, dict[str, Any]]:
    detail: dict[str, Any] = {"status": first.status, "times": times}
    if first.reason:
        detail["reason"] = first.reason
    return first.actor, _request(first.path, detail)


def _repair(done: Repair) -> dict[str, Any]:
    return {
        "action": done.action,
        "resource": done.resource,
        "resource_id": done.resource_id,
        "outcome": "failed" if done.failure else "done",
        "before": done.before,
        "after": done.after,
        "detail": {"failure": done.failure} if done.failure else None,
    }


def _request(path: str, detail: dict[str, Any]) -> dict[str, Any]:
    return {
        "action": "request",
        "resource": "requests",
        "resource_id": path,
        "outcome": "refused",
        "detail": detail,
    }


def _head(head: Head) -> HeadOut:
    return HeadOut(head.sequence, head.digest.hex())


def _out(row: AuditEntry) -> AuditEntryOut:
    return AuditEntryOut(
        id=row.id,
        recorded_at=row.recorded_at,
        actor=row.actor,
        role=row.role,
        token_id=row.token_id,
        operation=row.operation,
        request_id=row.request_id,
        address=row.address,
        database_user=row.database_user,
        action=row.action,
        resource=row.resource,
        resource_id=row.resource_id,
        outcome=cast(Outcome, row.outcome),
        before=row.before,
        after=row.after,
        detail=row.detail,
        sequence=row.sequence,
        digest=row.digest.hex() if row.digest else None,
    )
