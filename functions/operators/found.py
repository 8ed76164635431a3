"""What a frame shows about the order of its sources: findings, and marks on its rows."""

from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from functions.operators.pairs import Pair, Piece
from marketdata.ordering import OrderingEventType
from marketdata.schemas import GAP_BEFORE, OUT_OF_ORDER, REPEATED

WILD: Final = "too disordered to be examined event by event"

_Ints = npt.NDArray[Any]


class Finding(NamedTuple):
    """Something odd: an `OrderingEvent` without the names that only its surroundings know.

    `pair` names source and instrument, `row` is the row of the frame that showed it (-1 when that
    row is not in the frame); the rest is as in `marketdata.ordering.OrderingEvent`.
    """

    type: OrderingEventType
    pair: int
    first: int
    last: int
    events: int
    row: int
    ts_event_ns: int
    gap: tuple[int, int] | None = None
    closed_by: Literal["", "late_arrival", "fill", "reset"] = ""
    remaining: int = 0
    action: Literal["", "passed", "held", "dropped", "rejected"] = ""
    reason: str = ""


class Observation(NamedTuple):
    """What a frame showed.

    Attributes:
        findings: in the order of their numbers, which name gaps.
        marks: bits for `quality_flags`, by row: uint32; None where there are none.
        forgotten: missing events that are no longer remembered to be missing.
    """

    findings: list[Finding]
    marks: npt.NDArray[np.uint32] | None = None
    forgotten: int = 0


class Found:
    """Collects the findings and marks of one frame.

    Args:
        rows: how many the frame has.
    """

    def __init__(self, rows: int) -> None:
        self.findings: list[Finding] = []
        self.bits: npt.NDArray[np.uint32] | None = None
        self.forgotten = 0
        self._size = rows

    def add(
        self,
        type_: OrderingEventType,
        pair: int,
        first: int,
        last: int,
        events: int,
        places: _Ints,
        ts_event_ns: int,
        **more: Any,
    ) -> None:
        """Note a finding about rows of the frame, `places`; the rest is as in `Finding`."""
        more.setdefault("action", "passed")
        self.findings.append(
            Finding(type_, pair, first, last, events, int(places[0]), ts_event_ns, **more)
        )

    def mark(self, places: _Ints, bit: int) -> None:
        """Set a bit of `quality_flags` on rows of the frame."""
        if self.bits is None:
            self.bits = np.zeros(self._size, dtype=np.uint32)
        self.bits[places] |= np.uint32(bit)

    def before(self, number: int, pair: Pair, piece: Piece, places: _Ints, ts_ns: int) -> int:
        """Note what a piece shows before the state goes on; the number of a gap that it opens."""
        first, last = piece.first, piece.last
        events = last - first + 1
        opened = len(self.findings)
        if piece.kind == "new":
            if 0 <= pair.last < first - 1:
                missing = first - 1 - pair.last
                self.add("gap_opened", number, pair.last + 1, first - 1, missing, places, ts_ns)
                self.mark(places[:1], GAP_BEFORE)
        elif piece.kind == "repeat":
            self.add("repeat", number, first, last, events, places, ts_ns)
            self.mark(places, REPEATED)
        elif piece.kind == "reset":
            for name in dict.fromkeys((gap.position, gap.n) for gap in pair.gaps):
                parts = [gap for gap in pair.gaps if (gap.position, gap.n) == name]
                self.add(
                    "gap_closed",
                    number,
                    parts[0].first,
                    parts[-1].last,
                    sum(gap.last - gap.first + 1 for gap in parts),
                    places,
                    ts_ns,
                    gap=name,
                    closed_by="reset",
                )
            self.add("source_reset", number, first, last, events, places, ts_ns)
        else:
            self.add("reversal", number, first, last, events, places, ts_ns)
            self.mark(places, OUT_OF_ORDER)
        return opened

    def after(
        self, number: int, pair: Pair, piece: Piece, places: _Ints, ts_ns: int, *, filled: bool
    ) -> None:
        """Note how much of a gap is left when part of it has come."""
        if piece.gap is not None:
            self.add(
                "gap_closed",
                number,
                piece.first,
                piece.last,
                piece.last - piece.first + 1,
                places,
                ts_ns,
                gap=(piece.gap.position, piece.gap.n),
                closed_by="fill" if filled else "late_arrival",
                remaining=pair.missing_of(piece.gap),
            )
