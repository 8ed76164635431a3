"""A stack whose topology a test may change: the project's files, copied, on servers of its own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import yaml

from scripts import deploy_functions
from scripts.devstack.component import CHECKOUT
from scripts.devstack.console import Console
from scripts.devstack.stack import Stack


class OwnStack:
    """The stack and the folder of its topology."""

    def __init__(self, stack: Stack, topology: Path) -> None:
        self.stack = stack
        self.topology = topology

    def deploy(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of `deploy_functions.py` on this stack."""
        options = [f"--topology={self.topology}", f"--admin-url={self.stack.admin_url}"]
        output = StringIO()
        with redirect_stdout(output), redirect_stderr(output):
            code = deploy_functions.main([*arguments, "--auto-approve", *options])
        return code, output.getvalue()

    def scale(self, **parallelism: int) -> None:
        """Want so many instances of functions, and apply it."""
        path = self.topology / "functions.yaml"
        document = yaml.safe_load(path.read_text())
        for function, instances in parallelism.items():
            document["functions"][function]["parallelism"] = instances
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        code, output = self.deploy("apply", "--only", "functions", "--timeout", "180")
        assert code == 0, output


@contextmanager
def own_stack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnStack]:
    """Bring it up, and take it away with its data."""
    topology = folder / "topology"
    shutil.copytree(CHECKOUT / "topology", topology)
    monkeypatch.setenv("DDS_TOPOLOGY_DIR", str(topology))
    stack = Stack(CHECKOUT / ".dds-own", console=Console())
    stack.reset()
    try:
        stack.up()
        yield OwnStack(stack, topology)
    finally:
        stack.reset()
