"""The faults that there are.

Faults of one lane happen one after the other; those of different lanes overlap freely.
"""

from enum import StrEnum
from typing import Final


class FaultKind(StrEnum):
    """What can be done to a running stack."""

    KILL_SEQUENCER = "kill-sequencer"
    """kill -9 of one instance, or of all."""
    KILL_DISTRIBUTOR = "kill-distributor"
    PAUSE_SEQUENCER = "pause-sequencer"
    """SIGSTOP of one instance, or of all, and SIGCONT some seconds later."""
    PAUSE_DISTRIBUTOR = "pause-distributor"
    RESTART_FUNCTION = "restart-function"
    """Restart of a function by the admin API."""
    REDEPLOY = "redeploy"
    """Another config of a function, rolled out by `deploy_functions.py apply`."""
    SCALE = "scale"
    """Another parallelism of a function, from 1 to 4, rolled out the same way."""
    PAUSE_BROKER = "pause-broker"
    """SIGSTOP of the broker's JVM, and SIGCONT some seconds later."""
    RESTART_BROKER = "restart-broker"
    """An orderly end and a new start."""
    KILL_BROKER = "kill-broker"
    """kill -9 and a new start."""
    KILL_PUBLISHER = "kill-publisher"
    """kill -9; its next life repeats its calls or publishes anew what was not confirmed."""
    SLOW_CONSUMER = "slow-consumer"
    """A consumer reads nothing for some seconds, then goes on."""
    CHANGE_PLAN = "change-plan"
    """A subscription is made, closed or changed."""
    KILL_POSTGRESQL = "kill-postgresql"
    KILL_CONTROL_PLANE = "kill-control-plane"


LANES: Final[dict[str, tuple[FaultKind, ...]]] = {
    "functions": (
        FaultKind.KILL_SEQUENCER,
        FaultKind.KILL_DISTRIBUTOR,
        FaultKind.PAUSE_SEQUENCER,
        FaultKind.PAUSE_DISTRIBUTOR,
        FaultKind.RESTART_FUNCTION,
        FaultKind.REDEPLOY,
        FaultKind.SCALE,
    ),
    # Starting one takes the stack's lock, and a port that waited for it could be taken.
    "servers": (
        FaultKind.PAUSE_BROKER,
        FaultKind.RESTART_BROKER,
        FaultKind.KILL_BROKER,
        FaultKind.KILL_POSTGRESQL,
        FaultKind.KILL_CONTROL_PLANE,
    ),
    "publishers": (FaultKind.KILL_PUBLISHER,),
    "consumers": (FaultKind.SLOW_CONSUMER,),
    "plans": (FaultKind.CHANGE_PLAN,),
}
"""What a fault is done to; only one at a time."""

INTERVALS_S: Final[dict[str, float]] = {
    "functions": 14.0,
    "servers": 30.0,
    "publishers": 15.0,
    "consumers": 20.0,
    "plans": 12.0,
}
"""Seconds from one fault of a lane to its next, on average."""
