"""Events of refused requests: a few a minute, however many somebody sends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from control_plane.acting import Refusal
from control_plane.domains.events.repository import Change
from control_plane.domains.events.schemas import EventType

PAUSE_SECONDS = 60.0
MOST_CALLERS = 10
UNAUTHENTICATED = 401


class RefusedEvents:
    """Counts refusals. The first is told at once, those of the next minute together."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reasons: Counter[str] = Counter()
        self._callers: Counter[str] = Counter()
        self._next = 0.0

    def count(self, refusal: Refusal) -> None:
        """Note a request that was refused: 401 by its reason, 403 by who sent it."""
        if refusal.status == UNAUTHENTICATED:
            self._reasons[refusal.reason] += 1
        else:
            self._callers[refusal.actor.actor] += 1

    def take(self) -> list[Change]:
        """What is to be told now, as events; it begins anew then, and nothing comes for a while."""
        if self._clock() < self._next:
            return []
        found = []
        if self._reasons:
            data = {"times": self._reasons.total(), "reasons": dict(self._reasons)}
            found.append(Change(EventType.LOGIN_FAILED, data))
        if self._callers:
            callers = dict(self._callers.most_common(MOST_CALLERS))
            data = {"times": self._callers.total(), "callers": callers}
            found.append(Change(EventType.ACCESS_REFUSED, data))
        if found:
            self._reasons.clear()
            self._callers.clear()
            self._next = self._clock() + PAUSE_SECONDS
        return found
