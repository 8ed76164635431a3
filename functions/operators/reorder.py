"""The reorder buffer: rows of a `hold` source beyond a hole wait for those before them.

Per (source, instrument) rows leave in the order of their numbers: as soon as they follow what the
log has, or when they have waited long enough, whatever is missing then. No row is lost; none waits
beyond its time once the next input comes; when too much waits the older half leaves. Time is an
argument, and so is the state of the log: the buffer itself never goes on behind a number.

What follows a reset of the source (numbers begin anew) is a new *generation*: it waits behind all
of the one before.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import pyarrow as pa

from functions.operators.pairs import Pair

MAX_HELD_INPUTS: Final = 2048
"""Most inputs that rows wait of."""

MAX_HELD_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of inputs that are kept because rows of theirs wait."""


class Origin(Protocol):
    """An input that a waiting row is part of."""

    @property
    def item(self) -> Any:
        """The input itself."""

    @property
    def is_mixed(self) -> bool:
        """Whether its events are of several kinds."""

    def kind_of(self, row: int) -> str:
        """The kind of one of its events."""

    @property
    def batch(self) -> pa.RecordBatch:
        """All its rows."""

    @property
    def row_bytes(self) -> int:
        """Most bytes that one of its rows takes in a frame."""


class Arrival(NamedTuple):
    """A row of a `hold` source: what it is a row of, which row, its number and its event time."""

    origin: Origin
    row: int
    number: int
    ts_event_ns: int

    @property
    def kind(self) -> str:
        """The kind of the event."""
        return self.origin.kind_of(self.row)

    @property
    def size_bytes(self) -> int:
        """Most bytes that it takes in a frame."""
        return self.origin.row_bytes


class HeldRow(NamedTuple):
    """A row that waits, and when it leaves at the latest."""

    pair: int
    arrival: Arrival
    due_s: float


class Admitted(NamedTuple):
    """What became of arrivals: those neither here nor there wait."""

    at_once: list[Arrival]
    repeats: list[Arrival]


@dataclass(slots=True)
class _Queue:
    """The waiting rows of one pair by (generation, number), in the order of their arrival."""

    highest: int
    newest_ns: int
    generation: int = 0
    rows: dict[tuple[int, int], HeldRow] = field(default_factory=dict)


class ReorderBuffer:
    """The waiting rows of one partition.

    Args:
        log: what the log has of a pair, a copy.
    """

    def __init__(self, log: Callable[[int], Pair]) -> None:
        self._log = log
        self._queues: dict[int, _Queue] = {}
        self._touched: dict[int, None] = {}
        self._origins: dict[Origin, int] = {}
        self._rows = 0

    def __len__(self) -> int:
        """How many rows wait."""
        return self._rows

    def __contains__(self, pair: int) -> bool:
        """Whether rows of a pair wait."""
        return pair in self._queues

    @property
    def origins(self) -> Collection[Origin]:
        """The inputs that rows wait of."""
        return self._origins.keys()

    def due_s(self) -> float | None:
        """When the next row leaves at the latest; None when none waits."""
        if self._touched:
            return 0.0
        return min(map(_first_due_s, self._queues.values()), default=None)

    def admit(self, pair: int, arrivals: list[Arrival], due_s: float) -> Admitted:
        """Take in what is beyond the log.

        Args:
            pair: whose rows.
            arrivals: in the order of their arrival.
            due_s: when they leave at the latest, never before those admitted earlier.

        Returns:
            Rows that need not wait (they fill an open gap, or are too old to be judged), and rows
            that have come before.
        """
        log = self._log(pair)
        queue = self._queues.get(pair) or _Queue(log.last, log.newest_ns)
        admitted = Admitted([], [])
        for arrival in arrivals:
            number, ts_event_ns = arrival.number, arrival.ts_event_ns
            if _begins_anew(queue, log, number, ts_event_ns):
                queue.generation += 1
                queue.highest = -1
            elif queue.generation == 0 and number <= log.last:
                (piece,) = log.classify(number, number, ts_event_ns)
                if piece.kind in ("late", "old"):
                    log.take(piece, ts_event_ns, 0, 0)
                    admitted.at_once.append(arrival)
                else:
                    admitted.repeats.append(arrival)
                continue
            key = queue.generation, number
            if key in queue.rows:
                admitted.repeats.append(arrival)
                continue
            queue.rows[key] = HeldRow(pair, arrival, due_s)
            queue.highest = max(queue.highest, number)
            queue.newest_ns = max(queue.newest_ns, ts_event_ns)
            self._count(arrival.origin, 1)
        if queue.rows:
            self._queues[pair] = queue
            self._touched[pair] = None
        return admitted

    def release(
        self,
        now_s: float,
        *,
        max_held: int,
        one_kind: bool = False,
        kind: str | None = None,
        max_rows: int | None = None,
    ) -> list[HeldRow]:
        """Remove and return the rows that may leave; those of a pair in order.

        Args:
            now_s: rows due by now leave whatever is missing before them.
            max_held: most rows that may wait; when more do, the older half leaves, or more.
            one_kind: only rows of one kind, and none that would have to wait for another.
            kind: which kind that is; None that of the first row that may leave.
            max_rows: no more than these; None all. What is left is tried again the next time.
        """
        cutoff_s = max(now_s, self._pressed_until_s(max_held))
        expired = [n for n, queue in self._queues.items() if _first_due_s(queue) <= cutoff_s]
        pairs = dict.fromkeys(expired) | self._touched
        self._touched = {}
        released: list[HeldRow] = []
        for pair in pairs:
            room = None if max_rows is None else max_rows - len(released)
            queue = self._queues[pair]
            keys, complete = self._leaving(pair, queue, cutoff_s, kind if one_kind else None, room)
            if keys and one_kind and kind is None:
                kinds = [queue.rows[key].arrival.kind for key in keys]
                kind = kinds[0]
                same = next((n for n, each in enumerate(kinds) if each != kind), len(keys))
                keys, complete = keys[:same], complete and same == len(keys)
            released += [queue.rows.pop(key) for key in keys]
            if not complete:
                self._touched[pair] = None
            if not queue.rows:
                del self._queues[pair]
            elif keys and keys[-1][0]:
                _renumber(queue, keys[-1][0])
        for held in released:
            self._count(held.arrival.origin, -1)
        return released

    def _leaving(
        self, pair: int, queue: _Queue, cutoff_s: float, kind: str | None, room: int | None
    ) -> tuple[list[tuple[int, int]], bool]:
        """The keys that leave now, in order, and whether these are all that may leave."""
        forced = (queue.generation, -1)  # all of the generations before the newest
        for key, held in queue.rows.items():
            if held.due_s > cutoff_s:
                break
            forced = max(forced, key)
        leaving: list[tuple[int, int]] = []
        generation, last = 0, self._log(pair).last
        for key in sorted(queue.rows):
            if key > forced and (key[0] == generation and last >= 0 and key[1] > last + 1):
                break
            held = queue.rows[key]
            if (kind is not None and held.arrival.kind != kind) or len(leaving) == room:
                return leaving, False
            leaving.append(key)
            generation, last = key
        return leaving, True

    def _pressed_until_s(self, max_held: int) -> float:
        kept = sum(origin.batch.nbytes for origin in self._origins)
        if (
            self._rows <= max_held
            and len(self._origins) <= MAX_HELD_INPUTS
            and kept <= MAX_HELD_BYTES
        ):
            return 0.0
        dues = sorted(held.due_s for queue in self._queues.values() for held in queue.rows.values())
        # Half may still be too many: rows of one kind alone may have been allowed to leave before.
        return dues[max(len(dues) // 2, len(dues) - 1 - max_held)]

    def _count(self, origin: Origin, rows: int) -> None:
        self._rows += rows
        count = self._origins.get(origin, 0) + rows
        if count:
            self._origins[origin] = count
        else:
            del self._origins[origin]


def _begins_anew(queue: _Queue, log: Pair, number: int, ts_event_ns: int) -> bool:
    """As `Pair.begins_anew`, of what waits and the log together."""
    if ts_event_ns <= queue.newest_ns or not number <= min(1, queue.highest):
        return False
    return queue.generation > 0 or number > log.last or log.begins_anew(number, ts_event_ns)


def _first_due_s(queue: _Queue) -> float:
    # Rows of a pair are of one source: who came first is due first.
    return next(iter(queue.rows.values())).due_s


def _renumber(queue: _Queue, generations: int) -> None:
    """Count generations from that of the log, which has gone on by this many."""
    queue.generation -= generations
    queue.rows = {(g - generations, n): held for (g, n), held in queue.rows.items()}
