"""Holding back what is not old enough yet: the runtime's thread waits here, so nothing more comes.

What waits stays with the broker, but for one message. The worker goes on meanwhile: it reports,
follows plans and settles what is under way.
"""

import time
from typing import Final

LOOK_AGAIN_S: Final = 1.0
"""Clocks may be set while we wait."""


def wait_s(delay_s: float, published_ms: int, now_ms: float) -> float:
    """How long a message has to wait, in seconds; 0 or less for not at all.

    It is never longer than the delay: what is here has been published, whatever its publisher's
    clock says.

    >>> wait_s(900, published_ms=1_000_000, now_ms=1_300_000)
    600.0
    >>> wait_s(900, published_ms=9_000_000, now_ms=1_300_000)
    900
    """
    return min(delay_s, delay_s - (now_ms - published_ms) / 1e3)


class Delay:
    """Lets a message through when it is old enough.

    Args:
        delay_s: since it was written to the log, by its publish time.
    """

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    def hold(self, published_ms: int) -> None:
        """Wait until a message that comes now is old enough; milliseconds since the epoch."""
        if not self._delay_s:
            return
        at_latest = time.monotonic() + self._delay_s
        while True:
            left = wait_s(self._delay_s, published_ms, time.time_ns() / 1e6)
            left = min(left, at_latest - time.monotonic())
            if left <= 0:
                return
            time.sleep(min(left, LOOK_AGAIN_S))
