"""The whole local stack as one object: bring it up, take it down, hurt it, ask it.

`up` is idempotent: what serves is left alone, what is down or does not answer is started, and
migrations and topology are applied again only when their sources changed or their server was
started. Every change of a stack happens under the lock of its home.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from scripts.devstack import http
from scripts.devstack import ports as port_choice
from scripts.devstack.component import CHECKOUT, Component, Place
from scripts.devstack.console import Console
from scripts.devstack.control_plane import DEPLOY, MIGRATE, ControlPlane, run_task
from scripts.devstack.errors import ComponentError, StackError, StartAgainError, UsageError
from scripts.devstack.external import External
from scripts.devstack.fingerprint import fingerprint
from scripts.devstack.postgresql import PostgreSQL
from scripts.devstack.processes import Identity, end_all, leftovers, wait_until
from scripts.devstack.pulsar import Pulsar
from scripts.devstack.security import Security
from scripts.devstack.state import State, exclusive

COMPONENTS = ("pulsar", "postgresql", "control_plane")
"""The processes of a full stack, in the order of their start."""

_PORTS_OF: Mapping[str, tuple[str, ...]] = {
    part.name: part.port_names for part in (Pulsar, PostgreSQL, ControlPlane)
}
_ANSWER_GRACE_S = 10.0
_START_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """What `status` says about one component. `state`: up, unhealthy, down or external."""

    name: str
    state: str
    pid: int | None = None
    urls: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None


class Stack:
    """Real components on loopback, with all state below `home`."""

    def __init__(self, home: Path | str, *, console: Console | None = None) -> None:
        self.home = Path(home).expanduser().resolve()
        self.console = console if console is not None else Console()
        self._changes = threading.Lock()
        self._state = State.load(self._state_file)

    # -- what it is ---------------------------------------------------------------------------

    @property
    def service_url(self) -> str:
        """The broker's address for clients."""
        return self._external.service_url or self._pulsar.service_url

    @property
    def admin_url(self) -> str:
        """The broker's admin API."""
        return self._external.admin_url or self._pulsar.admin_url

    @property
    def database_url(self) -> str:
        """The database's address, as libpq takes it."""
        return self._external.database_url or PostgreSQL(self._place).url

    @property
    def control_plane_url(self) -> str:
        """The HTTP API's address."""
        return self._control_plane.url

    def environment(self) -> dict[str, str]:
        """The DDS_ variables that point a process at this stack."""
        return {
            "DDS_PULSAR_SERVICE_URL": self.service_url,
            "DDS_PULSAR_ADMIN_URL": self.admin_url,
            "DDS_DATABASE_URL": self.database_url,
            "DDS_CONTROL_PLANE_URL": self.control_plane_url,
            "DDS_TOPOLOGY_DIR": os.environ.get("DDS_TOPOLOGY_DIR") or str(CHECKOUT / "topology"),
            "DDS_HOME": str(self.home),
        } | ({} if self.security is None else self.security.environment())

    def log(self, component: str) -> Path:
        """The log file of a component."""
        return self._place.log(component)

    def pid(self, component: str) -> int | None:
        """The process of a component; None when it does not run."""
        self._reload()
        identity = self._state.identity(component)
        return identity.pid if identity else None

    def function_pids(self, function: str) -> list[int]:
        """The Python processes that run the instances of a function in this stack's broker."""
        return self._pulsar.function_pids(function)

    @staticmethod
    def kill_instance(pid: int) -> None:
        """SIGKILL to one of them."""
        os.kill(pid, signal.SIGKILL)

    def status(self) -> list[ComponentStatus]:
        """The state of every component now."""
        self._reload()
        return [self._status_of(name) for name in COMPONENTS]

    # -- what it does -------------------------------------------------------------------------

    def up(self, *, secure: bool = False) -> bool:
        """Bring everything up; False when there was nothing to do.

        `secure`: with TLS, authentication and authorization; a stack that has them keeps them.

        Raises `StackError` naming the component that failed.
        """
        with self._exclusive():
            if secure:
                self._secure()
            self._sweep_unrecorded()
            if self.security is not None:
                self.security.ensure()
            self._assign_ports(COMPONENTS)
            self._check_external()
            servers = [name for name in ("pulsar", "postgresql") if self._managed(name)]
            started = self._in_parallel({name: self._ensurer(name) for name in servers})
            changed = any(started.values())
            changed |= self._migrate(force=started.get("postgresql", False))
            changed |= self._deploy(force=started.get("pulsar", False))
            return self._ensure_control_plane() or changed

    def down(self) -> bool:
        """End every process of this stack; data stays. False when none was running."""
        with self._exclusive():
            found = bool(leftovers(self.home))
            self._stop("control_plane")
            self._in_parallel({name: self._stopper(name) for name in ("pulsar", "postgresql")})
            end_all(leftovers(self.home))
            remaining = leftovers(self.home)
            if remaining:
                raise StackError(
                    f"processes {sorted(p.pid for p in remaining)} do not end",
                    hint="end them with `kill -9`, then run `python3 scripts/dev.py down` again",
                )
            self._save()
            return found

    def reset(self) -> None:
        """Take the stack down and delete all of its data, configuration and logs."""
        self.down()
        with self._exclusive():
            for path in self.home.iterdir():
                if path.name == "lock":
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            self._state = State()

    def start(self, component: str) -> None:
        """Start one component that is down, on the ports it had, and wait until it serves."""
        self._require_managed(component)
        with self._exclusive():
            for name in _PORTS_OF[component]:
                port = self._state.ports[name]
                if not self._state.identity(component) and not port_choice.await_free(port, 10.0):
                    raise ComponentError(component, f"its port {port} was taken by another program")
            self._ensure(self._component(component))

    def kill(self, component: str, sig: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a component's process and return its pid; SIGKILL waits for its end."""
        self._require_managed(component)
        self._reload()
        identity = self._state.identity(component)
        if identity is None or not identity.signal(sig):
            raise ComponentError(component, "is not running", hint="`start` it first")
        if sig == signal.SIGKILL and not identity.wait(10):
            raise ComponentError(component, f"process {identity.pid} survived SIGKILL")
        return identity.pid

    @property
    def security(self) -> Security | None:
        """The secrets of a secure stack; None for one that asks nobody who they are."""
        return Security(self.home) if self._state.secure else None

    def _secure(self) -> None:
        """Make this a secure stack: from its beginning, so that nothing of it was ever open."""
        if self._state.secure:
            return
        if self._external != External():
            raise UsageError(
                "--secure is for servers that this command starts, and your settings name others",
                hint="unset DDS_PULSAR_SERVICE_URL, DDS_PULSAR_ADMIN_URL and DDS_DATABASE_URL",
            )
        if self._pulsar.has_data or PostgreSQL(self._place).data.exists():
            raise UsageError(
                f"the stack in {self.home} was made without security",
                hint="delete it first (`python3 scripts/dev.py reset`), or use another --home",
            )
        self._state.secure = True
        self._save()

    # -- parts --------------------------------------------------------------------------------

    @property
    def _state_file(self) -> Path:
        return self.home / "stack.json"

    @property
    def _place(self) -> Place:
        ports = {**port_choice.USUAL, **self._state.ports}
        return Place(self.home, ports, self.security)

    @property
    def _external(self) -> External:
        return External.read(self._state.components)

    @property
    def _pulsar(self) -> Pulsar:
        return Pulsar(self._place)

    @property
    def _control_plane(self) -> ControlPlane:
        return ControlPlane(self._place, {})

    def _component(self, name: str) -> Component:
        if name == "pulsar":
            return self._pulsar
        if name == "postgresql":
            return PostgreSQL(self._place)
        if name == "control_plane":
            return ControlPlane(self._place, self.environment())
        raise UsageError(f"no component {name!r}", hint=f"there are: {', '.join(COMPONENTS)}")

    def _managed(self, name: str) -> bool:
        if name == "pulsar":
            return self._external.service_url is None
        if name == "postgresql":
            return self._external.database_url is None
        return True

    def _require_managed(self, name: str) -> None:
        self._component(name)
        if not self._managed(name):
            raise UsageError(f"{name} is not the stack's own: its address came from your settings")

    def _status_of(self, name: str) -> ComponentStatus:
        if not self._managed(name):
            urls = (
                {"service_url": self.service_url, "admin_url": self.admin_url}
                if name == "pulsar"
                else {"url": self.database_url}
            )
            return ComponentStatus(name, "external", urls=urls)
        component = self._component(name)
        identity = self._state.identity(name)
        if identity is None:
            return ComponentStatus(name, "down", log=component.log)
        state = "up" if component.healthy() else "unhealthy"
        return ComponentStatus(name, state, identity.pid, component.urls(), component.log)

    # -- bookkeeping --------------------------------------------------------------------------

    def _reload(self) -> None:
        with self._changes:
            self._state = State.load(self._state_file)

    def _save(self) -> None:
        with self._changes:
            self._state.save(self._state_file)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with exclusive(
            self.home / "lock",
            waiting=lambda holder: self.console.line(f"  waiting for {holder} on {self.home}"),
        ):
            self._reload()
            yield

    def _record(self, component: Component, identity: Identity) -> None:
        self._state.components[component.name] = {
            "pid": identity.pid,
            "created_at_s": identity.created_at_s,
            "log": str(component.log),
            **component.urls(),
        }
        self._save()

    def _assign_ports(self, components: Sequence[str]) -> None:
        """Give every component that does not run the ports that it will listen on."""
        taken = {
            self._state.ports[name]
            for component, names in _PORTS_OF.items()
            if self._state.identity(component)
            for name in names
        }
        for component in components:
            if self._state.identity(component) or not self._managed(component):
                continue
            for name in _PORTS_OF[component]:
                last = self._state.ports.get(name)
                if name == "bookie" and last and self._pulsar.has_data:
                    # Stored ledgers name their bookie by this port.
                    self._await_bookie_port(last)
                else:
                    usual = port_choice.USUAL.get(name) or port_choice.lasting()
                    preferred = [last, usual] if last else [usual]
                    self._state.ports[name] = port_choice.choose(preferred, taken)
                taken.add(self._state.ports[name])
        self._save()

    def _await_bookie_port(self, port: int) -> None:
        if not port_choice.await_free(port, 5.0):
            raise ComponentError(
                "pulsar",
                f"port {port} of its storage was taken by another program",
                hint=f"end the program that listens on {port} (`ss -ltnp`), or delete this "
                "stack's data with `python3 scripts/dev.py reset`",
            )

    def _sweep_unrecorded(self) -> None:
        """End servers that an interrupted `up` started and did not write down."""
        identities = (self._state.identity(name) for name in COMPONENTS)
        recorded = {identity.pid for identity in identities if identity is not None}
        instances_of_running = self._state.identity("pulsar") is not None
        strays = [
            process
            for process in leftovers(self.home)
            if process.pid not in recorded
            and not _descends_from(process, recorded)
            and not (instances_of_running and _is_function(process))
        ]
        end_all(strays, grace_s=15.0)

    # -- steps --------------------------------------------------------------------------------

    def _ensurer(self, name: str) -> Callable[[], bool]:
        return lambda: self._ensure(self._component(name))

    def _stopper(self, name: str) -> Callable[[], bool]:
        return lambda: self._stop(name)

    def _ensure(self, component: Component) -> bool:
        """Make one component serve; False when it did already."""
        identity = self._state.identity(component.name)
        if identity is not None:
            if self._answers(component, identity):
                component.renew(identity)
                return False
            with self.console.step(f"{component.name} does not answer, stop it"):
                component.stop(identity)
        component.prepare(self.console)
        with self.console.step(f"start {component.name}") as step:
            for attempt in range(1, _START_ATTEMPTS + 1):
                identity = component.launch()
                self._record(component, identity)
                try:
                    component.await_healthy(identity)
                    break
                except StartAgainError as error:
                    component.stop(identity)
                    if attempt == _START_ATTEMPTS:
                        raise
                    self.console.line(f"  … {component.name}: {error.message}, start it again")
            step.outcome = " ".join(component.urls().values())
        return True

    @staticmethod
    def _answers(component: Component, identity: Identity) -> bool:
        """Whether a running component serves, given the time that its start may take."""
        age_s = time.time() - identity.created_at_s
        grace_s = max(_ANSWER_GRACE_S, component.start_timeout_s - age_s)
        wait_until(lambda: component.healthy() or not identity.alive, grace_s, interval_s=0.2)
        return identity.alive and component.healthy()

    def _stop(self, name: str) -> bool:
        identity = self._state.identity(name)
        self._state.components.pop(name, None)
        if identity is None:
            return False
        with self.console.step(f"stop {name}"):
            self._component(name).stop(identity)
        return True

    def _migrate(self, *, force: bool) -> bool:
        sources = [CHECKOUT / "migrations"]
        return self._once("migrate the database", "migrate", MIGRATE, sources, force=force)

    def _deploy(self, *, force: bool) -> bool:
        topology = Path(self.environment()["DDS_TOPOLOGY_DIR"])
        sources = [topology, CHECKOUT / "functions", CHECKOUT / "marketdata"]
        return self._once("apply the topology", "deploy", DEPLOY, sources, force=force)

    def _once(
        self, title: str, task: str, arguments: Sequence[str], sources: list[Path], *, force: bool
    ) -> bool:
        target = self.database_url if task == "migrate" else self.admin_url
        current = fingerprint(sources, also=[target])
        if self._state.fingerprints.get(task) == current and not force:
            return False
        with self.console.step(title):
            run_task(task, arguments, environment=self.environment(), log=self.log(task))
        self._state.fingerprints[task] = current
        self._save()
        return True

    def _ensure_control_plane(self) -> bool:
        # Minutes may have passed since the ports were chosen.
        self._assign_ports(["control_plane"])
        component = self._component("control_plane")
        sources = [CHECKOUT / name for name in ("control_plane", "marketdata", "topology")]
        current = fingerprint(sources, also=sorted(self.environment().values()))
        if self._state.fingerprints.get("control_plane") != current:
            self._stop("control_plane")
        started = self._ensure(component)
        self._state.fingerprints["control_plane"] = current
        self._save()
        return started

    def _check_external(self) -> None:
        admin_url = self._external.admin_url
        if admin_url and http.get(f"{admin_url}/admin/v2/clusters", timeout_s=10) is None:
            raise ComponentError(
                "pulsar",
                f"your broker does not answer at {admin_url}",
                hint="start it, correct DDS_PULSAR_ADMIN_URL, or unset DDS_PULSAR_ADMIN_URL "
                "and DDS_PULSAR_SERVICE_URL to have a broker started",
            )

    def _in_parallel(self, tasks: Mapping[str, Callable[[], bool]]) -> dict[str, bool]:
        """Run tasks side by side; the first failure is raised after all have ended.

        The threads are daemons, so that Ctrl-C ends the command at once. What they started stays
        recorded, and the next `up` goes on with it.
        """
        results: dict[str, bool] = {}
        failures: list[Exception] = []

        def run(name: str, task: Callable[[], bool]) -> None:
            try:
                results[name] = task()
            except Exception as error:  # noqa: BLE001  (raised again by the caller's thread)
                failures.append(error)

        threads = [
            threading.Thread(target=run, args=item, daemon=True, name=item[0])
            for item in tasks.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return results


def _descends_from(process: psutil.Process, pids: set[int]) -> bool:
    try:
        return any(parent.pid in pids for parent in process.parents())
    except psutil.Error:
        return True


def _is_function(process: psutil.Process) -> bool:
    try:
        return "--function_details" in process.cmdline()
    except psutil.Error:
        return True
