"""Conflation: of what comes in an interval of time, the latest event of each instrument and kind.

A `Window` holds what a view has got of one partition since its last delivery, until the log's own
time leaves the interval that it began in. Nothing outlives a window: what it gives depends on the
events of its interval alone, in the order of the log, so it can be made again from there after any
crash. Each event is delivered, or is within a range that is told as skipped
(`marketdata.skipped`). Pure.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.arrays import codes_of, joined, values_of
from marketdata.plans import Delivery
from marketdata.skipped import Skipped
from marketdata.splitting import Rows, split_rows

RATE_INTERVAL_MS: Final = 1_000
"""Interval of views that have a rate and no interval."""

SINCE_PROPERTY: Final = "since"
"""Message property of a window's entry that others of it follow: the position it began behind."""

_MOST_HELD: Final = 1_024
"""Rows are merged when so many, and twice what was left the last time, are held."""

_MOST_JOINED: Final = 16_384
"""Rows that held batches are joined to; their dictionaries have at most so many values."""

_ROW: Final = np.dtype(
    [
        ("instrument", np.int64),
        ("kind", np.int64),
        ("sequence", np.uint64),
        ("place", np.int64),
        ("batch", np.int64),
        ("row", np.int64),
        # The events skipped between the event held before, of any kind, and this one.
        ("events", np.int64),
        ("first", np.uint64),
        ("last", np.uint64),
    ]
)
"""An event that is held."""

Held = npt.NDArray[np.void]


class Pace(NamedTuple):
    """How a view's events are conflated in one partition.

    Attributes:
        every_ms: length of the intervals; they begin at multiples of it.
        latest: only the latest of each instrument and kind, even where all would fit.
        most: most events an interval; None for no bound.
    """

    every_ms: int
    latest: bool
    most: int | None


def pace_of(delivery: Delivery, partitions: int) -> Pace:
    """The pace of a view that conflates; its rate is shared evenly by the partitions.

    A share of less than one event makes the interval longer.

    >>> pace_of(Delivery(max_rate=10), partitions=4)
    Pace(every_ms=1000, latest=False, most=2)
    >>> pace_of(Delivery(max_rate=1), partitions=4)
    Pace(every_ms=4000, latest=False, most=1)
    """
    every_ms = delivery.conflate.every_ms if delivery.conflate else RATE_INTERVAL_MS
    if not delivery.max_rate:
        return Pace(every_ms, latest=True, most=None)
    every_ms = max(every_ms, -(-1_000 * partitions // delivery.max_rate))
    most = delivery.max_rate * every_ms // (1_000 * partitions)
    return Pace(every_ms, latest=bool(delivery.conflate), most=most)


class Part(NamedTuple):
    """Events of a window for one message.

    Attributes:
        kind: of the events.
        rows: the events, in the order of the log within an instrument.
        skipped: what is to be told before them.
        behind: what is to be told after them.
    """

    kind: str
    rows: pa.RecordBatch
    skipped: Skipped
    behind: Skipped


class Entry(NamedTuple):
    """Messages that are stored together.

    Attributes:
        place: in the log, of the last event; where nothing follows of the last event of the window,
            delivered or not.
        parts: in order; an instrument's sequences rise over them.
        complete: nothing of the window follows.
    """

    place: int
    parts: tuple[Part, ...]
    complete: bool


class Window:
    """The events of a view in one partition and one interval.

    Args:
        pace: of the view.
        number: of the interval: the time divided by the interval's length.

    Attributes:
        skipped: how many events were skipped, once it has been taken.
    """

    def __init__(self, pace: Pace, number: int) -> None:
        self.number = number
        self._pace = pace
        self._batches: list[tuple[str, pa.RecordBatch]] = []
        self._rows: Held = np.empty(0, _ROW)
        self._new: list[Held] = []
        self._ids: dict[str, int] = {}
        self._kinds: dict[str, int] = {}
        self._merge_at = _MOST_HELD
        self._held = 0
        self._merges = pace.latest
        self.skipped = 0

    def __len__(self) -> int:
        """How many events are held."""
        return self._held

    def add(self, kind: str, rows: pa.RecordBatch, places: npt.NDArray[np.int64]) -> None:
        """Take events in.

        Args:
            kind: of the events.
            rows: sequenced events behind all before, in the order of the log.
            places: where each stands in the log, rising.
        """
        held = np.zeros(rows.num_rows, _ROW)
        column = rows.column("instrument")
        names = column.dictionary.to_pylist()
        ids = [self._ids.setdefault(name, len(self._ids)) for name in names]
        held["instrument"] = np.array(ids, np.int64)[codes_of(column)]
        held["kind"] = self._kinds.setdefault(kind, len(self._kinds))
        held["sequence"] = values_of(rows.column("sequence"), np.uint64)
        held["place"] = places
        held["row"] = np.arange(rows.num_rows)
        held["batch"] = len(self._batches)
        most = self._pace.most
        if most is not None and self._held + len(held) > most:
            self._merges = True
        if self._merges:
            held, _ = _merged(held, _latest(held))
        # A copy of what is held: the batch may be a slice of a much larger one.
        self._batches.append((kind, next(split_rows(rows, [held["row"].astype(np.int64)]))))
        held["row"] = np.arange(len(held))
        self._new.append(held)
        self._held += len(held)
        if self._merges and self._held >= self._merge_at:
            self._merge()
            self._merge_at = max(_MOST_HELD, 2 * self._held)

    def take(self, after: int, *, most_rows: int) -> list[Entry]:
        """What is delivered of the window, which is over then.

        Args:
            after: what stands at or before this place is stored already.
            most_rows: most events that are stored together, the same at every call; no place may
                have more.
        """
        if self._merges:
            self._merge()
        rows, tails = self._all(), np.empty(0, _ROW)
        last = int(rows["place"][-1])
        if self._pace.most is not None and len(rows) > self._pace.most:
            rows, tails = _merged(rows, self._chosen(rows, self._pace.most))
        self.skipped = int(rows["events"].sum() + tails["events"].sum())
        rows = rows[rows["place"] > after]
        entries = []
        begin = 0
        while begin < len(rows):
            end = _end(rows["place"], begin, most_rows)
            complete = end == len(rows)
            entry = self._entry(rows[begin:end], tails if complete else tails[:0], complete)
            entries.append(entry._replace(place=last) if complete else entry)
            begin = end
        return entries

    def _all(self) -> Held:
        if self._new:
            self._rows = np.concatenate([self._rows, *self._new])
            self._new = []
        return self._rows

    def _merge(self) -> None:
        rows = self._all()
        rows, _ = _merged(rows, _latest(rows))
        batches: list[tuple[str, pa.RecordBatch]] = []
        made = np.copy(rows)
        for code, kind in enumerate(self._kinds):
            of_kind = np.flatnonzero(rows["kind"] == code)
            for begin in range(0, len(of_kind), _MOST_JOINED):
                block = of_kind[begin : begin + _MOST_JOINED]
                made["batch"][block] = len(batches)
                made["row"][block] = np.arange(len(block))
                batches.append((kind, self._gathered(rows[block])))
        self._rows, self._batches, self._held = made, batches, len(made)

    def _gathered(self, rows: Held) -> pa.RecordBatch:
        """Held events of one kind as one batch."""
        starts = np.flatnonzero(np.diff(rows["batch"], prepend=-1))
        ends = [*starts[1:].tolist(), len(rows)]
        pieces = []
        for start, end in zip(starts.tolist(), ends, strict=True):
            _, batch = self._batches[int(rows["batch"][start])]
            numbers: Rows = rows["row"][start:end].astype(np.int64)
            pieces.append(next(split_rows(batch, [numbers])))
        return joined(pieces)

    def _chosen(self, rows: Held, most: int) -> npt.NDArray[np.bool_]:
        """Which events of an interval with too many instruments are delivered.

        The instruments stand in a ring by their names, and each interval goes on where the one
        before it ended; of an instrument the newest events come first.
        """
        places = np.argsort(np.argsort(list(self._ids)))
        turned = (places - self.number * most) % len(places)
        order = np.lexsort((~rows["sequence"], turned[rows["instrument"]]))
        keep = np.zeros(len(rows), np.bool_)
        keep[order[:most]] = True
        return keep

    def _entry(self, rows: Held, tails: Held, complete: bool) -> Entry:
        kinds = list(self._kinds)
        names = list(self._ids)
        turns = _turns(rows)
        keys = turns * len(kinds) + rows["kind"]
        parts = []
        found = np.unique(keys).tolist()
        for key in found:
            of_part = rows[keys == key]
            skipped = _told(of_part[of_part["events"] > 0], names)
            behind = _told(tails, names) if key == found[-1] else Skipped()
            parts.append(Part(kinds[key % len(kinds)], self._gathered(of_part), skipped, behind))
        return Entry(int(rows["place"][-1]), tuple(parts), complete)


def _told(rows: Held, names: list[str]) -> Skipped:
    return Skipped(
        tuple(names[number] for number in rows["instrument"].tolist()),
        *(tuple(rows[column].tolist()) for column in ("first", "last", "events")),
    )


def _latest(rows: Held) -> npt.NDArray[np.bool_]:
    """Which rows are the last of their instrument and kind."""
    kinds = int(rows["kind"].max(initial=0)) + 1
    keys = rows["instrument"] * kinds + rows["kind"]
    _, from_behind = np.unique(keys[::-1], return_index=True)
    keep = np.zeros(len(rows), np.bool_)
    keep[len(rows) - 1 - from_behind] = True
    return keep


def _merged(rows: Held, keep: npt.NDArray[np.bool_]) -> tuple[Held, Held]:
    """The rows that are kept, each with what was skipped between it and the one before.

    Returns:
        The kept rows in their order; and a row for what was skipped behind the last kept one of an
        instrument.
    """
    if keep.all():
        return rows, rows[:0]
    order = np.argsort(rows["instrument"], kind="stable")
    ordered, kept = rows[order], keep[order]
    changes = np.diff(ordered["instrument"], prepend=-1) != 0
    begins = np.flatnonzero(changes | np.concatenate(([False], kept[:-1])))
    ends = np.append(begins[1:], len(ordered)) - 1
    lead, closing, closed = ordered[begins], ordered[ends], kept[ends]
    made = np.copy(closing)
    made["events"] = np.add.reduceat(ordered["events"] + ~kept, begins)
    made["first"] = np.where(
        lead["events"] > 0, lead["first"], np.where(made["events"] > 0, lead["sequence"], 0)
    )
    before = np.where(ends > begins, ordered["sequence"][np.maximum(ends - 1, 0)], 0)
    made["last"] = np.where(closed, np.maximum(closing["last"], before), closing["sequence"])
    places = order[ends]
    back = np.argsort(places[closed])
    return made[closed][back], made[~closed]


def _turns(rows: Held) -> npt.NDArray[np.int64]:
    """How often the kind of each row's instrument has changed up to it.

    Messages have one kind; dealt out by turn and kind an instrument's events stay in order.
    """
    order = np.argsort(rows["instrument"], kind="stable")
    ordered = rows[order]
    begins = np.diff(ordered["instrument"], prepend=-1) != 0
    changes = np.cumsum((np.diff(ordered["kind"], prepend=-1) != 0) & ~begins)
    starts = np.flatnonzero(begins)
    counts = np.diff(np.append(starts, len(rows)))
    turns = np.empty(len(rows), np.int64)
    turns[order] = changes - np.repeat(changes[starts], counts)
    return turns


def _end(places: npt.NDArray[np.int64], begin: int, most_rows: int) -> int:
    """Where an entry ends that begins at a row: no place is divided."""
    end = begin + most_rows
    if end >= len(places):
        return len(places)
    return max(
        int(np.searchsorted(places, places[end])),
        int(np.searchsorted(places, places[begin], "right")),
    )
