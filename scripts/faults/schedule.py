"""Which fault happens when: a pure function of the seed."""

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from scripts.faults.kinds import INTERVALS_S, LANES, FaultKind

PAUSE_S: Final = (1.0, 20.0)
PARALLELISM: Final = (1, 4)
FUNCTIONS: Final = ("sequencer", "distributor")
PLAN_CHANGES: Final = ("subscribe", "close", "rename")

_JITTER: Final = (0.5, 1.5)
_PAUSES: Final = frozenset(
    {
        FaultKind.PAUSE_SEQUENCER,
        FaultKind.PAUSE_DISTRIBUTOR,
        FaultKind.PAUSE_BROKER,
        FaultKind.SLOW_CONSUMER,
    }
)
_OF_SOME_INSTANCES: Final = frozenset(
    {
        FaultKind.KILL_SEQUENCER,
        FaultKind.KILL_DISTRIBUTOR,
        FaultKind.PAUSE_SEQUENCER,
        FaultKind.PAUSE_DISTRIBUTOR,
    }
)
_OF_A_FUNCTION: Final = frozenset({FaultKind.RESTART_FUNCTION, FaultKind.REDEPLOY, FaultKind.SCALE})


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault to come.

    Attributes:
        at_s: when, in seconds from the start.
        lane: of `LANES`.
        scope: of instances: one of them, or all.
        pause_s: how long something stands still; 0 where nothing does.
        function: which one; empty where that is not asked.
        parallelism: the one to scale to; 0 elsewhere.
        pick: a number from which whoever injects it chooses among what is there then.
    """

    at_s: float
    lane: str
    kind: FaultKind
    scope: Literal["one", "all"] = "one"
    pause_s: float = 0.0
    function: str = ""
    parallelism: int = 0
    pick: int = 0

    def __str__(self) -> str:
        details = [
            self.scope if self.kind in _OF_SOME_INSTANCES else "",
            self.function,
            f"to {self.parallelism}" if self.parallelism else "",
            f"for {self.pause_s:.1f} s" if self.pause_s else "",
        ]
        return " ".join([str(self.kind), *filter(None, details)])


def plan_faults(
    seed: int, seconds: float, kinds: Collection[FaultKind] = tuple(FaultKind)
) -> list[Fault]:
    """The faults of a run, in the order of their times.

    Each lane deals its kinds like cards: none comes twice before every other has come once. In a
    run too short for that the faults come faster, so that each kind has its turn.

    Args:
        seed: the same seed gives the same faults.
        seconds: faults are within this time.
        kinds: which may happen.
    """
    faults: list[Fault] = []
    for lane, members in LANES.items():
        chosen = [kind for kind in members if kind in kinds]
        if chosen:
            # Each lane has a generator of its own: leaving one out changes no other.
            faults += _of_lane(random.Random(f"{seed}/{lane}"), lane, chosen, seconds)  # noqa: S311
    return sorted(faults, key=lambda fault: (fault.at_s, fault.lane))


def _of_lane(
    dice: random.Random, lane: str, kinds: list[FaultKind], seconds: float
) -> Iterator[Fault]:
    interval_s = min(INTERVALS_S[lane], seconds / (_JITTER[1] * len(kinds)))
    at_s, deck = 0.0, list[FaultKind]()
    while True:
        at_s += interval_s * dice.uniform(*_JITTER)
        if at_s > seconds:
            return
        if not deck:
            deck = dice.sample(kinds, len(kinds))
        yield _fault(dice, at_s, lane, deck.pop())


def _fault(dice: random.Random, at_s: float, lane: str, kind: FaultKind) -> Fault:
    # Everything is drawn whether it is used or not, so that no choice moves those behind it.
    scope: Literal["one", "all"] = "all" if dice.random() < 1 / 3 else "one"
    pause_s = round(dice.uniform(*PAUSE_S), 1)
    function = dice.choice(FUNCTIONS)
    parallelism = dice.randint(*PARALLELISM)
    pick = dice.getrandbits(30)
    return Fault(
        at_s=at_s,
        lane=lane,
        kind=kind,
        scope=scope if kind in _OF_SOME_INSTANCES else "one",
        pause_s=pause_s if kind in _PAUSES else 0.0,
        function=function if kind in _OF_A_FUNCTION else "",
        parallelism=parallelism if kind is FaultKind.SCALE else 0,
        pick=pick,
    )
