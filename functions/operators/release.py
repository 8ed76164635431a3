"""From rows that leave the reorder buffer to the batches of the frames that they leave in.

What waited may be of several kinds: rows are cut into segments of one kind such that each pair's
rows stay in their order, in as few segments as that allows. The first may join a mixed frame.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from functions.operators.reorder import Arrival, HeldRow
from marketdata.arrays import array_of, joined
from marketdata.frames import compact_dictionaries
from marketdata.mixed import MIXED, mixed_batch, of_one_kind


def segments(
    released: Sequence[HeldRow],
    *,
    kind: str,
    rows: int,
    size_bytes: int,
    max_rows: int,
    max_bytes: int,
) -> list[list[HeldRow]]:
    """Cut rows into what one frame each can hold; the first one joins a frame that is there.

    Args:
        released: in order within a pair.
        kind, rows, size_bytes: of the frame that the first segment joins (it may be empty).
        max_rows, max_bytes: bounds of a frame; a single row always fits one of its own.
    """
    by_turn: defaultdict[tuple[int, bool, str], list[HeldRow]] = defaultdict(list)
    turns: dict[int, tuple[int, str]] = {}
    for held in released:
        found = held.arrival.kind
        turn, last_kind = turns.get(held.pair, (0, found))
        if found != last_kind:
            turn += 1
        turns[held.pair] = turn, found
        by_turn[turn, found != kind, found].append(held)
    cut: list[list[HeldRow]] = [[]]
    room_rows, room_bytes = max_rows - rows, max_bytes - size_bytes
    current = kind
    for (_, _, found), rows_of_kind in sorted(by_turn.items(), key=lambda each: each[0]):
        for held in rows_of_kind:
            cost = held.arrival.size_bytes
            if found != current or room_rows < 1 or room_bytes < cost:
                cut.append([])
                current, room_rows, room_bytes = found, max_rows, max_bytes
            cut[-1].append(held)
            room_rows -= 1
            room_bytes -= cost
    return cut


def assembled(
    kind: str, first: pa.RecordBatch | None, released: Sequence[HeldRow]
) -> pa.RecordBatch:
    """One batch: the rows of `first`, then the released ones in their order.

    Args:
        kind: of all of them; `MIXED` when `first` is, and the others are of one kind.
        first: None for nothing.
        released: at least one row if there is no `first`.
    """
    pieces = [] if first is None else [(kind, first)]
    if released:
        by_origin: dict[int, tuple[Arrival, list[int], list[int]]] = {}
        for n, held in enumerate(released):
            arrival = held.arrival
            _, rows, places = by_origin.setdefault(id(arrival.origin), (arrival, [], []))
            rows.append(arrival.row)
            places.append(n)
        taken = [
            _events(one).take(pa.array(rows, pa.int64())) for one, rows, _ in by_origin.values()
        ]
        given = np.array([place for _, _, found in by_origin.values() for place in found])
        events = joined(taken).take(array_of(np.argsort(given), pa.int64()))
        pieces.append((released[0].arrival.kind, compact_dictionaries(events)))
    if kind == MIXED:
        return mixed_batch(pieces)
    return compact_dictionaries(joined([batch for _, batch in pieces]))


def _events(arrival: Arrival) -> pa.RecordBatch:
    """The batch of an arrival, of which only rows of its kind will be taken."""
    batch = arrival.origin.batch
    return of_one_kind(batch, arrival.kind) if arrival.origin.is_mixed else batch
