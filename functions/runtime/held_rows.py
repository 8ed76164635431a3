"""Which rows of the inputs wait, and what the next frame of the log has to say of that."""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from functions.operators.journal import (
    HELD_PROPERTY,
    RELEASED_PROPERTY,
    Places,
    apply_journal,
    encode_places,
)
from functions.operators.reorder import HeldRow
from functions.runtime.inputs import Input
from marketdata.arrays import lengths_of
from marketdata.mixed import MIXED


class HeldInput:
    """An input with rows that wait, decoded.

    Attributes:
        item: the input.
        batch: its events.
        is_mixed: whether they are of several kinds.
        row_bytes: most bytes that one of its rows takes in a frame.
    """

    def __init__(self, item: Input, kind: str, batch: pa.RecordBatch) -> None:
        self.item = item
        self.batch = batch
        self.is_mixed = kind == MIXED
        self._kind = kind
        texts = [c for c in batch.columns if pa.types.is_string(c.type)]
        longest = sum(int(lengths_of(each).max()) for each in texts)
        self.row_bytes = -(-batch.nbytes // batch.num_rows) + longest

    def kind_of(self, row: int) -> str:
        """The kind of one of its events."""
        if not self.is_mixed:
            return self._kind
        kind: str = self.batch.column(0)[row].as_py()
        return kind


class HeldRows:
    """The journal of one partition between two frames of the log.

    Args:
        places: of the state, all rows that wait after the newest frame of the log; kept up to date.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._new: Places = {}
        self._missing: set[int] = set(places)
        self._lost: Places = {}

    def of(self, item: Input) -> set[int]:
        """The rows that the log says wait of an input at or before its position."""
        return self._places.get(item.position, set())

    def found(self, item: Input) -> None:
        """An input of which rows wait is here again after a recovery."""
        self._missing.discard(item.position)

    def hold(self, item: Input, rows: Iterable[int]) -> None:
        """Rows of an input begin to wait."""
        self._new.setdefault(item.position, set()).update(rows)

    def give_up_missing(self) -> int:
        """An input behind all that wait has come: those not here by now will not come any more.

        Returns:
            How many rows are lost with them (their subscription was moved on by hand).
        """
        lost = {position: self._places[position] for position in self._missing}
        self._missing = set()
        self._lost.update(lost)
        return sum(map(len, lost.values()))

    def journal(self, released: Sequence[HeldRow]) -> dict[str, str]:
        """The properties of the next frame, which holds these rows; the state goes on behind it."""
        gone = self._lost
        for held in released:
            position, row = held.arrival.origin.item.position, held.arrival.row
            if row in self._new.get(position, ()):
                self._new[position].discard(row)
            else:
                gone.setdefault(position, set()).add(row)
        new = {position: rows for position, rows in self._new.items() if rows}
        self._new, self._lost = {}, {}
        properties = {}
        if new:
            properties[HELD_PROPERTY] = encode_places(new)
        if gone:
            properties[RELEASED_PROPERTY] = encode_places(gone)
        apply_journal(self._places, properties)
        return properties
