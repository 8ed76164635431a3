"""Findings for tests: plausible ones, of which a test changes what it is about."""

from typing import Any

from marketdata.ordering import OrderingEvent


def event(n: int = 0, **members: Any) -> OrderingEvent:
    given: dict[str, Any] = {
        "id": f"1:70:{n}",
        "type": "reversal",
        "partition": 1,
        "position": 70,
        "instrument": "ESZ6",
        "source": "cme",
        "first": 5,
        "last": 5,
        "events": 1,
        "epoch": 1,
        "ts_event_ns": 1_700_000_000_000_000_123,
        "detected_at_ns": 1_700_000_000_500_000_999,
        "action": "passed",
    }
    return OrderingEvent(**(given | members))


def opened(n: int = 0, **members: Any) -> OrderingEvent:
    return event(
        n, **({"type": "gap_opened", "first": 10, "last": 19, "events": 10, "action": ""} | members)
    )


def closed(n: int, gap_id: str, **members: Any) -> OrderingEvent:
    given = {"type": "gap_closed", "closed_by": "fill", "gap_id": gap_id, "action": ""}
    return event(n, **(given | members))
