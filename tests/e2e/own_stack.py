"""A stack whose topology a test may change: the project's files, copied, on servers of its own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pulsar
import pytest
import yaml

from marketdata.topics import DEADLETTER_DISTRIBUTOR, DEADLETTER_SEQUENCER
from scripts import deploy_functions
from scripts.devstack.component import CHECKOUT
from scripts.devstack.console import Console
from scripts.devstack.logs import log_files
from scripts.devstack.stack import Stack
from scripts.verification.closing import close
from scripts.verification.report import Report
from tests.stacks.local import brought_up

_MOST_LINES = 40


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

    def account(self, report: Report) -> str:
        """What was found, and what the functions said of it: nothing of the stack is left later."""
        return "\n".join([report.text(), *self._dead_letters(), *self._warnings()])

    def _dead_letters(self) -> list[str]:
        told = []
        client = pulsar.Client(
            self.stack.service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error)
        )
        for base in (DEADLETTER_SEQUENCER, DEADLETTER_DISTRIBUTOR):
            for topic in client.get_topic_partitions(base):
                reader = client.create_reader(topic, pulsar.MessageId.earliest)
                while reader.has_message_available():
                    properties = reader.read_next(10_000).properties()
                    told.append(f"dead letter in {topic}: {properties}")
        close(client)
        return told[:_MOST_LINES]

    def _warnings(self) -> list[str]:
        return [
            f"{label}: {line}"
            for label, path in log_files(self.stack.home / "logs", None).items()
            if path.parent.parent.parent.name == "marketdata"
            for line in path.read_text("utf-8", "replace").splitlines()
            if "WARNING" in line or "ERROR" in line or "partition ready" in line
        ][-_MOST_LINES:]


@contextmanager
def own_stack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnStack]:
    """Bring it up, and take it away with its data."""
    topology = folder / "topology"
    shutil.copytree(CHECKOUT / "topology", topology)
    monkeypatch.setenv("DDS_TOPOLOGY_DIR", str(topology))
    stack = Stack(CHECKOUT / ".dds-own", console=Console())
    stack.reset()
    try:
        brought_up(stack)
        yield OwnStack(stack, topology)
    finally:
        stack.reset()
