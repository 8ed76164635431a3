"""What every component of the stack offers, and what all of them share.

A component knows how to start its process and how to tell whether it serves. It never decides
*when*: order, repair and bookkeeping belong to `Stack`.
"""

from __future__ import annotations

import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from scripts.devstack.console import Console
from scripts.devstack.errors import ComponentError
from scripts.devstack.processes import Identity, terminate, wait_until
from scripts.devstack.security import Security

CHECKOUT = Path(__file__).resolve().parents[2]
"""The folder of this checkout."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stack lives, which ports it was given, and its secrets if it is a secure one."""

    home: Path
    ports: Mapping[str, int]
    security: Security | None = None

    @property
    def logs(self) -> Path:
        """The folder of all log files."""
        return self.home / "logs"

    def log(self, component: str) -> Path:
        """The log file of a component."""
        return self.logs / f"{component}.log"


class Component(ABC):
    """One process of the stack."""

    name: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    stop_grace_s: ClassVar[float] = 20.0
    start_timeout_s: ClassVar[float] = 60.0

    def __init__(self, place: Place) -> None:
        self.place = place

    @property
    def log(self) -> Path:
        """The log file of the component."""
        return self.place.log(self.name)

    @abstractmethod
    def urls(self) -> dict[str, str]:
        """The component's addresses, as they are written to `stack.json`."""

    @abstractmethod
    def prepare(self, console: Console) -> None:
        """Make files that the process needs; repeatable."""

    @abstractmethod
    def launch(self) -> Identity:
        """Start the process without waiting for it to serve."""

    @abstractmethod
    def healthy(self) -> bool:
        """Whether the component serves requests now. Never raises."""

    def await_healthy(self, identity: Identity) -> None:
        """Wait until the process serves; raise when it ends or takes too long."""
        ports = {self.place.ports[name] for name in self.port_names}

        def serves() -> bool:
            # Another program on the port may answer in its place until it fails to bind.
            return ports <= identity.listening_ports() and self.healthy()

        def decided() -> bool:
            self.check_start()
            return not identity.alive or serves()

        served = wait_until(decided, self.start_timeout_s, interval_s=0.1)
        if not identity.alive:
            raise ComponentError(
                self.name, "the process ended while starting", log=self.log, hint=self.hint()
            )
        if not served:
            raise ComponentError(
                self.name,
                f"not ready after {self.start_timeout_s:.0f} s",
                log=self.log,
                hint=self.hint(),
            )

    def check_start(self) -> None:  # noqa: B027  (most components have nothing to check)
        """Raise when a start that is under way cannot succeed. Called again and again."""

    def renew(self, identity: Identity) -> None:  # noqa: B027  (others look for themselves)
        """Have a process that serves take up certificates that were made anew."""

    def stop(self, identity: Identity) -> None:
        """End the process in good order, by force after `stop_grace_s`."""
        terminate(identity, grace_s=self.stop_grace_s, first=self.stop_signal)

    def hint(self) -> str:
        """What a person does when the component does not start."""
        return (
            "read the log above, then run `python3 scripts/dev.py up` again; "
            "`python3 scripts/dev.py reset` starts from nothing (deletes this stack's data)"
        )


def process_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a process of the stack: the project's Python comes first in PATH."""
    environment = {
        name: value
        for name, value in os.environ.items()
        # A Python path of the caller would reach into the project's virtual environment.
        if name not in {"PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__"}
    }
    binaries = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([binaries, environment.get("PATH", os.defpath)])
    if sys.prefix != sys.base_prefix:
        environment["VIRTUAL_ENV"] = sys.prefix
    environment["PYTHONUNBUFFERED"] = "1"
    return environment | dict(extra or {})
