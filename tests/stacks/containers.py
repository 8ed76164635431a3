"""The stack in containers: compose.yaml as a project of the tests' own.

Images are built from Debian alone (compose.debian.yaml); with DDS_CONTAINER_BASES=official from the
official images. Containers and volumes are removed at the end; images stay, as the cache of the
next run. Everything speaks TLS and asks for tokens: what this process and those that it starts
show and trust stands in its environment meanwhile.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final, Self

import pytest
from testcontainers.compose import DockerCompose

from scripts.container_secrets import make_secrets
from scripts.devstack.archive import pulsar_home
from scripts.devstack.component import CHECKOUT
from scripts.devstack.console import Console
from scripts.devstack.ports import HOST, choose

SERVICES: Final = {"pulsar": "broker", "postgresql": "postgresql", "control_plane": "control-plane"}
"""Component of the local stack -> service of compose.yaml."""

_PORTS: Final = ("PULSAR", "PULSAR_2", "ADMIN", "API", "PROMETHEUS")
_FIRST_PORT: Final = 21_000

# Instances are found by what the functions worker starts them with.
_INSTANCES: Final = """
import json, pathlib, sys
for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
        command = path.read_bytes().decode().split(chr(0))
    except OSError:
        continue
    if "--function_details" in command:
        details = command[command.index("--function_details") + 1].strip("'")
        if json.loads(details)["name"] == sys.argv[1]:
            print(path.parent.name)
"""


class ContainerStack:
    """A context manager that brings the containers up, with everything deployed, and down again.

    Args:
        home: where its secrets and settings are kept.
        files: the compose files, below the checkout.
        project: name of the compose project.
    """

    workers: Sequence[str] = ("broker",)
    """The services that functions run in."""

    def __init__(
        self,
        home: Path,
        files: Sequence[str] = ("compose.yaml",),
        project: str = "dds-test",
    ) -> None:
        self._home = home
        self.official = os.environ.get("DDS_CONTAINER_BASES") == "official"
        self.ports: dict[str, int] = {}
        self._compose = DockerCompose(
            CHECKOUT,
            compose_file_name=[*files, *([] if self.official else ["compose.debian.yaml"])],
            build=True,
            env_file=str(home / "compose.env"),
        )
        self._project = project
        self._trust = home / "ca.pem"
        self._token = home / "platform.token"
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        self._configure()
        if not self.official:
            self._build_bases()
        try:
            self._compose.start()
            self.authenticate()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
        if os.environ.get("DDS_KEEP_STACK"):
            return
        self._compose.stop()

    @property
    def service_url(self) -> str:
        """Where clients on this machine connect."""
        return f"pulsar+ssl://{HOST}:{self.ports['PULSAR']}"

    @property
    def control_plane_url(self) -> str:
        """Where the API is published."""
        return f"https://{HOST}:{self.ports['API']}"

    def environment(self) -> dict[str, str]:
        """Broker, its admin API and the control plane; the database is not published."""
        return {
            "DDS_PULSAR_SERVICE_URL": self.service_url,
            "DDS_PULSAR_ADMIN_URL": f"https://{HOST}:{self.ports['ADMIN']}",
            "DDS_CONTROL_PLANE_URL": self.control_plane_url,
            "DDS_TLS_TRUST_CERTS": str(self._trust),
            "DDS_TOKEN_FILE": str(self._token),
        }

    def kill(self, component: str, sig: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a component's container; SIGKILL waits for its end."""
        service = SERVICES.get(component, component)
        pid = int(self._docker("inspect", "--format={{.State.Pid}}", self.container(service)))
        # A busy engine complains that it did not see the end in time; waiting for it says more.
        with suppress(AssertionError) if sig == signal.SIGKILL else nullcontext():
            self.run("kill", "--signal", sig.name, service)
        if sig == signal.SIGKILL:
            self._docker("wait", self.container(service))
        return pid

    def start(self, component: str) -> None:
        """Start one component that is down and wait until it is healthy."""
        service = SERVICES.get(component, component)
        # `start` would wait for jobs that have ended long ago to run once more.
        self._docker("start", self.container(service))
        self.run("up", "--no-deps", "--no-recreate", "--wait", "--wait-timeout", "180", service)

    def build(self, *, version: str) -> None:
        """Build the images anew, as `version`; whoever is replaced from now on gets them."""
        with (self._home / "compose.env").open("a") as settings:
            settings.write(f"DDS_VERSION={version}\n")
        self.run("build")

    def replace(self, service: str) -> None:
        """Make a service's container anew and wait until it is healthy."""
        options = ("--detach", "--no-deps", "--force-recreate", "--wait", "--wait-timeout", "300")
        self.run("up", *options, service)

    def function_pids(self, function: str) -> list[int]:
        """The processes of a function's instances, numbered across the containers they are in."""
        return sorted(
            int(pid) * len(self.workers) + place
            for place, worker in enumerate(self.workers)
            for pid in self._python(worker, _INSTANCES, function).split()
        )

    def kill_instance(self, pid: int) -> None:
        """SIGKILL to one of them."""
        pid, place = divmod(pid, len(self.workers))
        self._python(self.workers[place], f"import os; os.kill({pid}, 9)")

    def _python(self, service: str, program: str, *arguments: str) -> str:
        return self.run("exec", "-T", service, "python3", "-c", program, *arguments)

    def container(self, service: str) -> str:
        """The id of a service's container, also of one that is down."""
        return self.run("ps", "--all", "--quiet", service).strip()

    def run(self, *arguments: str) -> str:
        """Output of a compose command on this stack; raises with what it said when it fails."""
        return self._call([*self._compose.docker_compose_command(), *arguments])

    def authenticate(self) -> None:
        """Fetch whom to trust and the platform's token, as compose.yaml says."""
        for path in (self._trust, self._token):
            stored = f"/credentials/platform/{path.name}"
            path.write_text(self.run("exec", "-T", "credentials", "cat", stored))
        for name in ("DDS_TLS_TRUST_CERTS", "DDS_TOKEN_FILE"):
            self._patch.setenv(name, self.environment()[name])

    def _docker(self, *arguments: str) -> str:
        return self._call(["docker", *arguments])

    @staticmethod
    def _call(command: list[str], **environment: str) -> str:
        ended = subprocess.run(
            command,
            cwd=CHECKOUT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def _configure(self) -> None:
        secrets = self._home / "secrets"
        make_secrets(secrets)
        for name in _PORTS:
            self.ports[name] = choose([_FIRST_PORT], self.ports.values())
        settings = {
            "COMPOSE_PROJECT_NAME": self._project,
            "DDS_SECRETS_DIR": str(secrets),
            "DDS_DEFAULT_ENTITLEMENTS": "everything",
            **self._settings(),
            **{f"DDS_{name}_PORT": str(port) for name, port in self.ports.items()},
        }
        lines = [f"{name}={value}\n" for name, value in settings.items()]
        (self._home / "compose.env").write_text("".join(lines))

    def _settings(self) -> dict[str, str]:
        """Further settings of the compose files."""
        return {}

    def _build_bases(self) -> None:
        command = ["docker", "compose", "-f", "containers/debian/compose.yaml", "build"]
        distribution = str(pulsar_home(Console()))
        self._call(command, DDS_PULSAR_DISTRIBUTION=distribution, PWD=str(CHECKOUT))
