"""Ticking: when an instance publishes a tick to which partition of `ingest`.

A tick is an input like any other and goes to whoever reads the partition. Ownership moves without
telling, so it is inferred: what arrives here is read here, and an instance whose ticks do not come
back no longer reads the partition. Partitions not known to be read here are probed at a slow pace,
so that an idle system comes alive and an owner that died in idle time is succeeded. A partition in
which events flow costs nothing.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

PATIENCE_TICKS: Final = 3
"""So many ticks without an answer, and the partition is taken to be read elsewhere."""

PROBE_INTERVALS: Final = 10
"""Pace of the probes of partitions read elsewhere, in intervals, before the jitter."""

EARLY_SHARE: Final = 0.05
"""Least distance of early ticks from the tick before, as a share of the interval."""


@dataclass(slots=True)
class _Pace:
    """One partition: when something last came or was sent, and whether it is read here."""

    last_s: float
    tick_s: float = -math.inf
    unanswered: int = 0
    owned: bool = False


class TickPacer:
    """Decides for all partitions of one instance. Times are seconds of any steady clock.

    Args:
        partitions: how many `ingest` has.
        interval_s: a partition in which nothing came for so long is sent a tick.
        jitter: 0…1, another one for each instance, so that their probes do not coincide.
        now_s: the time; the first probes follow within one interval.
    """

    def __init__(self, partitions: int, interval_s: float, jitter: float, now_s: float) -> None:
        self._interval_s = interval_s
        self._probe_s = PROBE_INTERVALS * interval_s * (1 + jitter)
        began_s = now_s - self._probe_s + jitter * interval_s
        self._paces = [_Pace(began_s) for _ in range(partitions)]
        self._look_s = now_s

    def received(self, partition: int, now_s: float) -> None:
        """Something came from a partition; one beyond those known is another layout's, ignored."""
        if partition < len(self._paces):
            pace = self._paces[partition]
            pace.last_s = now_s
            pace.unanswered = 0
            if not pace.owned:
                pace.owned = True
                self._look_s = min(self._look_s, now_s + self._interval_s)

    def take_due(
        self, now_s: float, early_s: Mapping[int, float], busy: Collection[int]
    ) -> list[int]:
        """The partitions to send a tick to now; they count as sent.

        Args:
            now_s: the time.
            early_s: partitions in which something is due, and in how many seconds.
            busy: partitions whose inputs are still worked on: only what is due ticks there.
        """
        due = [number for number, in_s in early_s.items() if self._early(number, in_s, now_s) <= 0]
        if now_s >= self._look_s:
            due += [
                number
                for number, pace in enumerate(self._paces)
                if number not in due and number not in busy and self._at_s(pace) <= now_s
            ]
            self._look_s = min(
                (
                    at_s if (at_s := self._at_s(pace)) > now_s else now_s + self._interval_s
                    for pace in self._paces
                ),
                default=math.inf,
            )
        return [number for number in due if self._send(self._paces[number], now_s)]

    def due_in_s(self, now_s: float, early_s: Mapping[int, float]) -> float:
        """Seconds until `take_due` should be asked again, unless something comes before."""
        waits = [self._early(number, in_s, now_s) for number, in_s in early_s.items()]
        return max(0.0, min([self._look_s - now_s, *waits]))

    def _at_s(self, pace: _Pace) -> float:
        return pace.last_s + (self._interval_s if pace.owned else self._probe_s)

    def _early(self, number: int, in_s: float, now_s: float) -> float:
        """Seconds until an early tick: not while one is under way, and not one upon the other."""
        pace = self._paces[number]
        spacing_s = self._interval_s * (1.0 if pace.unanswered else EARLY_SHARE)
        return max(in_s, pace.tick_s + spacing_s - now_s)

    def _send(self, pace: _Pace, now_s: float) -> bool:
        """Note a tick; False when the partition is given up instead."""
        pace.last_s = now_s
        if pace.owned and pace.unanswered >= PATIENCE_TICKS:
            pace.owned = False
            return False
        pace.tick_s = now_s
        pace.unanswered += 1
        self._look_s = min(self._look_s, self._at_s(pace))
        return True
