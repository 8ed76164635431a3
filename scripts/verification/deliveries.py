"""The frames of a view, one after the other: counts, delivery sequences, plans, announcements.

A loop over frames, not events.
"""

from dataclasses import dataclass

from scripts.verification.records import NO_PLAN, FrameRecord, ReceivedView
from scripts.verification.report import StreamReport, Violation


@dataclass(slots=True)
class _Lane:
    """One partition of a view: what its next frame must say.

    `following` is None until a first frame has told where we are.
    """

    epoch: int
    following: int | None
    plan: int = NO_PLAN
    explained: int | None = None


def check_frames(received: ReceivedView, report: StreamReport, *, from_first: bool) -> None:
    """Judge what frames say of themselves.

    Args:
        received: of one view, in the order received within each partition.
        report: of the view; what is found is added.
        from_first: the view is new, so its deliveries are counted from 1.
    """
    lanes = {
        number: _Lane(frame.delivery_epoch, frame.delivery_sequence + frame.rows, frame.plan)
        for number, frame in received.carried.items()
    }
    for frame in received.frames:
        lane = lanes.get(frame.partition)
        if lane is None:
            lane = _Lane(frame.delivery_epoch, 1 if from_first else None)
            lanes[frame.partition] = lane
        _check_plan(lane, frame, report)
        if frame.control == "epoch":
            _open_epoch(lane, frame, report)
        if frame.control:
            _check_announcement(lane, frame, report)
        else:
            _check_events(lane, frame, report)


def _check_plan(lane: _Lane, frame: FrameRecord, report: StreamReport) -> None:
    if frame.plan == NO_PLAN:
        return
    if frame.plan < lane.plan:
        report.add(Violation.PLAN_REVERSALS, 1, [f"{_where(frame)} after plan {lane.plan}"])
    lane.plan = frame.plan


def _open_epoch(lane: _Lane, frame: FrameRecord, report: StreamReport) -> None:
    if not frame.reason.strip():
        report.add(Violation.UNEXPLAINED_EPOCHS, 1, [f"{_where(frame)}: no reason is given"])
    if frame.delivery_epoch > lane.epoch:
        # Judged here; the events that follow are not reported once more.
        lane.explained = frame.delivery_epoch


def _check_announcement(lane: _Lane, frame: FrameRecord, report: StreamReport) -> None:
    if frame.delivery_epoch > lane.epoch:
        _rise(lane, frame, report)
    due = lane.following
    if frame.delivery_epoch < lane.epoch or due not in {None, frame.delivery_sequence}:
        text = f"{_where(frame)}: a {frame.control} announces it, due is {due} of {lane.epoch}"
        report.add(Violation.HEARTBEAT_LIES, 1, [text])
    elif due is None:
        lane.following = frame.delivery_sequence


def _check_events(lane: _Lane, frame: FrameRecord, report: StreamReport) -> None:
    where, start = _where(frame), frame.delivery_sequence
    if frame.delivery_epoch < lane.epoch:
        report.add(Violation.DELIVERY_REPEATS, frame.rows, [where])
        return
    if frame.delivery_epoch > lane.epoch:
        _rise(lane, frame, report)
    due = start if lane.following is None else lane.following
    if start > due:
        report.add(Violation.DELIVERY_GAPS, start - due, [f"{start - due} before {where}"])
    elif start < due:
        report.add(Violation.DELIVERY_REPEATS, min(due - start, frame.rows), [where])
    if frame.count != frame.rows:
        text = f"{where}: says {frame.count}, holds {frame.rows}"
        report.add(Violation.WRONG_COUNT, 1, [text])
    lane.following = max(due, start + frame.rows)


def _rise(lane: _Lane, frame: FrameRecord, report: StreamReport) -> None:
    """A later epoch: it counts from 1, and a frame before must have said why."""
    if lane.explained != frame.delivery_epoch:
        text = f"{_where(frame)} after epoch {lane.epoch}: no message told it"
        report.add(Violation.UNEXPLAINED_EPOCHS, 1, [text])
    lane.epoch, lane.following = frame.delivery_epoch, 1


def _where(frame: FrameRecord) -> str:
    return (
        f"partition {frame.partition}, delivery sequence {frame.delivery_sequence}"
        f" of epoch {frame.delivery_epoch}, plan {frame.plan}"
    )
