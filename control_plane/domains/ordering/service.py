"""Questions about order: gaps and findings from the database, instruments from the log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from sqlalchemy import ColumnElement, func

from control_plane.broker import Broker
from control_plane.database import Database
from control_plane.domains.ordering import repository
from control_plane.domains.ordering.instrument import SourceStand, read_instrument
from control_plane.domains.ordering.intake import missing_ranges, moment
from control_plane.domains.ordering.models import Finding, Gap, GapState
from control_plane.domains.ordering.schemas import (
    FindingOut,
    GapOut,
    InstrumentOut,
    ResendOut,
    ResendRange,
    SourceOut,
)
from control_plane.errors import (
    ConflictError,
    NotFoundError,
)
from control_plane.listing import equal
from control_plane.pages import Page
from control_plane.topic_reads import TopicReads
from marketdata.ordering import ResendRequest, encode_resend_request
from marketdata.topics import RESEND

MAX_OPEN_GAPS = 100
MAX_RANGES = 100

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a list of gaps or findings is narrowed to; None does not narrow."""

    kind: str | None = None
    source: str | None = None
    instrument: str | None = None
    partition: int | None = None
    since: datetime | None = None

    def conditions(self, table: type[Gap | Finding]) -> list[ColumnElement[bool]]:
        """The selection as conditions; InvalidRequestError for a time without offset."""
        kind = table.state if issubclass(table, Gap) else table.type
        since = table.opened_at if issubclass(table, Gap) else table.detected_at
        narrowed = equal(
            (kind, self.kind),
            (table.source, self.source),
            (table.instrument, self.instrument),
            (table.partition, self.partition),
        )
        return narrowed if self.since is None else [*narrowed, since >= self.since]


class OrderingService:
    """Answers questions about order, and asks sources again."""

    def __init__(self, database: Database, broker: Broker, *, timeout_seconds: float) -> None:
        self._database = database
        self._broker = broker
        self._reads = TopicReads(broker, "The log", timeout_seconds=timeout_seconds)

    def close(self) -> None:
        """End the threads that read the log."""
        self._reads.close()

    async def gaps(
        self, selection: Selection, *, cursor: str | None, limit: int, sort: str | None
    ) -> Page[GapOut]:
        """One page of gaps."""
        asked = repository.GAPS.ask(sort, cursor, limit)
        conditions = selection.conditions(Gap)
        async with self._database.transaction() as session:
            rows = await repository.page_of_gaps(session, asked, conditions)
        return asked.page([gap_out(row) for row in rows], rows)

    async def gap(self, key: str) -> GapOut:
        """One gap; NotFoundError."""
        async with self._database.transaction() as session:
            return gap_out(await repository.find_gap(session, key))

    async def findings(
        self, selection: Selection, *, cursor: str | None, limit: int, sort: str | None
    ) -> Page[FindingOut]:
        """One page of findings."""
        asked = repository.FINDINGS.ask(sort, cursor, limit)
        conditions = selection.conditions(Finding)
        async with self._database.transaction() as session:
            rows = await repository.page_of_findings(session, asked, conditions)
        return asked.page([finding_out(row) for row in rows], rows)

    async def instrument(self, instrument: str) -> InstrumentOut:
        """Where an instrument stands now.

        Raises:
            NotFoundError: no event of it was ever sequenced.
            BrokerUnavailableError: the log cannot be read.
        """
        reading = await self._reads.read(
            lambda client, seconds: read_instrument(client, instrument, timeout_s=seconds)
        )
        now = datetime.now(UTC)
        stand = reading.stand
        if not stand.sequence and not stand.sources:
            raise NotFoundError(
                "instrument",
                instrument,
                hint="no event of it has been sequenced; names are case-sensitive",
            )
        async with self._database.transaction() as session:
            conditions = [Gap.instrument == instrument, Gap.state == GapState.OPEN]
            asked = repository.GAPS.ask(None, None, MAX_OPEN_GAPS)
            rows = await repository.page_of_gaps(session, asked, conditions)
            count = await repository.count_open(session, instrument)
        at = None if stand.ts_sequenced_ns is None else moment(stand.ts_sequenced_ns)
        return InstrumentOut(
            instrument=instrument,
            partition=reading.partition,
            epoch=stand.epoch,
            sequence=stand.sequence,
            sequenced_at=at,
            sequence_age_seconds=None if at is None else _age(at, now),
            sources=[_source_out(name, stand.sources[name], now) for name in sorted(stand.sources)],
            open_gap_count=count,
            open_gaps=asked.page([gap_out(row) for row in rows], rows).items,
            as_of=now,
            complete=reading.complete,
        )

    async def resend(self, key: str) -> ResendOut:
        """Ask the source of a gap for what is still missing.

        Raises:
            NotFoundError: there is no such gap.
            ConflictError: it is closed.
            BrokerUnavailableError: nothing, or not all of it, was asked for.
        """
        async with self._database.transaction() as session:
            gap = await repository.find_gap(session, key, for_update=True)
            if gap.state == GapState.CLOSED:
                raise ConflictError(
                    f"Gap {key!r} was closed by {gap.closed_by}; nothing of it is missing."
                )
            ranges = _still_missing(gap, await repository.closings_of(session, key))
            now_ns = time.time_ns()
            for first, last in ranges:
                request = ResendRequest(gap.id, gap.source, gap.instrument, first, last, now_ns)
                payload = encode_resend_request(request)
                await self._broker.publish(RESEND, payload, key=f"{gap.source}/{gap.instrument}")
            gap.resend_requests += 1
            gap.resend_requested_at = func.clock_timestamp()
        log.info("resend requested", gap=key, source=gap.source, ranges=len(ranges))
        return ResendOut(
            gap_id=gap.id,
            source=gap.source,
            instrument=gap.instrument,
            requested_at=moment(now_ns),
            ranges=[ResendRange(first, last) for first, last in ranges],
        )


def gap_out(row: Gap) -> GapOut:
    """A row as it travels."""
    return GapOut(**{name: getattr(row, name) for name in GapOut.__struct_fields__})


def finding_out(row: Finding) -> FindingOut:
    """A row as it travels."""
    return FindingOut(**{name: getattr(row, name) for name in FindingOut.__struct_fields__})


def _source_out(name: str, stand: SourceStand, now: datetime) -> SourceOut:
    ts_event = moment(stand.ts_event_ns)
    return SourceOut(name, stand.source_sequence, ts_event, _age(ts_event, now))


def _age(then: datetime, now: datetime) -> float:
    return round((now - then).total_seconds(), 3)


def _still_missing(gap: Gap, came: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What to ask for: the ranges that have not come.

    The whole gap where the findings of what came are deleted already or the ranges too many: its
    source then sends some events twice, and its policy says what becomes of them.
    """
    ranges = missing_ranges(gap.first, gap.last, came)
    known = sum(last - first + 1 for first, last in ranges) == gap.remaining
    return ranges if known and len(ranges) <= MAX_RANGES else [(gap.first, gap.last)]
