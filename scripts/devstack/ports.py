"""Ports on the loopback interface: the usual one when it is free, otherwise another free one."""

from __future__ import annotations

import random
import secrets
import socket
from collections.abc import Collection, Mapping, Sequence

from scripts.devstack.errors import StackError
from scripts.devstack.processes import wait_until

HOST = "127.0.0.1"

_SEARCH = 2000

USUAL: Mapping[str, int] = {
    "pulsar": 6650,
    "pulsar_admin": 8080,
    "postgresql": 15432,
    "control_plane": 8000,
}
"""What each port is when nobody else has it."""


_LASTING = range(20_000, 30_000)


def lasting() -> int:
    """A port for what can never move to another: somewhere that nobody else is likely to look."""
    return secrets.choice(_LASTING)


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now, on loopback and on all interfaces."""
    for host in (HOST, ""):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # Servers set it too: a port in TIME_WAIT after a kill is free for them.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def await_free(port: int, timeout_s: float) -> bool:
    """Wait until `port` is free; False when it still is not after `timeout_s`."""
    return wait_until(lambda: is_free(port), timeout_s)


def choose(preferred: Sequence[int], taken: Collection[int]) -> int:
    """The first of `preferred` that is free and not in `taken`, else such a port above.

    Anyone above: two stacks that come up beside a third one listen to neither yet. The system is
    not asked for a port: it would give an ephemeral one, which any outgoing connection may occupy
    by the time the server binds it.
    """
    first = preferred[-1]
    above = sorted({*range(first + 1, first + _SEARCH)} - {*USUAL.values()})
    for port in (*preferred, *random.sample(above, len(above))):
        if port not in taken and is_free(port):
            return port
    raise StackError(
        f"no free port between {first} and {first + _SEARCH}",
        hint="end some of the servers that listen there (`ss -ltnp` lists them)",
    )
