"""Numbers that were skipped and may still come: disjoint closed ranges, in order. Pure."""

from bisect import bisect_right
from collections.abc import Iterator


class Holes:
    """The holes of one rising counter.

    Args:
        most: how many are kept; the oldest are forgotten beyond. None keeps all.
    """

    __slots__ = ("_firsts", "_lasts", "_most")

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, first: int, last: int) -> None:
        """Remember a range above all others."""
        self._firsts.append(first)
        self._lasts.append(last)
        if self._most is not None and len(self._firsts) > self._most:
            del self._firsts[0], self._lasts[0]

    def fill(self, first: int, last: int) -> Iterator[tuple[bool, int, int]]:
        """Split first…last into ranges that (True) fill a hole and that (False) do not.

        >>> holes = Holes()
        >>> holes.add(5, 7)
        >>> list(holes.fill(4, 6)), holes.ranges()
        ([(False, 4, 4), (True, 5, 6)], [(7, 7)])
        """
        while first <= last:
            i = bisect_right(self._firsts, first) - 1
            if i >= 0 and first <= self._lasts[i]:
                end = min(last, self._lasts[i])
                self._cut(i, first, end)
                yield True, first, end
            else:
                end = last
                if i + 1 < len(self._firsts):
                    end = min(last, self._firsts[i + 1] - 1)
                yield False, first, end
            first = end + 1

    def ranges(self) -> list[tuple[int, int]]:
        """What is left, as (first, last)."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def _cut(self, i: int, first: int, last: int) -> None:
        hole_first, hole_last = self._firsts[i], self._lasts[i]
        rest = [(a, b) for a, b in ((hole_first, first - 1), (last + 1, hole_last)) if a <= b]
        self._firsts[i : i + 1] = [a for a, _ in rest]
        self._lasts[i : i + 1] = [b for _, b in rest]
