"""Findings are stored exactly once with the position behind them, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from ordering_events import closed, event, opened
from sqlalchemy import func, select, text, update

from control_plane.broker import Broker
from control_plane.database import Database, Lock
from control_plane.domains.ordering import repository
from control_plane.domains.ordering.follower import OrderingFollower
from control_plane.domains.ordering.intake import Intake, Place
from control_plane.domains.ordering.models import Finding, FindingCount, Gap, Poison
from control_plane.domains.ordering.repository import OTHER_SOURCES, Progress
from control_plane.errors import DatabaseUnavailableError
from marketdata.ordering import OrderingEvent, encode_ordering_events

START = datetime(2026, 1, 1, tzinfo=UTC)


async def store(
    database: Database,
    entry: int,
    *events: OrderingEvent,
    after: int | None = None,
    payload: bytes | None = None,
) -> bool:
    """Store one message of partition 1; whether the position was the expected one."""
    intake = Intake()
    place = Place(7, entry)
    intake.take(1, place, encode_ordering_events(list(events)) if payload is None else payload)
    expected = None if after is None else Place(7, after)
    async with database.transaction() as session:
        moved = await repository.advance(session, Progress(1, place, START, 1), expected, intake)
        if moved:
            await repository.store(session, intake)
    return moved


async def gaps(database: Database) -> list[Gap]:
    async with database.transaction() as session:
        return list(await session.scalars(select(Gap).order_by(Gap.id)))


async def counts(database: Database) -> dict[tuple[str, str], int]:
    async with database.transaction() as session:
        rows = await session.scalars(select(FindingCount))
        return {(row.type, row.outcome): row.findings for row in rows}


async def rows(database: Database, table: type[Finding | Poison | Gap]) -> int:
    async with database.transaction() as session:
        return int(await session.scalar(select(func.count()).select_from(table)) or 0)


async def test_a_gap_opens_is_filled_in_part_and_closes(database: Database) -> None:
    await store(database, 1, opened(1, sequence=42))
    (gap,) = await gaps(database)
    assert (gap.state, gap.first, gap.last, gap.missing, gap.remaining) == ("open", 10, 19, 10, 10)
    assert (gap.sequence, gap.partition, gap.closed_at) == (42, 1, None)
    await store(
        database,
        2,
        closed(2, gap.id, first=10, last=11, remaining=8),
        closed(3, gap.id, first=12, last=12, remaining=7, closed_by="late_arrival"),
        after=1,
    )
    (gap,) = await gaps(database)
    assert (gap.state, gap.remaining, gap.closed_by) == ("open", 7, None)
    await store(database, 3, closed(4, gap.id, first=13, last=19), after=2)
    (gap,) = await gaps(database)
    assert (gap.state, gap.remaining, gap.closed_by) == ("closed", 0, "fill")
    assert gap.closed_at is not None
    assert await counts(database) == {
        ("gap_opened", ""): 1,
        ("gap_closed", "partial"): 2,
        ("gap_closed", "fill"): 1,
    }


async def test_a_gap_may_open_and_close_in_one_message(database: Database) -> None:
    await store(database, 1, opened(1), closed(2, "1:70:1"), opened(3))
    assert [gap.state for gap in await gaps(database)] == ["closed", "open"]


async def test_a_gap_given_up_is_closed_with_what_was_still_missing(database: Database) -> None:
    await store(database, 1, opened(1), closed(2, "1:70:1", remaining=4, closed_by="reset"))
    (gap,) = await gaps(database)
    assert (gap.state, gap.remaining, gap.closed_by) == ("closed", 4, "reset")


async def test_a_closing_whose_opening_is_not_known_stays_a_finding(database: Database) -> None:
    assert await store(database, 1, closed(1, "0:1:1"))
    assert await gaps(database) == []
    assert await rows(database, Finding) == 1


async def test_a_finding_that_sums_up_many_is_kept_and_opens_no_gap(database: Database) -> None:
    nobody = {"instrument": "", "source": "", "first": 0, "last": 0, "reason": "12 further"}
    sums = [
        event(1, type="gap_opened", events=12, **nobody),
        event(2, type="gap_closed", events=3, **nobody),
        event(3, type="epoch_changed", events=0, **nobody),
    ]
    await store(database, 1, *sums)
    assert await gaps(database) == []
    assert await rows(database, Finding) == 3
    assert await rows(database, Poison) == 0


async def test_what_was_stored_before_is_not_stored_or_counted_again(database: Database) -> None:
    message = (opened(1), closed(2, "1:70:1", remaining=5), event(3), event(3))
    await store(database, 1, *message)
    await store(database, 2, *message, after=1)
    await store(database, 3, closed(4, "1:70:1"), after=2)
    await store(database, 4, *message, after=3)
    (gap,) = await gaps(database)
    assert gap.state == "closed"
    assert await rows(database, Finding) == 4
    assert sum((await counts(database)).values()) == 4


async def test_a_position_that_has_moved_stores_nothing(database: Database) -> None:
    assert await store(database, 1, event(1))
    assert not await store(database, 2, event(2))
    assert not await store(database, 2, event(2), after=0)
    assert await store(database, 2, event(2), after=1)
    assert await rows(database, Finding) == 2
    async with database.transaction() as session:
        row = await repository.position(session, 1)
    assert row is not None
    assert (row.ledger_id, row.entry_id, row.batch_index, row.messages) == (7, 2, -1, 2)


async def test_of_two_that_store_the_same_at_once_one_does(database: Database) -> None:
    first = [store(database, 1, *(event(n) for n in range(500))) for _ in range(4)]
    assert sorted(await asyncio.gather(*first)) == [False, False, False, True]
    then = [store(database, 2, *(event(n) for n in range(900)), after=1) for _ in range(4)]
    assert sorted(await asyncio.gather(*then)) == [False, False, False, True]
    assert await rows(database, Finding) == 900
    assert await counts(database) == {("reversal", "passed"): 900}


async def test_numbers_of_all_64_bits_come_back_as_they_were(database: Database) -> None:
    top = 2**64 - 1
    await store(database, 1, opened(1, first=1, last=top, events=top, sequence=top))
    (gap,) = await gaps(database)
    assert (gap.first, gap.last, gap.missing, gap.sequence) == (1, top, top, top)


async def test_poison_is_kept_once_with_its_reason(database: Database) -> None:
    await store(database, 1, payload=b"no findings")
    await store(database, 2, event(1), event(2, partition=9), after=1)
    async with database.transaction() as session:
        kept = list(await session.scalars(select(Poison).order_by(Poison.entry_id)))
        position = await repository.position(session, 1)
    assert [(row.entry_id, row.finding) for row in kept] == [(1, -1), (2, 1)]
    assert kept[0].payload == b"no findings"
    assert all(row.reason for row in kept)
    assert position is not None
    assert position.poison == 2
    assert await rows(database, Finding) == 1


async def test_what_is_old_goes_but_open_gaps_and_counts_stay(database: Database) -> None:
    await store(database, 1, opened(1), opened(2), closed(3, "1:70:2"), event(4))
    await store(database, 2, payload=b"?", after=1)
    now = 1_000 * int(datetime.now(UTC).timestamp() * 1_000_000)
    await store(database, 3, event(5, detected_at_ns=now), after=2)
    async with database.transaction() as session:
        await session.execute(update(Poison).values(seen_at=START))
    broker = Broker("pulsar://127.0.0.1:1", timeout_seconds=1)
    gone = await OrderingFollower(database, broker, retention_days=1).sweep()
    assert gone == 6
    assert [gap.id for gap in await gaps(database)] == ["1:70:1"]
    assert await rows(database, Finding) == 1
    assert await rows(database, Poison) == 0
    assert sum((await counts(database)).values()) == 5


async def test_sources_beyond_the_first_share_a_label(database: Database) -> None:
    await store(database, 1, *(opened(n, source=f"s{n:03}") for n in range(60)))
    async with database.transaction() as session:
        await session.execute(text("UPDATE ordering_counts SET first_at = now()"))
        totals = await repository.totals(session)
    assert len(totals.counts) == len(totals.open_gaps) == 51
    rest = {row.source: row for row in totals.open_gaps}[OTHER_SOURCES]
    assert (rest.gaps, rest.missing) == (10, 100)
    assert sum(row.findings for row in totals.counts) == 60


async def test_one_session_holds_the_lock_until_it_ends(database: Database) -> None:
    async with database.held(Lock.ORDERING) as first:
        assert first is not None
        await first()
        async with database.held(Lock.ORDERING) as second:
            assert second is None
    async with database.held(Lock.ORDERING) as third:
        assert third is not None


async def test_the_lock_of_a_session_that_was_ended_is_free_and_its_holder_is_told(
    database: Database,
) -> None:
    async with database.held(Lock.ORDERING) as held:
        assert held is not None
        async with database.transaction() as session:
            await session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks"
                    " WHERE locktype = 'advisory' AND objid = :key"
                ),
                {"key": int(Lock.ORDERING)},
            )
        async with database.held(Lock.ORDERING) as other:
            assert other is not None
        with pytest.raises(DatabaseUnavailableError):
            await held()
