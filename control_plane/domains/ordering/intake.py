"""From messages of `control/ordering` to rows: pure, and nothing is lost on the way.

Whatever the bytes, a message becomes findings that the tables can hold and poison with a reason;
a bad finding does not take its neighbours along.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from marketdata.ordering import OrderingEvent, decode_ordering_events

MAX_POISON_BYTES = 65_536
MAX_TEXT = 2_000
GAPS_NAMED = 10
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WHOLE_MESSAGE = -1

# What the columns hold.
_BITS = {
    "first": 64,
    "last": 64,
    "events": 64,
    "sequence": 64,
    "remaining": 64,
    "position": 63,
    "ts_event_ns": 63,
    "detected_at_ns": 63,
    "epoch": 32,
}


class Place(NamedTuple):
    """Where a message stands in its partition; compares in log order."""

    ledger_id: int
    entry_id: int
    batch_index: int = -1


@dataclass(frozen=True, slots=True)
class PoisonRow:
    """What could not be stored; the members are columns of `ordering_poison`."""

    partition: int
    ledger_id: int
    entry_id: int
    batch_index: int
    finding: int
    reason: str
    payload: bytes
    payload_bytes: int


class FindingRow(msgspec.Struct, frozen=True):
    """One row of `ordering_findings`."""

    id: str
    type: str
    partition: int
    position: int
    instrument: str
    source: str
    first: int
    last: int
    events: int
    sequence: int
    epoch: int
    ts_event: datetime
    detected_at: datetime
    gap_id: str
    closed_by: str
    remaining: int
    action: str
    reason: str

    @property
    def closes(self) -> bool:
        """Whether nothing more is expected for the gap: all came, or it was given up."""
        return bool(self.closed_by) and (self.remaining == 0 or self.closed_by == "reset")

    @property
    def outcome(self) -> str:
        """What became of it, as it is counted."""
        if self.type == "gap_closed" and self.closed_by:
            return self.closed_by if self.closes else "partial"
        return self.action


@dataclass(slots=True)
class Intake:
    """What some adjacent messages of one partition hold, in their order."""

    findings: list[FindingRow] = field(default_factory=list)
    poison: list[PoisonRow] = field(default_factory=list)

    def take(self, partition: int, place: Place, payload: bytes) -> None:
        """Add a message; never raises for what is in it."""
        try:
            events = decode_ordering_events(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.refuse(partition, place, f"no array of findings: {error}", payload)
            return
        for index, event in enumerate(events):
            reason = _unusable(event, partition)
            if reason is None:
                self.findings.append(_row(event))
            else:
                self.refuse(partition, place, reason, msgspec.json.encode(event), finding=index)

    def refuse(
        self,
        partition: int,
        place: Place,
        reason: str,
        payload: bytes,
        *,
        finding: int = WHOLE_MESSAGE,
    ) -> None:
        """Keep what cannot be stored."""
        cut, size = payload[:MAX_POISON_BYTES], len(payload)
        # PostgreSQL's text takes no U+0000, and a lone surrogate is no UTF-8.
        told = reason[:MAX_TEXT].replace("\x00", "\\x00").encode(errors="replace").decode()
        self.poison.append(PoisonRow(partition, *place, finding, told, cut, size))


def closings(findings: Iterable[FindingRow]) -> list[FindingRow]:
    """The last closing of each gap: it says how the gap stands."""
    return list({row.gap_id: row for row in findings if row.closed_by}.values())


def tally(findings: Iterable[FindingRow]) -> list[dict[str, str | int]]:
    """How many findings of each source, type and outcome, in a fixed order of keys.

    The order keeps two transactions that count the same sources from waiting for each other.
    """
    counted = Counter((row.source, row.type, row.outcome) for row in findings)
    return [
        {"source": source, "type": type_, "outcome": outcome, "findings": count}
        for (source, type_, outcome), count in sorted(counted.items())
    ]


def told_of_gaps(rows: Sequence[FindingRow]) -> list[dict[str, Any]]:
    """What an event tells of gaps that opened, or closed, together: one a source.

    A feed that falls apart makes gaps by the thousand; of each source a few stand for all.
    """
    by_source: dict[str, list[FindingRow]] = defaultdict(list)
    for row in rows:
        by_source[row.source].append(row)
    return [
        {
            "source": source,
            "gaps": len(gaps),
            "missing": sum(_missing(gap) for gap in gaps),
            "examples": [
                {"id": gap.gap_id, "instrument": gap.instrument, "missing": _missing(gap)}
                for gap in gaps[:GAPS_NAMED]
            ],
        }
        for source, gaps in sorted(by_source.items())
    ]


def _missing(row: FindingRow) -> int:
    return row.events if row.type == "gap_opened" else row.remaining


def missing_ranges(first: int, last: int, came: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of `first`…`last` (both included) without the ranges that came, rising.

    >>> missing_ranges(10, 20, [(12, 13), (19, 25)])
    [(10, 11), (14, 18)]
    """
    left = []
    expected = first
    for begin, end in sorted(came):
        if begin > expected:
            left.append((expected, min(begin - 1, last)))
        expected = max(expected, end + 1)
        if expected > last:
            break
    if expected <= last:
        left.append((expected, last))
    return left


def _unusable(event: OrderingEvent, partition: int) -> str | None:
    """Why a finding cannot be stored; None when it can."""
    if event.partition != partition:
        return f"partition is {event.partition}; the message came on {partition}"
    unusable = _unusable_number(event) or _unusable_text(event)
    return unusable if unusable or _is_sum(event) else _unusable_gap(event)


def _unusable_number(event: OrderingEvent) -> str | None:
    for name, bits in _BITS.items():
        value = getattr(event, name)
        if not 0 <= value < 1 << bits:
            return f"{name} is {value}; it must be 0 … 2**{bits}-1"
    if event.first > event.last:
        return f"first {event.first} is above last {event.last}"
    return None


def _unusable_text(event: OrderingEvent) -> str | None:
    if not event.id:
        return "id is empty"
    for name in ("id", "instrument", "source", "gap_id", "reason"):
        value = getattr(event, name)
        if "\x00" in value or len(value) > MAX_TEXT:
            return f"{name} holds U+0000 or more than {MAX_TEXT} characters"
    return None


def _is_sum(event: OrderingEvent) -> bool:
    """Whether one finding stands for many that a message had no room for: it names nobody."""
    return not (event.instrument or event.source or event.gap_id or event.closed_by)


def _unusable_gap(event: OrderingEvent) -> str | None:
    if (event.type == "gap_closed") != bool(event.closed_by):
        return "closed_by belongs to gap_closed, and to that only"
    if event.type == "gap_closed" and not event.gap_id:
        return "gap_id is empty: nobody knows what was closed"
    if event.type == "gap_opened" and event.gap_id not in ("", event.id):
        return f"gap_id is {event.gap_id!r}; of an opening it is its own id"
    if event.type == "gap_opened" and not event.events:
        return "events is 0: nothing is missing"
    if event.gap_id and event.type not in ("gap_opened", "gap_closed"):
        return f"gap_id is given for {event.type}"
    return None


def _row(event: OrderingEvent) -> FindingRow:
    return FindingRow(
        id=event.id,
        type=event.type,
        partition=event.partition,
        position=event.position,
        instrument=event.instrument,
        source=event.source,
        first=event.first,
        last=event.last,
        events=event.events,
        sequence=event.sequence,
        epoch=event.epoch,
        ts_event=moment(event.ts_event_ns),
        detected_at=moment(event.detected_at_ns),
        gap_id=event.id if event.type == "gap_opened" and not _is_sum(event) else event.gap_id,
        closed_by=event.closed_by,
        remaining=event.remaining,
        action=event.action,
        reason=event.reason,
    )


def moment(epoch_ns: int) -> datetime:
    """A time in nanoseconds as PostgreSQL holds it, exact to the microsecond below."""
    return EPOCH + timedelta(microseconds=epoch_ns // 1000)
