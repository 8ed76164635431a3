"""A topology of the run's own, a copy of the project's, that redeployments change."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from scripts.devstack.component import CHECKOUT, process_environment
from scripts.devstack.stack import Stack

TOPOLOGY_VARIABLE: Final = "DDS_TOPOLOGY_DIR"
DEPLOY_TIMEOUT_S: Final = 600.0
_RETRY_S: Final = 3.0


class DeployFailed(Exception):
    """A rollout did not succeed although it was tried for minutes; the text is its output."""


class OwnTopology:
    """The copy. The stack's control plane keeps the functions as it says."""

    def __init__(self, folder: Path, stack: Stack) -> None:
        self.folder = folder
        self._stack = stack

    def copy_from(self, source: Path) -> None:
        """Begin with the files of `source`."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(source, self.folder)

    def partitions(self) -> int:
        """How many partitions each of the service's topics has."""
        document = yaml.safe_load((self.folder / "topics.yaml").read_text("utf-8"))
        return int(document["partitions"])

    def parallelism(self, function: str) -> int:
        """How many instances a function is to have."""
        return int(self._read()["functions"][function]["parallelism"])

    def scale(self, function: str, parallelism: int) -> None:
        """Want so many instances and roll it out."""
        document = self._read()
        document["functions"][function]["parallelism"] = parallelism
        self._roll_out(document)

    def configure(self, function: str, **config: Any) -> None:
        """Want another config of the function and roll it out."""
        document = self._read()
        document["functions"][function]["config"].update(config)
        self._roll_out(document)

    @property
    def _file(self) -> Path:
        return self.folder / "functions.yaml"

    def _read(self) -> Any:
        return yaml.safe_load(self._file.read_text("utf-8"))

    def _roll_out(self, document: Any) -> None:
        written = self._file.with_suffix(".new")
        written.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
        # In one step: the control plane reads it at any time.
        written.replace(self._file)
        deadline = time.monotonic() + DEPLOY_TIMEOUT_S
        while True:
            ended = self._apply()
            if ended.returncode == 0:
                return
            # Another fault may have hit the broker meanwhile; an operator would try again, too.
            if time.monotonic() > deadline:
                raise DeployFailed(ended.stdout + ended.stderr)
            time.sleep(_RETRY_S)

    def _apply(self) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [
                sys.executable,
                "scripts/deploy_functions.py",
                "apply",
                "--only=functions",
                "--auto-approve",
                f"--topology={self.folder}",
                f"--admin-url={self._stack.admin_url}",
            ],
            cwd=CHECKOUT,
            env=process_environment(),
            capture_output=True,
            text=True,
            check=False,
        )


@contextmanager
def own_topology(stack: Stack) -> Iterator[OwnTopology]:
    """The stack, brought up with a topology of its own; with the one it had again afterwards."""
    before = os.environ.get(TOPOLOGY_VARIABLE)
    topology = OwnTopology(stack.home / "chaos-topology", stack)
    topology.copy_from(Path(before) if before else CHECKOUT / "topology")
    os.environ[TOPOLOGY_VARIABLE] = str(topology.folder)
    try:
        stack.up()
        yield topology
    finally:
        if before is None:
            del os.environ[TOPOLOGY_VARIABLE]
        else:
            os.environ[TOPOLOGY_VARIABLE] = before
