"""What a test may ask of the stack it runs on, whichever one that is.

`--stack` chooses: the local one of `scripts/dev.py` (`scripts.devstack.stack.Stack`), the
containers of compose.yaml, or one that runs somewhere. Tests that pass on all of them carry the
marker `any_stack`; the others are about the local stack, and are left out elsewhere.
"""

import signal
from typing import Protocol


class RunningStack(Protocol):
    """A stack that serves. Components are `pulsar`, `postgresql` and `control_plane`."""

    @property
    def service_url(self) -> str:
        """The broker's address for clients."""

    @property
    def control_plane_url(self) -> str:
        """The HTTP API's address."""

    def environment(self) -> dict[str, str]:
        """The DDS_ variables that point a process at this stack, as far as it has them."""

    def kill(self, component: str, sig: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a component's process; SIGKILL waits for its end."""

    def start(self, component: str) -> None:
        """Start one component that is down and wait until it serves."""

    def function_pids(self, function: str) -> list[int]:
        """The processes of a function's instances, as the stack numbers them."""

    def kill_instance(self, pid: int) -> None:
        """SIGKILL to one of them."""
