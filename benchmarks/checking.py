"""What the consuming worker checks: many frames at once, everything of every frame.

Checked of each message: it can be decoded and holds as many events as it says; its delivery
sequence follows the one before in its partition (a heartbeat's, too); within the view, each
instrument's sequences rise by one. None of the project's client code is used, so it cannot hide a
loss. The checks look at all that came since the last look, of all views, together: per event that
costs a sort of small keys and a few passes, per frame little more than decoding it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pulsar
import pyarrow as pa

from marketdata.arrays import values_of

MAX_BREAKS_KEPT: Final = 5
MAX_INSTRUMENTS: Final = 1 << 15
BIN_NS: Final = 250_000_000
"""Width of the bins in which arrivals are counted over time."""

Ints = npt.NDArray[np.int64]


class Arrived(NamedTuple):
    """A message of a view and the time at which it was handed to the consumer."""

    view: int
    message: pulsar.Message
    at_ns: int


class Latencies:
    """How many events had which latency, in steps of 10 µs up to two minutes.

    A histogram and no list: half an hour of frames must fit in memory.
    """

    STEP_NS: Final = 10_000
    STEPS: Final = 12_000_000

    def __init__(self) -> None:
        self._events = np.zeros(self.STEPS, dtype=np.int64)
        self._greatest_ns = 0

    def add(self, latencies_ns: Ints, events: Ints) -> None:
        """Count `events[i]` events with the latency `latencies_ns[i]`."""
        # Clocks of one machine: below zero is rounding, beyond the end counts at the end.
        steps = np.clip(latencies_ns // self.STEP_NS, 0, self.STEPS - 1)
        np.add.at(self._events, steps, events)
        self._greatest_ns = max(self._greatest_ns, int(latencies_ns.max()))

    def quantiles_ns(self, shares: Sequence[float]) -> list[int]:
        """The least latencies that at least the given shares of the events do not exceed.

        Rounded up to a step; the greatest one is exact. Empty when nothing was counted.

        >>> latencies = Latencies()
        >>> latencies.add(np.array([10_000, 31_000, 25_000]), np.array([98, 1, 1]))
        >>> latencies.quantiles_ns((0.5, 0.99, 1.0))
        [20000, 30000, 31000]
        """
        reached = np.cumsum(self._events[: self._greatest_ns // self.STEP_NS + 1])
        if not reached[-1]:
            return []
        # Whole events: rounding must not push a share beyond the value that just reaches it.
        due = np.ceil(np.array(shares) * reached[-1] - 1e-6)
        steps = np.searchsorted(reached, np.maximum(due, 1))
        return [min((int(step) + 1) * self.STEP_NS, self._greatest_ns) for step in steps]


class Tally:
    """What has been received in the current phase, of all views together.

    Attributes:
        of_view: events by view.
        arrivals: events by bin of `BIN_NS` since 1970.
        passages: (arrival, newest publish time) of each frame, when they were asked for.
    """

    def __init__(self, views: int, *, keep_passages: bool = False) -> None:
        self.of_view = [0] * views
        self.frames = 0
        self.control_frames = 0
        self.payload_bytes = 0
        self.last_ns = 0
        self.breaks = 0
        self.first_breaks: list[str] = []
        self.latencies = Latencies()
        self.arrivals: Counter[int] = Counter()
        self.passages: list[tuple[int, int]] | None = [] if keep_passages else None

    def broken(self, what: str) -> None:
        """Note a violation of order or continuity."""
        self.breaks += 1
        if len(self.first_breaks) < MAX_BREAKS_KEPT:
            self.first_breaks.append(what)


class InstrumentOrder:
    """Checks that within each view every instrument's sequences rise by one.

    Args:
        views: how many there are.
    """

    def __init__(self, views: int) -> None:
        self._numbers: dict[str, int] = {}
        # A page of it takes memory only when it is written to.
        self._last = np.zeros((views, MAX_INSTRUMENTS), dtype=np.int64)

    def check(self, column: pa.DictionaryArray, sequences: Ints, views: Ints) -> list[int]:
        """The view of each event that does not follow the one before of its instrument.

        Args:
            column: the instruments of the events, which are in the order of their arrival.
            sequences, views: of the same events.
        """
        known = self._numbers
        names = column.dictionary.to_pylist()
        numbers = np.array([known.setdefault(name, len(known)) for name in names])
        keys = views * len(names) + column.indices.to_numpy()
        if keys.max() < 1 << 16:
            # NumPy sorts keys of 16 bits by radix.
            keys = keys.astype(np.uint16)
        order = np.argsort(keys, kind="stable")
        ordered_keys, ordered = keys[order], sequences[order]
        changes = np.flatnonzero(ordered_keys[1:] != ordered_keys[:-1])
        starts = np.concatenate(([0], changes + 1))
        ends = np.concatenate((changes, [len(keys) - 1]))
        view_of_run, code_of_run = np.divmod(ordered_keys[starts].astype(np.int64), len(names))
        run = (view_of_run, numbers[code_of_run])
        before = self._last[run]
        follows = np.empty(len(keys), dtype=bool)
        follows[1:] = ordered[1:] == ordered[:-1] + 1
        follows[starts] = (before == 0) | (ordered[starts] == before + 1)
        self._last[run] = ordered[ends]
        wrong: list[int] = views[order[~follows]].tolist()
        return wrong


class DeliveryCheck:
    """The checks of all views, from the first message to the last.

    Args:
        views: how many there are.
    """

    def __init__(self, views: int) -> None:
        self._next: dict[str, int] = {}
        self._order = InstrumentOrder(views)

    def take(self, arrived: Sequence[Arrived], tally: Tally) -> None:
        """Check messages in the order in which they came, and count them."""
        batches, views, times = [], [], []
        for view, message, at_ns in arrived:
            batch = self._decode(message, tally)
            if batch is None:
                continue
            batches.append(batch)
            views.append(view)
            times.append(at_ns)
            tally.of_view[view] += batch.num_rows
            tally.arrivals[at_ns // BIN_NS] += batch.num_rows
        if batches:
            self._take_events(batches, np.array(views), np.array(times), tally)

    def _decode(self, message: pulsar.Message, tally: Tally) -> pa.RecordBatch | None:
        """The events of a message whose numbers are right; None when it carries no event."""
        properties, topic = message.properties(), message.topic_name()
        first, count = int(properties["delivery_sequence"]), int(properties["count"])
        expected = self._next.get(topic, first)
        if first != expected:
            tally.broken(f"{topic}: delivery sequence {first} where {expected} was due")
        self._next[topic] = first + count
        if count == 0:
            tally.control_frames += 1
            return None
        data = message.data()
        batch = pa.ipc.open_stream(data).read_next_batch()
        if batch.num_rows != count:
            tally.broken(f"{topic}: says {count} events, holds {batch.num_rows}")
        tally.frames += 1
        tally.payload_bytes += len(data)
        return batch

    def _take_events(
        self, batches: list[pa.RecordBatch], views: Ints, times: Ints, tally: Tally
    ) -> None:
        rows = np.array([batch.num_rows for batch in batches])
        instruments = pa.chunked_array([batch.column("instrument") for batch in batches])
        column = instruments.unify_dictionaries().combine_chunks()
        sequences = _joined(batches, "sequence")
        for view in self._order.check(column, sequences, np.repeat(views, rows)):
            tally.broken(f"view {view}: an event out of its instrument's sequence")
        published = _joined(batches, "ts_publish")
        ends = np.cumsum(rows)
        # The events of one publish call share their time and stand together.
        new = np.empty(len(published), dtype=bool)
        new[1:] = published[1:] != published[:-1]
        new[ends - rows] = True
        starts = np.flatnonzero(new)
        arrived = times[np.searchsorted(ends, starts, side="right")]
        tally.latencies.add(arrived - published[starts], np.diff(starts, append=len(published)))
        if tally.passages is not None:
            tally.passages += zip(times.tolist(), published[ends - 1].tolist(), strict=True)
        tally.last_ns = max(tally.last_ns, int(times.max()))


def _joined(batches: list[pa.RecordBatch], name: str) -> Ints:
    """A column without nulls of 64-bit integers or times, over all batches."""
    return np.concatenate([values_of(batch.column(name), np.int64) for batch in batches])
