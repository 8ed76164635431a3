"""The checker: proves from a `History` that nothing was lost, doubled, reordered or changed.

In the spirit of Jepsen it knows nothing of how the service works. It compares what publishers were
told is stored with what stands in the log and what consumers received:

- every accepted event is in the log once, unchanged, in the order of acceptance per publisher and
  instrument, and nothing else of its source is;
- sequences per instrument and epoch are contiguous, and an instrument stays in one partition;
- every view holds exactly the events that its expectation names, in the same order, with the
  columns and values asked for, under delivery sequences without holes and plans that never fall.

Events of other sources may flow at the same time, and what was published before may still arrive:
the one counts for sequences and the other not at all.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from scripts.verification.announcements import check_announcements
from scripts.verification.deliveries import check_frames
from scripts.verification.matching import (
    SEQUENCE_BITS,
    UNKNOWN,
    Indices,
    Lives,
    Mask,
    below_before,
    first_occurrences,
    match,
)
from scripts.verification.recording import History
from scripts.verification.records import NOT_DELIVERED, Columns
from scripts.verification.report import MOST_SAMPLES, Report, StreamReport, Violation

_FOREIGN: Final = -2
"""Stands for a log event of a source that this run did not publish."""


def check(
    history: History,
    *,
    from_first: bool = False,
    required_after_ns: Mapping[str, int] | None = None,
) -> Report:
    """Compare what was accepted with what was received.

    Args:
        history: of the whole run.
        from_first: every instrument is new in this run, so its sequences start at 1.
        required_after_ns: for views that join midway, the time of publishing (nanoseconds since
            the epoch) from which on they must hold everything at the latest.
    """
    accepted = history.accepted_rows.columns()
    log = history.log_rows.columns()
    report = StreamReport("sequenced", redelivered=history.redelivered["sequenced"])
    origin = _check_log(history, accepted, log, report)
    lives = Lives(log["instrument"], log["epoch"])
    _check_sequences(history, log, lives, report, from_first=from_first)
    check_announcements(history, log, report)
    index = _LogIndex(log, lives, origin, history.carried_rows)
    views = {
        name: _check_view(history, name, accepted, index, (required_after_ns or {}).get(name))
        for name in history.views
    }
    return Report(len(accepted["fingerprint"]), report, views)


def _check_log(history: History, accepted: Columns, log: Columns, report: StreamReport) -> Indices:
    """The accepted event behind each row of the log: its index, `UNKNOWN` or `_FOREIGN`."""
    ours = np.isin(log["source"], np.unique(accepted["source"]))
    origin = np.full(len(ours), _FOREIGN, dtype=np.int64)
    first = np.zeros(len(ours), dtype=bool)
    origin[ours], first[ours] = match(accepted["fingerprint"], log["fingerprint"][ours])
    in_log = np.zeros(len(accepted["fingerprint"]), dtype=bool)
    in_log[origin[first]] = True
    report.expected = int(np.count_nonzero(accepted["certain"] | in_log))
    report.delivered = int(np.count_nonzero(in_log))

    def found(violation: Violation, rows: Indices) -> None:
        report.add(violation, len(rows), [_log_row(history, log, r) for r in rows[:MOST_SAMPLES]])

    lost = np.flatnonzero(accepted["certain"] & ~in_log)
    report.add(Violation.MISSING, len(lost), _accepted_rows(history, accepted, lost))
    # What an earlier history held completely must not come once more.
    again = np.isin(log["source"], list(history.earlier_sources))
    again[: history.carried_rows] = False
    found(Violation.DUPLICATES, np.flatnonzero(((origin >= 0) & ~first) | again))
    found(Violation.UNEXPECTED, np.flatnonzero(origin == UNKNOWN))
    rows = np.flatnonzero(first)
    found(Violation.OUT_OF_ORDER, rows[_overtaken(accepted, origin[rows])])
    strayed = first.copy()
    strayed[first] = accepted["partition"][origin[first]] != log["partition"][first]
    found(Violation.WRONG_PARTITION, np.flatnonzero(strayed))
    return origin


def _check_sequences(
    history: History, log: Columns, lives: Lives, report: StreamReport, *, from_first: bool
) -> None:
    """Contiguity per instrument and epoch over everything in the log, foreign sources too."""
    sequence = log["sequence"]

    def found(violation: Violation, rows: Indices) -> None:
        report.add(violation, len(rows), [_log_row(history, log, r) for r in rows[:MOST_SAMPLES]])

    found(
        Violation.SEQUENCE_REVERSALS, np.flatnonzero(below_before(log["instrument"], log["epoch"]))
    )
    keys = lives.keys(log["instrument"], log["epoch"], sequence)
    first = first_occurrences(keys)
    found(Violation.SEQUENCE_REPEATS, np.flatnonzero(~first))
    below = below_before(keys >> SEQUENCE_BITS, sequence)
    found(Violation.SEQUENCE_REVERSALS, np.flatnonzero(below & first))

    rows = np.flatnonzero(first)[np.argsort(keys[first])]
    life, numbers = keys[rows] >> SEQUENCE_BITS, sequence[rows]
    opens = np.diff(life, prepend=-1) != 0
    before = np.diff(numbers, prepend=0) - 1
    # A life that began in this run begins at 1; of others we may have missed the beginning.
    begun = (rows >= history.carried_rows) & (from_first | lives.later(life))
    before[opens] = np.where(begun, numbers - 1, 0)[opens]
    behind = np.flatnonzero(before > 0)
    report.add(
        Violation.SEQUENCE_GAPS,
        int(before[behind].sum()),
        [f"{before[at]} before {_log_row(history, log, rows[at])}" for at in behind[:MOST_SAMPLES]],
    )


class _LogIndex:
    """From (instrument, epoch, sequence), as consumers see them, to the accepted event."""

    def __init__(self, log: Columns, lives: Lives, origin: Indices, carried_rows: int) -> None:
        keys = lives.keys(log["instrument"], log["epoch"], log["sequence"])
        self._lives = lives
        self._keys, first = np.unique(keys, return_index=True)
        self._origin = origin[first]
        self._instruments, seen = np.unique(log["instrument"], return_index=True)
        self._firsts = log["sequence"][seen]
        self._carried = seen < carried_rows

    def first_sequence(self, instrument: Indices) -> Indices:
        """The first sequence that the log was seen to give to each instrument; 0 for none."""
        at = np.minimum(np.searchsorted(self._instruments, instrument), len(self._firsts) - 1)
        if not len(self._firsts):
            return np.zeros(len(instrument), dtype=np.int64)
        return np.where(self._instruments[at] == instrument, self._firsts[at], 0)

    def carried_sequence(self, instrument: Indices) -> Indices:
        """The newest sequence of each instrument in earlier histories; 0 for none."""
        if not len(self._instruments):
            return np.zeros(len(instrument), dtype=np.int64)
        at = np.minimum(np.searchsorted(self._instruments, instrument), len(self._firsts) - 1)
        known = (self._instruments[at] == instrument) & self._carried[at]
        return np.where(known, self._firsts[at], 0)

    def origin_of(self, view: str, rows: Columns) -> Indices:
        """The accepted event of each row: its index, `UNKNOWN` or `_FOREIGN`."""
        instrument, epoch = rows["instrument"], rows["epoch"].copy()
        bare = epoch == NOT_DELIVERED
        if bare.any():
            if self._lives.several_epochs & set(np.unique(instrument[bare]).tolist()):
                raise ValueError(
                    f"view {view!r} does not deliver `epoch`, and epochs changed in this run:"
                    " its events cannot be told apart; select `epoch` too"
                )
            epoch[bare] = self._lives.only_epoch(instrument[bare])
        keys = self._lives.keys(instrument, epoch, rows["sequence"])
        if not len(self._keys):
            return keys
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        known = (self._keys[at] == keys) & (keys != UNKNOWN)
        return np.where(known, self._origin[at], UNKNOWN)


def _check_view(
    history: History,
    name: str,
    accepted: Columns,
    index: _LogIndex,
    required_after_ns: int | None,
) -> StreamReport:
    view, received = history.views[name], history.received[name]
    report = StreamReport(name, redelivered=history.redelivered[name])
    rows = received.rows.columns()
    origin = index.origin_of(name, rows)
    origin[(origin == UNKNOWN) & _of_others(accepted, index, rows)] = _FOREIGN

    def found(violation: Violation, at: Indices) -> None:
        report.add(violation, len(at), [_view_row(history, rows, r) for r in at[:MOST_SAMPLES]])

    due = accepted[f"expected:{name}"]
    known = np.flatnonzero(origin >= 0)
    first = first_occurrences(origin[known])
    again = np.zeros(len(origin), dtype=bool)
    if received.carried:
        again = _of_earlier_histories(history, index, rows)
    found(Violation.DUPLICATES, np.concatenate([known[~first], np.flatnonzero(again)]))
    distinct = known[first]
    events = origin[distinct]
    belongs = due[events]
    unknown = np.flatnonzero(origin == UNKNOWN)
    found(Violation.UNEXPECTED, np.concatenate([unknown, distinct[~belongs]]))
    content = accepted["fingerprint" if view.says_all else f"fingerprint:{name}"]
    changed = content[events] != rows["fingerprint"][distinct]
    found(Violation.ALTERED, distinct[changed])
    found(Violation.OUT_OF_ORDER, distinct[belongs][_overtaken(accepted, events[belongs])])

    here = np.zeros(len(due), dtype=bool)
    here[events] = True
    required = due & accepted["certain"]
    if view.joins_midway:
        required &= _since_joining(accepted, here, required_after_ns)
    if view.leaves_midway:
        required &= _until_leaving(accepted, here)
    report.expected = int(np.count_nonzero(required | (due & here)))
    report.delivered = int(np.count_nonzero(due & here))
    lost = np.flatnonzero(required & ~here)
    report.add(Violation.MISSING, len(lost), _accepted_rows(history, accepted, lost))
    report.latency_ns = rows["received_ns"][distinct] - accepted["ts_publish"][events]
    check_frames(received, report, from_first=view.from_first)
    return report


def _of_others(accepted: Columns, index: _LogIndex, rows: Columns) -> Mask:
    """Rows that another source published, or that were sequenced before the log was recorded."""
    source = rows["source"]
    told = source != NOT_DELIVERED
    others = ~np.isin(source, np.unique(accepted["source"]))
    instrument = rows["instrument"]
    never_ours = ~np.isin(instrument, np.unique(accepted["instrument"]))
    before = rows["sequence"] < index.first_sequence(instrument)
    mask: Mask = np.where(told, others, never_ours | before)
    return mask


def _of_earlier_histories(history: History, index: _LogIndex, rows: Columns) -> Mask:
    """Rows that a history before this one held already; its views were complete at its end."""
    source = rows["source"]
    sequence = rows["sequence"]
    below = (sequence <= index.carried_sequence(rows["instrument"])) & (source == NOT_DELIVERED)
    mask: Mask = below | np.isin(source, list(history.earlier_sources))
    return mask


def _since_joining(accepted: Columns, here: Mask, required_after_ns: int | None) -> Mask:
    """Events from the first one on that arrived, per publisher and partition."""
    lane = accepted["publisher"].astype(np.int64) << 32 | accepted["partition"]
    since = np.zeros(len(here), dtype=bool)
    order = np.argsort(lane, kind="stable")
    arrived = np.cumsum(here[order])
    opens = np.flatnonzero(np.diff(lane[order], prepend=-1) != 0)
    runs = np.diff(opens, append=len(order))
    earlier: Indices = np.repeat(arrived[opens] - here[order][opens], runs)
    since[order] = arrived > earlier
    if required_after_ns is not None:
        since |= accepted["ts_publish"] >= required_after_ns
    return since


def _until_leaving(accepted: Columns, here: Mask) -> Mask:
    """Events up to the last one that arrived, per publisher and partition."""
    backwards = {name: accepted[name][::-1] for name in ("publisher", "partition")}
    return _since_joining(backwards, here[::-1], None)[::-1]


def _overtaken(accepted: Columns, events: Indices) -> Mask:
    """Which of `events`, in the order received, come behind one accepted after them."""
    group = accepted["publisher"][events].astype(np.int64) << 40 | accepted["instrument"][events]
    return below_before(group, events)


def _accepted_rows(history: History, accepted: Columns, rows: Indices) -> list[str]:
    return [
        f"{history.name(accepted['instrument'][row])} source sequence"
        f" {accepted['source_sequence'][row]} of {history.name(accepted['source'][row])},"
        f" partition {accepted['partition'][row]}"
        for row in rows[:MOST_SAMPLES]
    ]


def _log_row(history: History, log: Columns, row: int) -> str:
    return (
        f"{history.name(log['instrument'][row])} sequence {log['sequence'][row]} of epoch"
        f" {log['epoch'][row]}, partition {log['partition'][row]}"
    )


def _view_row(history: History, rows: Columns, row: int) -> str:
    return (
        f"{history.name(rows['instrument'][row])} sequence {rows['sequence'][row]},"
        f" partition {rows['partition'][row]}"
    )
