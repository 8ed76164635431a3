"""Whether a stream is alive: when each partition was last heard of. Pure; time is an argument.

Where heartbeats are sent, a live partition is never silent for longer than their pace, so silence
says that something stands still, and not that nothing happened.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Silence:
    """Neither events nor heartbeats came for longer than the consumer's `heartbeat_timeout_s`.

    Attributes:
        partition: the silent one; None for the whole topic.
        idle_s: how long already.
    """

    partition: int | None
    idle_s: float


class Liveness:
    """Tells each silence once, when it has lasted `timeout_ns`.

    Args:
        timeout_ns: how long nothing may come; None never tells.
        by_partition: every partition that was heard of must go on; otherwise any of them will do,
            as for a member of a group, whose partitions go to others.
        now_ns: when listening began, of any monotonic clock.
    """

    def __init__(self, timeout_ns: int | None, *, by_partition: bool, now_ns: int) -> None:
        self._timeout_ns = timeout_ns
        self._by_partition = by_partition
        self._heard_ns: dict[int | None, int] = {None: now_ns}
        self._told: set[int | None] = set()
        self._latest_ns = now_ns

    def heard(self, partition: int, *, now_ns: int) -> None:
        """A message of any kind came."""
        self._latest_ns = now_ns
        if self._by_partition:
            self._heard_ns.pop(None, None)
            self._told.discard(None)
        key = partition if self._by_partition else None
        self._heard_ns[key] = now_ns
        self._told.discard(key)

    def absent(self, absent_ns: int) -> None:
        """Nobody listened for a while, so nothing could be heard."""
        if self._timeout_ns is not None and absent_ns > self._timeout_ns // 2:
            self._heard_ns = {key: at_ns + absent_ns for key, at_ns in self._heard_ns.items()}

    def silences(self, *, now_ns: int) -> list[Silence]:
        """Those that have lasted long enough now and were not told yet."""
        if self._timeout_ns is None:
            return []
        found = []
        for partition, at_ns in self._heard_ns.items():
            if now_ns - at_ns >= self._timeout_ns and partition not in self._told:
                self._told.add(partition)
                found.append(Silence(partition, (now_ns - at_ns) / 1e9))
        return found

    def idle_ns(self, *, now_ns: int) -> int:
        """Since when no message of any kind has come."""
        return now_ns - self._latest_ns
