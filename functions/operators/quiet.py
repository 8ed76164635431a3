"""Quiet views: when a view that gets no rows is sent a heartbeat.

A view is told the first time one interval after its last rows, then after twice, four times … that
time, up to the longest: the end of a burst is confirmed soon, and a thousand idle views cost
little.
"""

import math
from collections.abc import Iterable


class QuietPace:
    """The pace of the views of one partition. Times are seconds of any steady clock.

    Args:
        interval_s: after the last rows.
        longest_s: that the distance grows to.

    >>> pace = QuietPace(1.0, 4.0)
    >>> pace.rows("v", 0.0)
    >>> told = [t for t in range(20) if pace.due(["v"], t) and not pace.told("v", t)]
    >>> told
    [1, 3, 7, 11, 15, 19]
    """

    def __init__(self, interval_s: float, longest_s: float) -> None:
        self._interval_s = interval_s
        self._longest_s = max(interval_s, longest_s)
        self._views: dict[str, tuple[float, float]] = {}
        self._look_s = -math.inf

    def rows(self, view: str, now_s: float) -> None:
        """A view has been sent rows."""
        self._views[view] = (now_s + self._interval_s, self._interval_s)

    def due(self, views: Iterable[str], now_s: float) -> list[str]:
        """Those of all views whose time has come; one never heard of is due at once.

        Answers at most twice an interval, so that asking costs nothing under load.
        """
        if now_s < self._look_s:
            return []
        self._look_s = now_s + self._interval_s / 2
        known = self._views
        found = {view: known.get(view) for view in views}
        self._views = {view: pace for view, pace in found.items() if pace is not None}
        return [view for view, pace in found.items() if pace is None or pace[0] <= now_s]

    def told(self, view: str, now_s: float) -> None:
        """A view has been sent a heartbeat, or cannot be sent one now: the next comes later."""
        _, step_s = self._views.get(view, (now_s, self._interval_s / 2))
        step_s = min(step_s * 2, self._longest_s)
        self._views[view] = (now_s + step_s, step_s)
