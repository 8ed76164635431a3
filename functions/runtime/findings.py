"""From findings to ordering events and resend requests: names, ids and times are put in."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from functions.operators.found import Finding
from functions.operators.pairs import Gap
from functions.operators.source_order import SourceOrder
from marketdata.ordering import MAX_EVENTS, OrderingEvent, ResendRequest


def gap_id(partition: int, position: int, n: int) -> str:
    """The id of a finding; a gap has that of the one that opened it."""
    return f"{partition}:{position}:{n}"


def ordering_events(
    findings: Sequence[Finding],
    order: SourceOrder,
    *,
    partition: int,
    position: int,
    epoch: int,
    sequences: npt.NDArray[np.uint64],
    detected_at_ns: int,
) -> list[OrderingEvent]:
    """The findings of a frame; what is beyond `MAX_EVENTS` is summed up by type.

    Args:
        findings: in the order of their numbers.
        order: knows the names of the pairs.
        partition, position, epoch: of the frame.
        sequences: ours, by row of the frame.
        detected_at_ns: nanoseconds, UTC.
    """
    events = []
    for n, found in enumerate(findings[:MAX_EVENTS]):
        source, instrument = order.names(found.pair) if found.pair >= 0 else ("", "")
        opening = (position, n) if found.type == "gap_opened" else found.gap
        events.append(
            OrderingEvent(
                id=gap_id(partition, position, n),
                type=found.type,
                partition=partition,
                position=position,
                instrument=instrument,
                source=source,
                first=found.first,
                last=found.last,
                events=found.events,
                epoch=epoch,
                ts_event_ns=found.ts_event_ns,
                detected_at_ns=detected_at_ns,
                sequence=int(sequences[found.row]) if found.row >= 0 else 0,
                gap_id=gap_id(partition, *opening) if opening else "",
                closed_by=found.closed_by,
                remaining=found.remaining,
                action=found.action,
                reason=found.reason,
            )
        )
    more: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for found in findings[MAX_EVENTS:]:
        more[found.type] += 1
        rows[found.type] += found.events
    for n, (type_, count) in enumerate(sorted(more.items())):
        events.append(
            OrderingEvent(
                id=gap_id(partition, position, len(findings) + n),
                type=type_,  # type: ignore[arg-type]
                partition=partition,
                position=position,
                instrument="",
                source="",
                first=0,
                last=0,
                events=rows[type_],
                epoch=epoch,
                ts_event_ns=0,
                detected_at_ns=detected_at_ns,
                reason=f"{count} further findings of this frame, summed up",
            )
        )
    return events


def resend_requests(
    gaps: Iterable[tuple[int, Gap]], order: SourceOrder, *, partition: int, now_ns: int
) -> list[ResendRequest]:
    """One request for each gap, given with its pair."""
    requests = []
    for pair, gap in gaps:
        source, instrument = order.names(pair)
        requests.append(
            ResendRequest(
                gap_id=gap_id(partition, gap.position, gap.n),
                source=source,
                instrument=instrument,
                first=gap.first,
                last=gap.last,
                requested_at_ns=now_ns,
            )
        )
    return requests
