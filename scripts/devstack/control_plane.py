"""The control plane of the stack, and the one-off commands that prepare what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.devstack import http
from scripts.devstack.component import CHECKOUT, Component, Place, process_environment
from scripts.devstack.console import Console
from scripts.devstack.errors import ComponentError
from scripts.devstack.ports import HOST
from scripts.devstack.processes import Identity, spawn

MIGRATE = ("-m", "alembic", "-c", "migrations/alembic.ini", "upgrade", "head")
"""Arguments of Python that bring the database's schema up to date."""

DEPLOY = ("scripts/deploy_functions.py", "apply", "--auto-approve")
"""Arguments of Python that make the cluster match `topology/`."""


class ControlPlane(Component):
    """The HTTP API."""

    name = "control_plane"
    port_names = ("control_plane",)
    start_timeout_s = 120.0

    def __init__(self, place: Place, environment: Mapping[str, str]) -> None:
        super().__init__(place)
        self._environment = environment

    @property
    def url(self) -> str:
        """Where the API is served."""
        scheme = "http" if self.place.security is None else "https"
        return f"{scheme}://{HOST}:{self.place.ports['control_plane']}"

    def urls(self) -> dict[str, str]:
        """`url`: where the API is served."""
        return {"url": self.url}

    def prepare(self, console: Console) -> None:
        """Nothing to prepare: it is configured by its environment only."""

    def launch(self) -> Identity:
        """Start the server process."""
        listen = {
            "DDS_HTTP_HOST": HOST,
            "DDS_HTTP_PORT": str(self.place.ports["control_plane"]),
            # To try things out; what a service that is deployed has by default is "nothing".
            "DDS_DEFAULT_ENTITLEMENTS": os.environ.get("DDS_DEFAULT_ENTITLEMENTS", "everything"),
        }
        if self.place.security is not None:
            listen |= self.place.security.control_plane_settings()
        return spawn(
            [sys.executable, "-m", "control_plane"],
            home=self.place.home,
            log=self.log,
            environment=process_environment({**self._environment, **listen}),
            cwd=CHECKOUT,
        )

    def healthy(self) -> bool:
        """Whether the API answers and everything it depends on does."""
        return http.get(f"{self.url}/readyz", security=self.place.security) is not None


def run_task(
    name: str, arguments: Sequence[str], *, environment: Mapping[str, str], log: Path
) -> None:
    """Run a Python command of the project to its end; its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        ended = subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=CHECKOUT,
            env=process_environment(environment),
            check=False,
        )
    if ended.returncode != 0:
        raise ComponentError(
            name,
            f"`python {' '.join(arguments)}` ended with exit code {ended.returncode}",
            log=log,
            hint="read the log above; for a function that does not run, "
            "`python3 scripts/dev.py logs NAME` has its reason; then run the command again",
        )
