"""Waiting until everything published has arrived, and judging then."""

import time

from scripts.verification.checker import check
from scripts.verification.recording import History
from scripts.verification.report import Report, Violation


def drain(
    history: History,
    *,
    timeout_s: float = 60.0,
    stall_s: float = 20.0,
    settle_s: float = 1.0,
    from_first: bool = False,
    required_after_ns: dict[str, int] | None = None,
) -> Report:
    """Wait until nothing is missing any more, and a little longer for what should not come.

    Call it when the publishers have been told of everything.

    Args:
        history: being filled by recorders.
        timeout_s: longest wait.
        stall_s: give up when nothing at all has arrived for so long.
        settle_s: how long everything must be quiet before it is judged; a doubled event has this
            time to show up.
        from_first, required_after_ns: as `check` has them.

    Raises:
        Exception: what a recorder failed with.
    """
    deadline = time.monotonic() + timeout_s
    before, quiet_since = _arrived(history), time.monotonic()
    judged_at = -1
    while True:
        time.sleep(0.05)
        if history.failure is not None:
            raise history.failure
        now, arrived = time.monotonic(), _arrived(history)
        if arrived != before:
            before, quiet_since = arrived, now
        over = now > deadline or now - quiet_since > stall_s
        quiet = now - quiet_since > settle_s and _complete(history)
        if over or (quiet and judged_at != sum(arrived)):
            judged_at = sum(arrived)
            report = check(history, from_first=from_first, required_after_ns=required_after_ns)
            if over or not any(stream.count(Violation.MISSING) for stream in report.streams):
                return report


def _arrived(history: History) -> tuple[int, ...]:
    return (history.log_events, *(received.events for received in history.received.values()))


def _complete(history: History) -> bool:
    """Whether counts say that all is here; other sources may add to them, so check decides."""
    return history.log_events >= history.accepted_events and all(
        history.received[name].events >= history.expected_events[name]
        for name, view in history.views.items()
        if not view.joins_midway
    )
