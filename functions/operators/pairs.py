"""What is known of one source's numbers for one instrument, and what a run of numbers means to it.

Plain Python for the odd few: the sound rest of a frame is compared in `source_order` without
coming here. Numbers arrive as *runs*, ranges without holes, so a repeated frame of a thousand
events is one step. Everything here is a function of its arguments.
"""

from bisect import bisect_left
from typing import Final, Literal, NamedTuple

MAX_GAPS_A_PAIR: Final = 64
"""Open gaps that are remembered of one source and instrument; the oldest are forgotten first."""

PieceKind = Literal["new", "late", "old", "repeat", "reset"]


class Gap(NamedTuple):
    """Numbers that are missing, both ends included, and the finding that opened it."""

    first: int
    last: int
    position: int
    n: int


class Piece(NamedTuple):
    """Part of a run to which one thing applies.

    `new` is beyond all before (behind a hole or not), `late` lies in the open gap `gap`, `old` is
    so far back that nobody knows whether it came, `repeat` came before, `reset` begins anew.
    """

    kind: PieceKind
    first: int
    last: int
    gap: Gap | None = None


class Pair:
    """The numbers of one (source, instrument).

    Attributes:
        last: the highest number; -1 before the first.
        newest_ns: the newest `ts_event`.
        forgotten: at or below it a number outside of open gaps may or may not have come.
        gaps: open ones, rising.
    """

    __slots__ = ("forgotten", "gaps", "last", "newest_ns")

    def __init__(
        self, last: int = -1, newest_ns: int = -1, forgotten: int = 0, gaps: list[Gap] | None = None
    ) -> None:
        self.last = last
        self.newest_ns = newest_ns
        self.forgotten = forgotten
        self.gaps: list[Gap] = gaps if gaps is not None else []

    def copy(self) -> "Pair":
        """One that can be changed alone."""
        return Pair(self.last, self.newest_ns, self.forgotten, list(self.gaps))

    def begins_anew(self, number: int, ts_event_ns: int) -> bool:
        """Whether the source starts to count again: a lowest number that is newer than all before.

        One that is known to be missing is not taken for a new start.
        """
        return (
            number <= 1
            and number <= self.last
            and ts_event_ns > self.newest_ns
            and not (self.gaps and self.gaps[0].first <= number <= self.gaps[0].last)
        )

    def classify(self, first: int, last: int, ts_event_ns: int) -> list[Piece]:
        """What the run `first`…`last` is made of, rising; its first event is of `ts_event_ns`."""
        if self.last < 0:
            return [Piece("new", first, last)]
        if self.begins_anew(first, ts_event_ns):
            return [Piece("reset", first, last)]
        pieces: list[Piece] = []
        at, end = first, min(last, self.last)
        for gap in self.gaps[self._first_gap_reaching(first) :]:
            if gap.first > end:
                break
            if at < gap.first:
                pieces += self._known(at, gap.first - 1)
            begin, at = max(at, gap.first), min(end, gap.last) + 1
            pieces.append(Piece("late", begin, at - 1, gap))
        if at <= end:
            pieces += self._known(at, end)
        if last > self.last:
            pieces.append(Piece("new", max(first, self.last + 1), last))
        return pieces

    def take(
        self, piece: Piece, newest_ns: int, position: int, n: int, *, room: bool = True
    ) -> int:
        """Go on behind a piece; returns how many missing numbers had to be forgotten.

        Args:
            piece: from `classify` of this state.
            newest_ns: the newest `ts_event` of its events.
            position, n: name the gap that it may open.
            room: whether the partition may remember one more gap.
        """
        forgotten, before = 0, len(self.gaps)
        self.newest_ns = max(self.newest_ns, newest_ns)
        if piece.kind == "new":
            if self.last < 0:
                self.forgotten = max(piece.first - 1, 0)
            elif piece.first > self.last + 1:
                self.gaps.append(Gap(self.last + 1, piece.first - 1, position, n))
            self.last = piece.last
        elif piece.kind == "late" and piece.gap is not None:
            index = self._first_gap_reaching(piece.first)
            gap = piece.gap
            rest = [
                gap._replace(last=piece.first - 1),
                gap._replace(first=piece.last + 1),
            ]
            self.gaps[index : index + 1] = [each for each in rest if each.first <= each.last]
        elif piece.kind == "reset":
            self.gaps = []
            self.last = piece.last
            self.forgotten = max(piece.first - 1, 0)
        if len(self.gaps) > (MAX_GAPS_A_PAIR if room else before):
            oldest = self.gaps.pop(0)
            self.forgotten = max(self.forgotten, oldest.last)
            forgotten = oldest.last - oldest.first + 1
        return forgotten

    def missing_of(self, gap: Gap) -> int:
        """How many numbers of the gap that `gap` is a part of are still missing."""
        return sum(
            each.last - each.first + 1
            for each in self.gaps
            if (each.position, each.n) == (gap.position, gap.n)
        )

    def give_up(self, highest: int, newest_ns: int) -> int:
        """Go on behind `highest` without knowing what came; returns how many gaps' numbers go."""
        forgotten = sum(gap.last - gap.first + 1 for gap in self.gaps)
        self.gaps = []
        self.last = self.forgotten = max(self.last, highest)
        self.newest_ns = max(self.newest_ns, newest_ns)
        return forgotten

    def _known(self, first: int, last: int) -> list[Piece]:
        pieces: list[Piece] = []
        if first <= self.forgotten:
            pieces.append(Piece("old", first, min(last, self.forgotten)))
        if last > self.forgotten:
            pieces.append(Piece("repeat", max(first, self.forgotten + 1), last))
        return pieces

    def _first_gap_reaching(self, number: int) -> int:
        return bisect_left(self.gaps, number, key=lambda gap: gap.last)
