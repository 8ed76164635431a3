"""What conflated views have not been sent yet, of one partition.

An input stays unacknowledged until every conflated view has been sent what stands for it, so a
crash loses nothing: whoever takes over is given the inputs again.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence

import pyarrow as pa

from functions.runtime.inputs import Input
from marketdata.plans import View

Frame = tuple[Input, str, pa.RecordBatch]
"""An input, its kind and its events."""


class Conflation:
    """Frames that wait, and when each view's turn is. Times are seconds of any steady clock.

    Args:
        max_rows, max_bytes: when more waits, every view's turn has come.
    """

    def __init__(self, *, max_rows: int, max_bytes: int) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._frames: deque[Frame] = deque()
        self._rows = 0
        self._bytes = 0
        self._through: dict[str, int] = {}
        self._due_s: dict[str, float] = {}

    @property
    def _is_full(self) -> bool:
        return self._rows >= self._max_rows or self._bytes >= self._max_bytes

    @property
    def frames(self) -> Sequence[Frame]:
        """What waits, in log order."""
        return self._frames

    def add(self, frames: Iterable[Frame], views: Iterable[View], now_s: float) -> None:
        """Let frames wait for the turns of the views.

        Inputs that are given again, with all that are not acknowledged, take the place of those
        that wait.
        """
        for frame in frames:
            item, _, batch = frame
            if self._frames and item.position <= self._frames[-1][0].position:
                self.release()
            item.held = True
            self._frames.append(frame)
            self._rows += batch.num_rows
            self._bytes += item.size_bytes
        self._due_s = {
            view.id: self._due_s.get(view.id, now_s + view.delivery.conflate_s) for view in views
        }

    def due(self, views: Iterable[View], now_s: float) -> list[View]:
        """The views that lack something and whose turn has come."""
        if not self._frames:
            return []
        newest = self._frames[-1][0].position
        return [
            view
            for view in views
            if self._through.get(view.id) != newest
            and (self._is_full or self._due_s.get(view.id, now_s) <= now_s)
        ]

    def due_in_s(self, now_s: float) -> float | None:
        """Seconds until some view's turn comes; None while nothing waits."""
        if not self._frames:
            return None
        if self._is_full:
            return 0.0
        return max(0.0, min(self._due_s.values(), default=math.inf) - now_s)

    def told(self, told: Iterable[View], views: Iterable[View]) -> None:
        """Some views have been sent all that waits; what every view has waits no more.

        Args:
            views: all that are conflated.
        """
        if not self._frames:
            return
        newest = self._frames[-1][0].position
        for view in told:
            self._through[view.id] = newest
            self._due_s.pop(view.id, None)
        everywhere = min((self._through.get(view.id, -1) for view in views), default=newest)
        while self._frames and self._frames[0][0].position <= everywhere:
            item, _, batch = self._frames.popleft()
            item.held = False
            self._rows -= batch.num_rows
            self._bytes -= item.size_bytes

    def release(self) -> None:
        """Let nothing wait any more."""
        for item, _, _ in self._frames:
            item.held = False
        self._frames.clear()
        self._rows = self._bytes = 0
        self._through.clear()
        self._due_s.clear()
