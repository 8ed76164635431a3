"""All dead letters that an operation asks for are sent again, each once, whatever breaks off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from litestar.testing import AsyncTestClient
from sqlalchemy import text

from control_plane.database import Database, Lock
from control_plane.domains.dead_letters import resending
from control_plane.domains.dead_letters.letters import LetterId
from control_plane.domains.dead_letters.reading import Wanted
from control_plane.domains.dead_letters.resending import LetterResends
from control_plane.domains.dead_letters.schemas import (
    LetterOut,
    LetterResend,
    LetterResendOut,
    LettersResend,
)
from control_plane.domains.functions.service import StatusBoard
from control_plane.domains.operations.schemas import OperationOut
from control_plane.domains.operations.service import OperationService
from control_plane.domains.ordering.follower import FollowerState
from control_plane.domains.system.metrics import Metrics
from control_plane.errors import (
    BrokerUnavailableError,
    ConflictError,
    DatabaseUnavailableError,
    NotFoundError,
)
from control_plane.pages import Page

PATH = "/v1/dead-letters:resend"
TRY_SECONDS = resending.PATIENCE_SECONDS / 2


class Letters:
    """Letters of one partition; `breaks` has what the next resends of some fail with.

    Each failure takes `TRY_SECONDS` of `now_s`.
    """

    def __init__(self, count: int) -> None:
        self.kept = [f"sequencer:0:7:{number}" for number in range(count)]
        self.wanted: list[Wanted] = []
        self.sent: list[str] = []
        self.before: set[str] = set()
        self.breaks: dict[str, list[Exception]] = {}
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        self.now_s = 0.0

    async def letters(self, wanted: Wanted, *, cursor: str | None, limit: int) -> Page[LetterOut]:
        self.wanted.append(wanted)
        after = None if cursor is None else LetterId.parse(cursor)
        left = [key for key in self.kept if after is None or LetterId.parse(key) > after]
        page = left[:limit]
        return Page([self._told(key) for key in page], page[-1] if len(left) > limit else None)

    def _told(self, key: str) -> LetterOut:
        now, state = datetime.now(UTC), "resent" if key in self.before else "kept"
        told = {"id": key, "function": "sequencer", "partition": 0, "state": state}
        told |= {"reason_code": "empty", "reason": "", "source_topic": "", "source_position": ""}
        told |= {"failed_at": None, "stored_at": now, "size_bytes": 1, "resend": None}
        told |= {"truncated_from_bytes": None, "original_properties": {}}
        return msgspec.convert(told, LetterOut)

    async def resend(self, key: str) -> LetterResendOut:
        if self.meanwhile is not None:
            await self.meanwhile()
        if self.breaks.get(key):
            self.now_s += TRY_SECONDS
            raise self.breaks[key].pop(0)
        repeated = key in self.sent
        if not repeated:
            self.sent.append(key)
        return LetterResendOut(key, repeated, LetterResend("t", "1:2", datetime.now(UTC)))


@pytest.fixture(autouse=True)
def _in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resending, "AT_ONCE", 3)
    monkeypatch.setattr(resending, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def operations(database: Database) -> OperationService:
    return OperationService(database, StatusBoard(), wake=lambda: None)


def resends(database: Database, letters: Letters) -> LetterResends:
    return LetterResends(
        database,
        letters,
        Metrics(FollowerState()),
        interval_seconds=1,
        clock=lambda: letters.now_s,
    )


def counts(sent: int, **others: int) -> dict[str, int]:
    return {"sent": sent, "sent_before": 0, "refused": 0, "gone": 0} | others


async def carried_out(
    database: Database, operations: OperationService, letters: Letters, **asked: Any
) -> OperationOut:
    made = await operations.ask_resend(asked)
    assert await resends(database, letters).look_once()
    return await operations.get(made.id)


async def test_all_are_sent_in_their_order_and_counted(
    database: Database, operations: OperationService
) -> None:
    letters = Letters(8)
    letters.before = {letters.kept[1]}
    letters.breaks = {
        letters.kept[2]: [ConflictError("cut")],
        letters.kept[5]: [NotFoundError("dead letter", "it")],
    }
    ended = await carried_out(database, operations, letters, code="empty")
    assert (ended.kind, ended.target, ended.state) == (
        "dead-letters.resend",
        "dead-letters",
        "done",
    )
    assert ended.asked == {"code": "empty"}
    assert ended.result == counts(5, sent_before=1, refused=1, gone=1)
    assert letters.sent == [letters.kept[number] for number in (0, 3, 4, 6, 7)]
    # Once more: nothing is sent again.
    ended = await carried_out(database, operations, letters)
    assert ended.result == counts(2, sent_before=6)
    assert letters.sent[5:] == [letters.kept[2], letters.kept[5]]
    assert not any(each.function != "sequencer" for each in letters.wanted)


async def test_only_those_that_were_there_when_it_was_asked(
    database: Database, operations: OperationService
) -> None:
    letters, hour = Letters(1), timedelta(hours=1)
    now = datetime.now(UTC)
    for until in (None, now + hour, now - hour):
        asked = msgspec.to_builtins(LettersResend(partition=2, since=now - 2 * hour, until=until))
        ended = await carried_out(database, operations, letters, **asked)
        last = letters.wanted[-1]
        assert (last.partition, last.since) == (2, now - 2 * hour)
        assert last.until == (until if until == now - hour else ended.created_at)


@pytest.mark.parametrize("failures", [1, 2])
async def test_a_broker_that_is_away_for_a_while_is_waited_for(
    database: Database, operations: OperationService, failures: int
) -> None:
    """For so long without an answer: each letter that is sent is one."""
    letters = Letters(5)
    gone = [BrokerUnavailableError("gone")] * failures
    letters.breaks = {letters.kept[1]: gone, letters.kept[2]: gone.copy()}
    ended = await carried_out(database, operations, letters)
    assert (ended.state, ended.result) == ("done", counts(5))
    assert letters.sent == letters.kept


async def test_a_broker_that_stays_away_ends_it_with_what_was_done(
    database: Database, operations: OperationService
) -> None:
    letters = Letters(5)
    letters.breaks = {letters.kept[4]: [BrokerUnavailableError("gone")] * 9}
    ended = await carried_out(database, operations, letters)
    assert (ended.state, ended.result) == ("failed", counts(4))
    assert letters.now_s == 3 * TRY_SECONDS
    assert ended.problem is not None
    assert "gone Ask again" in ended.problem.detail


async def test_what_a_control_plane_left_is_gone_on_with(
    database: Database, operations: OperationService
) -> None:
    letters = Letters(7)
    letters.breaks = {letters.kept[4]: [DatabaseUnavailableError("gone")]}
    made = await operations.ask_resend({})
    with pytest.raises(DatabaseUnavailableError):
        await resends(database, letters).look_once()
    left = await operations.get(made.id)
    assert (left.state, left.result, left.progress) == (
        "running",
        counts(3),
        "3 sent, 0 sent before",
    )
    assert await resends(database, letters).look_once()
    ended = await operations.get(made.id)
    # The one behind the last place that was noted is told as sent before.
    assert (ended.state, ended.attempts, ended.result) == ("done", 2, counts(6, sent_before=1))
    assert letters.sent == letters.kept


async def test_whoever_has_lost_the_lock_sends_no_more(
    database: Database, operations: OperationService
) -> None:
    """PostgreSQL may end the session that has it: then another control plane goes on."""
    letters, ended = Letters(7), []

    async def end_the_session() -> None:
        if len(letters.sent) == 2:
            async with database.transaction() as session:
                query = text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                    " AND classid = 0 AND objid = :key AND granted AND database ="
                    " (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
                ended.extend(await session.scalars(query, {"key": int(Lock.DEAD_LETTERS)}))

    letters.meanwhile = end_the_session
    made = await operations.ask_resend({})
    with pytest.raises(DatabaseUnavailableError):
        await resends(database, letters).look_once()
    assert (ended, letters.sent) == ([True], letters.kept[:3])
    assert await resends(database, letters).look_once()
    assert ((await operations.get(made.id)).state, letters.sent) == ("done", letters.kept)


async def test_one_at_a_time_and_none_without_being_asked(
    database: Database, operations: OperationService
) -> None:
    letters = Letters(1)
    assert await resends(database, letters).look_once()
    assert letters.sent == []
    await operations.ask_resend({})
    with pytest.raises(ConflictError, match="'dead letters' is under way"):
        await operations.ask_resend({})


async def entries(database: Database) -> Sequence[Any]:
    async with database.transaction() as session:
        return (await session.execute(text("SELECT kind, asked FROM operations"))).all()


async def test_over_http_it_is_an_operation(
    client: AsyncTestClient[Any], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resending, "PAUSE_SECONDS", 3600.0)  # the broker is down
    asked = {"code": "wrong_schema", "since": "2026-01-31T09:30:00Z"}
    answers = [
        await client.post(PATH, json=asked, headers={"Idempotency-Key": "once"}) for _ in "ab"
    ]
    assert [answer.status_code for answer in answers] == [202, 202], answers[0].text
    operation = answers[0].json()
    assert answers[0].headers["location"] == f"/v1/operations/{operation['id']}"
    assert operation["asked"] == asked
    assert [tuple(row) for row in await entries(database)] == [("dead-letters.resend", asked)]
    assert (await client.post(PATH, json={})).status_code == 409
    for wrong in ({"since": "2026-01-31T09:30:00"}, {"partition": -1}, {"function": "distributor"}):
        assert (await client.post(PATH, json=wrong)).status_code == 400
