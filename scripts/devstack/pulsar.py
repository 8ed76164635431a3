"""The Pulsar standalone of the stack: broker, bookie and functions worker in one process.

It runs from the shared, read-only distribution with its own configuration and data below
`<home>/pulsar`, on loopback only. Nothing is weakened against a production broker where
durability is concerned: the bookie's journal is synced, which `standalone.conf` switches off.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from scripts.devstack import http, instance
from scripts.devstack.archive import pulsar_home
from scripts.devstack.component import Component, Place, process_environment
from scripts.devstack.console import Console
from scripts.devstack.errors import StartAgainError
from scripts.devstack.java import java_home
from scripts.devstack.logs import LogSince
from scripts.devstack.ports import HOST
from scripts.devstack.processes import Identity, spawn

MEMORY = "-Xms512m -Xmx1g -XX:MaxDirectMemorySize=1g"
"""The broker's memory unless PULSAR_MEM says otherwise."""

COLLECTOR = "-XX:+UseParallelGC"
"""Pulsar's default, ZGC, wants cores of its own: on two, the p99 of a publish was 65 ms with it,
32 ms with G1 and 15 ms with this."""

LIVENESS_CHECK_MS = 5000
"""How often the worker looks after its function processes, in whole seconds.

A killed instance is back after at most this time plus the start of a Python. An instance that has
not been asked for three of these ends itself, which bounds the life of orphans of a killed broker.
That also forbids less: with 2 s, instances that started on a busy machine ended themselves,
because the worker's first connections had failed and its pause before the next had grown.
"""

_PYTHON_INSTANCE = "instances/python-instance/python_instance_main.py"
_LOST_BOOKIE = b"Lock on resource /ledgers/available/"
_LOST_TIMES = 5


class Pulsar(Component):
    """Pulsar standalone with its functions worker."""

    name = "pulsar"
    port_names = ("pulsar", "pulsar_admin", "bookie")
    stop_grace_s = 30.0
    start_timeout_s = 180.0

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._start_log: LogSince | None = None

    @property
    def folder(self) -> Path:
        """Configuration and data of this broker."""
        return self.place.home / "pulsar"

    @property
    def service_url(self) -> str:
        """Where clients connect."""
        scheme = "pulsar" if self.place.security is None else "pulsar+ssl"
        return f"{scheme}://{HOST}:{self.place.ports['pulsar']}"

    @property
    def admin_url(self) -> str:
        """The admin API of broker and functions worker."""
        scheme = "http" if self.place.security is None else "https"
        return f"{scheme}://{HOST}:{self.place.ports['pulsar_admin']}"

    @property
    def has_data(self) -> bool:
        """Whether a broker has stored anything here."""
        return (self.folder / "bookkeeper" / "current" / "VERSION").exists()

    def urls(self) -> dict[str, str]:
        """`service_url` for clients, `admin_url` for the admin API."""
        return {"service_url": self.service_url, "admin_url": self.admin_url}

    def prepare(self, console: Console) -> None:
        """Fetch the distribution and write this broker's configuration."""
        distribution = pulsar_home(console)
        conf = self.folder / "conf"
        shutil.rmtree(conf, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(distribution / "conf", conf)
        standalone = conf / "standalone.conf"
        standalone.write_text(with_properties(standalone.read_text(), self._broker_settings()))
        worker = conf / "functions_worker.yml"
        settings = yaml.safe_load(worker.read_text())
        settings.update(self._worker_settings())
        runtime = settings["functionRuntimeFactoryConfigs"]
        runtime["logDirectory"] = str(self.place.logs)
        if self.place.security is not None:
            runtime["pythonInstanceLocation"] = instance.__file__
        worker.write_text(yaml.safe_dump(settings, sort_keys=False))
        self.function_logs.mkdir(parents=True, exist_ok=True)

    @property
    def function_logs(self) -> Path:
        """Where the function instances write their logs: the worker adds `functions` itself."""
        return self.place.logs / "functions"

    def launch(self) -> Identity:
        """Start the JVM."""
        self._start_log = LogSince(self.log)
        distribution = pulsar_home(Console(quiet=True))
        conf = self.folder / "conf"
        environment = process_environment(
            {
                "JAVA_HOME": str(java_home()),
                "PULSAR_MEM": os.environ.get("PULSAR_MEM", MEMORY),
                "PULSAR_GC": os.environ.get("PULSAR_GC", COLLECTOR),
                "PULSAR_LOG_DIR": str(self.place.logs / "pulsar"),
                "PULSAR_LOG_CONF": str(conf / "log4j2.yaml"),
                "PULSAR_STANDALONE_CONF": str(conf / "standalone.conf"),
                "PULSAR_WORKER_CONF": str(conf / "functions_worker.yml"),
                "FUNCTIONS_LOG_CONF": str(conf / "functions_log4j2.xml"),
            }
        )
        if self.place.security is not None:
            environment |= {
                "DDS_PYTHON_INSTANCE": str(distribution / _PYTHON_INSTANCE),
                "DDS_FUNCTIONS_TOKEN_FILE": str(self.place.security.token_file("functions")),
            }
        command = [
            str(distribution / "bin" / "pulsar"),
            "standalone",
            "--no-stream-storage",
            "--config",
            str(conf / "standalone.conf"),
            "--functions-worker-conf",
            str(conf / "functions_worker.yml"),
            "--metadata-dir",
            str(self.folder / "metadata"),
            "--bookkeeper-dir",
            str(self.folder / "bookkeeper"),
            "--bookkeeper-port",
            str(self.place.ports["bookie"]),
        ]
        return spawn(
            command,
            home=self.place.home,
            log=self.log,
            environment=environment,
            cwd=self.folder,
        )

    def healthy(self) -> bool:
        """Whether broker and functions worker serve."""
        return self.broker_healthy() and self._get("/admin/v2/worker/cluster/leader") is not None

    def broker_healthy(self) -> bool:
        """Whether the broker takes and gives messages (its own end-to-end check)."""
        return self._get("/admin/v2/brokers/health") == b"ok"

    def check_start(self) -> None:
        """Find out early that the broker's bookie lost itself.

        After a SIGKILL the bookie finds its own old registration and replaces it. When the notice
        of that removal comes late it takes it for the loss of the new one, and replaces it for
        ever, because it does not recognize its own (apache/pulsar#25001, not in 4.0.8). Nothing
        can be stored meanwhile. A broker that is stopped in good order leaves no registration.
        """
        if self._start_log is not None and self._start_log.count(_LOST_BOOKIE) >= _LOST_TIMES:
            raise StartAgainError(
                self.name,
                "its storage does not come up after it was killed (apache/pulsar#25001)",
                log=self.log,
                hint="run the command again",
            )

    def await_healthy(self, identity: Identity) -> None:
        """Wait until it serves, then bring back the functions that it lost."""
        super().await_healthy(identity)
        self.revive_functions()

    def revive_functions(self) -> None:
        """Restart the deployed functions whose instances did not come back with the broker.

        At its start the worker fetches every function's package from the broker's own admin API,
        which answers 503 until the broker has started, and it does not try again.
        """
        for function in self._deployed():
            if not self._running(function):
                # When this fails, the reconciler of the control plane tries again.
                url = f"{self.admin_url}/admin/v3/functions/{function}/restart"
                http.post(url, security=self.place.security)

    def _deployed(self) -> list[str]:
        assignments = json.loads(self._get("/admin/v2/worker/assignments") or b"{}")
        instances = (instance for worker in assignments.values() for instance in worker)
        return sorted({instance.rpartition(":")[0] for instance in instances})

    def _running(self, function: str) -> bool:
        status = json.loads(self._get(f"/admin/v3/functions/{function}/status") or b"{}")
        return bool(status) and status.get("numRunning") == status.get("numInstances")

    def function_pids(self, function: str) -> list[int]:
        """The Python processes that run the instances of a function of this broker."""
        below = f"{self.place.home}{os.sep}"
        return sorted(
            process.pid
            for process, details in _function_processes()
            if details.get("name") == function and any(below in part for part in process.cmdline())
        )

    def _get(self, path: str) -> bytes | None:
        return http.get(f"{self.admin_url}{path}", security=self.place.security)

    def _broker_settings(self) -> dict[str, str]:
        settings = {
            "brokerServicePort": str(self.place.ports["pulsar"]),
            "webServicePort": str(self.place.ports["pulsar_admin"]),
            "bindAddress": HOST,
            "advertisedAddress": HOST,
            "listeningInterface": "lo" if sys.platform == "linux" else "lo0",
            # Without it the bookie takes a port of the ephemeral range and insists on the same one
            # ever after, even when an outgoing connection occupies it.
            "allowEphemeralPorts": "true",
            "journalSyncData": "true",
            # Where function bundles are stored. Without it that is a folder of the distribution,
            # and every broker of this machine overwrites the bundles of the others.
            "STORAGE_PATH": str(self.folder / "packages"),
            "brokerDeleteInactiveTopicsEnabled": "false",
            "allowAutoTopicCreation": "false",
            # A topic that cannot be closed is let go of then (control_plane/fenced_topics.py).
            "namespaceBundleUnloadingTimeoutMs": "10000",
            # Who takes a partition over first gets what is not acknowledged (docs/decisions/0005).
            "activeConsumerFailoverDelayTimeMillis": "0",
            # How often a cursor's position is stored, in a second: what lies between comes again.
            "managedLedgerDefaultMarkDeleteRateLimit": "1.0",
            "forceDeleteNamespaceAllowed": "true",
            "forceDeleteTenantAllowed": "true",
            "defaultNumberOfNamespaceBundles": "4",
        }
        if self.place.security is not None:
            settings |= self.place.security.broker_settings(
                port=self.place.ports["pulsar"], admin_port=self.place.ports["pulsar_admin"]
            )
        return settings

    def _worker_settings(self) -> dict[str, Any]:
        settings = {
            "workerHostname": HOST,
            "workerPort": self.place.ports["pulsar_admin"],
            "pulsarServiceUrl": self.service_url,
            "pulsarWebServiceUrl": self.admin_url,
            "downloadDirectory": str(self.folder / "functions"),
            "instanceLivenessCheckFreqMs": LIVENESS_CHECK_MS,
            # The worker's identity holds its port. After a start on another port it takes over
            # the instances of the worker that it was.
            "failureCheckFreqMs": 5000,
            "rescheduleTimeoutMs": 5000,
        }
        if self.place.security is not None:
            # Credentials and trust are the broker's: an embedded worker takes them from it.
            settings |= {
                "workerPortTls": self.place.ports["pulsar_admin"],
                "useTls": True,
                "brokerClientAuthenticationEnabled": True,
            }
        return settings


def with_properties(text: str, settings: Mapping[str, str]) -> str:
    """A properties file with `settings` in place of its own values, appended when it has none."""
    missing = dict(settings)
    lines = []
    for line in text.splitlines():
        name = line.partition("=")[0].strip()
        if name in settings and not line.lstrip().startswith("#"):
            if name in missing:
                lines.append(f"{name}={missing.pop(name)}")
            continue
        lines.append(line)
    lines.extend(f"{name}={value}" for name, value in missing.items())
    return "\n".join(lines) + "\n"


def _function_processes() -> Iterator[tuple[psutil.Process, dict[str, Any]]]:
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if "--function_details" not in command:
            continue
        details = command[command.index("--function_details") + 1].strip("'")
        try:
            yield process, json.loads(details)
        except ValueError:
            continue
