"""Pacing: sending at once while messages are few, gathering for a while when they are many.

What a message costs hardly depends on how many events it holds: its writer, the broker and each of
its readers pay for it once. Whoever sends what there is as soon as he is free keeps all of them
busy however little comes, and events then wait for a processor instead of for each other. So who
sends more than a rate lets things gather between one time and the next.
"""

from typing import Final

MOST_BEHIND: Final = 4
"""So many times the longest wait is the most that anybody can be behind: a pause of that makes up
for everything."""


class Pace:
    """Who sends at most `rate` messages a second on average never waits, nor after a pause.

    However many somebody sends at one time, he waits only if he was too fast before.

    Threads may share one; what two of them count at the same moment may count once. Times are
    those of `time.monotonic`.

    Args:
        rate: messages a second that leave at once.
        burst: so many may be ahead of it.
        longest_s: nobody is to wait for longer.
    """

    def __init__(self, rate: float, *, burst: int, longest_s: float) -> None:
        self._each_s: Final = 1.0 / rate
        self._ahead_s: Final = burst / rate
        self._longest_s: Final = longest_s
        self._paid_s = 0.0
        self._free_at_s = 0.0

    def sent(self, began_s: float, ended_s: float, messages: int, gather_s: float | None) -> None:
        """So many messages have been sent from then to then.

        Args:
            gather_s: where those before were too many already, the next ones wait so long behind
                them; None when nothing was gathered for these, which then change no wait.
        """
        too_fast = self._paid_s > began_s + self._ahead_s
        paid_s = max(self._paid_s, ended_s) + messages * self._each_s
        self._paid_s = min(ended_s + self._ahead_s + MOST_BEHIND * self._longest_s, paid_s)
        if too_fast and gather_s is not None:
            self._free_at_s = ended_s + min(self._longest_s, gather_s)

    def waits_s(self, now_s: float) -> float:
        """How long to wait with sending more."""
        return max(0.0, self._free_at_s - now_s)
