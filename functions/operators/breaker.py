"""A circuit breaker: what keeps failing is not tried for a while, so that it holds nobody up. Pure.

Closed, all is tried. After `FAILURES` failures in a row, or one that has cost others their time, it
opens: nothing is tried until a pause is over. Then one trial (half-open) closes it again or doubles
the pause.
"""

from typing import Final

FAILURES: Final = 3
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0


class Breaker:
    """The breaker of one thing that may fail; times are seconds of any clock that only rises.

    Attributes:
        failures: in a row.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._pause_s = 0.0
        self._until_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it has opened and no trial has gone well since."""
        return self._pause_s > 0.0

    def allows(self, now_s: float) -> bool:
        """Whether a try, or a trial, is to be made now."""
        return not self.is_open or now_s >= self._until_s

    def succeeded(self) -> None:
        """The try went well."""
        self.failures = 0
        self._pause_s = 0.0

    def failed(self, now_s: float, *, at_once: bool = False) -> None:
        """The try failed; `at_once` opens whatever came before."""
        self.failures += 1
        if self.is_open or at_once or self.failures >= FAILURES:
            self._pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, self._pause_s * 2))
            self._until_s = now_s + self._pause_s
