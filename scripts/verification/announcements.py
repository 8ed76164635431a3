"""What the log announces of itself: the numbers that come next, and changes of epochs."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scripts.verification.matching import Indices
from scripts.verification.recording import History
from scripts.verification.records import Columns
from scripts.verification.report import MOST_SAMPLES, StreamReport, Violation

_PLACE_BITS: Final = 40
_PARTITION_BITS: Final = 16


def check_announcements(history: History, log: Columns, report: StreamReport) -> None:
    """Judge the control frames of the log.

    A heartbeat lies when a number it calls the next one was carried before, or when the event
    that follows does not carry it although those before it were complete. An epoch that rises
    needs an epoch frame between the events on both sides, with a reason.
    """
    timeline = _Timeline(log, history.carried_rows)
    _check_heartbeats(history, timeline, report)
    _check_epochs(history, timeline, report)


class _Timeline:
    """The events of the log by instrument and partition, then by their place in it.

    An instrument that moved when partitions grew has a *lane* in each of its partitions.
    """

    def __init__(self, log: Columns, carried_rows: int) -> None:
        place = _places(log["partition"], carried_rows)
        # Carried rows stand before all others.
        owners = _owners(log["instrument"], log["partition"])
        self._owners, lane = np.unique(owners, return_inverse=True)
        keys = lane.astype(np.int64) << _PLACE_BITS | (place + 1)
        order = np.argsort(keys, kind="stable")
        self.keys: Indices = keys[order]
        self.lane: Indices = lane[order]
        self.place: Indices = place[order]
        self.instrument: Indices = log["instrument"][order]
        self.epoch: Indices = log["epoch"][order]
        self.sequence: Indices = log["sequence"][order]
        self.partition: Indices = log["partition"][order].astype(np.int64)

    def around(
        self, instrument: Indices, partition: Indices, behind: Indices
    ) -> tuple[Indices, Indices]:
        """Row of the instrument's last event among the first `behind`, and of the next; or -1."""
        owners = _owners(instrument, partition)
        lane = np.searchsorted(self._owners, owners)
        lane = np.where(np.append(self._owners, -1)[lane] == owners, lane, len(self._owners))
        after = np.searchsorted(self.keys, lane << _PLACE_BITS | (behind + 1))
        before = after - 1
        lanes = np.append(self.lane, -1)
        # `before` may be -1: that reads the sentinel at the end.
        return (
            np.where(lanes[before] == lane, before, -1),
            np.where(lanes[after] == lane, after, -1),
        )

    def rises(self) -> Indices:
        """Rows that open a higher epoch of their instrument, in its partition or by moving."""
        if not len(self.lane):
            return np.zeros(0, dtype=np.int64)
        opens = np.diff(self.lane, prepend=-1) != 0
        higher = np.diff(self.epoch, prepend=self.epoch[0]) > 0
        first = np.flatnonzero(np.diff(self.instrument, prepend=-1))
        lowest = np.minimum.reduceat(self.epoch, first)
        known = np.repeat(lowest, np.diff(first, append=len(self.epoch)))
        rows: Indices = np.flatnonzero(np.where(opens, self.epoch > known, higher))
        return rows


def _owners(instrument: npt.NDArray[np.int64], partition: npt.NDArray[Any]) -> Indices:
    """Instrument and partition in one number that sorts by the instrument first."""
    return instrument.astype(np.int64) << _PARTITION_BITS | partition.astype(np.int64)


def _places(partition: npt.NDArray[np.int32], carried_rows: int) -> Indices:
    """Number of each row within its partition, from 0; -1 for carried rows."""
    place = np.full(len(partition), -1, dtype=np.int64)
    fresh = partition[carried_rows:]
    for number in np.unique(fresh):
        mine = np.flatnonzero(fresh == number)
        place[carried_rows + mine] = np.arange(len(mine))
    return place


def _check_heartbeats(history: History, events: _Timeline, report: StreamReport) -> None:
    told = history.announced_rows.columns()
    if not len(told["instrument"]):
        return
    before, after = events.around(told["instrument"], told["partition"], told["behind"])
    next_, epoch = told["sequence"], told["epoch"]
    sequences = np.append(events.sequence, 0)
    epochs = np.append(events.epoch, -1)
    same_before = epochs[before] == epoch
    same_after = (after >= 0) & (epochs[after] == epoch)
    # Where the instrument's epoch begins, its first number is due.
    follows = np.where(same_before, next_ == sequences[before] + 1, next_ == 1)
    follows |= before < 0
    carried = same_after & (next_ == sequences[after])
    fallen = (epochs[before] > epoch) | ((after >= 0) & (epochs[after] < epoch))
    used = same_before & (next_ <= sequences[before])
    known = (before >= 0) | same_after
    honest = np.where(same_after, carried | (follows & (before >= 0)), follows)
    lies = np.flatnonzero(known & (fallen | used | ~honest))
    report.add(
        Violation.HEARTBEAT_LIES,
        len(lies),
        [
            f"{history.name(told['instrument'][at])} announced to continue with {next_[at]} of"
            f" epoch {epoch[at]} behind event {told['behind'][at]} of partition"
            f" {told['partition'][at]}"
            for at in lies[:MOST_SAMPLES]
        ],
    )


def _check_epochs(history: History, events: _Timeline, report: StreamReport) -> None:
    silent = [one for one in history.epochs if not one.reason.strip()]
    report.add(
        Violation.UNEXPLAINED_EPOCHS,
        len(silent),
        [f"partition {one.partition}: epoch {one.epoch} opens without a reason" for one in silent],
    )
    unexplained = [at for at in events.rises() if not _explained(history, events, int(at))]
    report.add(
        Violation.UNEXPLAINED_EPOCHS,
        len(unexplained),
        [
            f"{history.name(events.instrument[at])} goes on in epoch {events.epoch[at]},"
            f" partition {events.partition[at]}: no message told it"
            for at in unexplained[:MOST_SAMPLES]
        ],
    )


def _explained(history: History, events: _Timeline, at: int) -> bool:
    moved = at == 0 or events.lane[at - 1] != events.lane[at]
    before = -1 if moved else events.place[at - 1]
    return any(
        one.partition == events.partition[at]
        and one.epoch == events.epoch[at]
        and before < one.behind <= events.place[at]
        for one in history.epochs
    )
