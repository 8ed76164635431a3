"""The distributions of servers: fetched once, checked, unpacked into the user's cache.

They are Pulsar's, and for a secure stack one of PostgreSQL with TLS, which the package that other
stacks use has not. `jgo` fetches them like Maven would: from the user's local Maven repository when
they are there, from the mirror that the user's Maven settings name, else from Maven's own default.
An archive counts only when its SHA-256 is the one kept here. It is unpacked beside its final place
and renamed, so an unpacked distribution is always complete; a file lock lets several commands run
at once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from jgo.constants import default_maven_repo
from jgo.maven import MavenContext, PythonResolver

from scripts.devstack.console import Console
from scripts.devstack.errors import ComponentError
from scripts.devstack.state import exclusive


@dataclass(frozen=True, slots=True)
class Distribution:
    """What Maven calls it, and what its archive hashes to.

    Args:
        component: that needs it.
        title: for people.
        folder: its name in the cache, before the version.
        instead: what a person can set to do without it.
    """

    component: str
    title: str
    folder: str
    group: str
    artifact: str
    version: str
    classifier: str
    packaging: str
    sha256: str
    instead: str


PULSAR: Final = Distribution(
    component="pulsar",
    title="Pulsar",
    folder="apache-pulsar",
    group="org.apache.pulsar",
    artifact="pulsar-server-distribution",
    version="4.0.8",
    classifier="bin",
    packaging="tar.gz",
    sha256="35c7d064c9e0928edbf2e708989faba0379662f98aa84ce0d4190c59efb6765e",
    instead="set DDS_PULSAR_SERVICE_URL and DDS_PULSAR_ADMIN_URL to a broker of yours",
)

_POSTGRESQL_SHA256: Final = {
    "linux-amd64": "008ee189eaa7ca2b58bd01dd950291e638b998392cf982297acd4779ec898ac1",
    "linux-arm64v8": "5f54e016723afa6213925a8acb939bac52944b1d348f65c7a20f0cd2928c31be",
    "darwin-amd64": "690941008aac9ee360820fde9bb7870a4f3dcac5e9e2f9e45e42333a436ad0f9",
    "darwin-arm64v8": "8f6ed6f38195b50a40712ada8b2a12060b6193c1a6977a6eb5cff053bb5a1b89",
}
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64v8", "arm64": "arm64v8"}
_READ_BYTES = 1024 * 1024


def cache_dir() -> Path:
    """Where downloads are kept: DDS_CACHE_DIR, else below the user's cache folder."""
    override = os.environ.get("DDS_CACHE_DIR")
    if override:
        return Path(override).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser().resolve() / "data-distribution-service"


def pulsar_home(console: Console) -> Path:
    """The folder of the unpacked Pulsar; fetches and unpacks it when it is not there."""
    return unpacked(PULSAR, console)


def postgresql_home(console: Console) -> Path:
    """The folder of an unpacked PostgreSQL with TLS, for this machine; like `pulsar_home`."""
    return unpacked(_postgresql(platform.system(), platform.machine()), console)


def _postgresql(system: str, machine: str) -> Distribution:
    build = f"{system.lower()}-{_MACHINES.get(machine, machine)}"
    if build not in _POSTGRESQL_SHA256:
        raise ComponentError(
            "postgresql",
            f"there is no PostgreSQL with TLS for {system} on {machine}",
            hint="run the stack without --secure, or the containers (docs/operations.md)",
        )
    return Distribution(
        component="postgresql",
        title="PostgreSQL",
        folder="postgresql",
        group="io.zonky.test.postgres",
        artifact=f"embedded-postgres-binaries-{build}",
        version="18.6.0",
        classifier="",
        packaging="jar",
        sha256=_POSTGRESQL_SHA256[build],
        instead="run the stack without --secure",
    )


def unpacked(distribution: Distribution, console: Console, cache: Path | None = None) -> Path:
    """The folder of a distribution; fetches and unpacks it when it is not there."""
    cache = cache_dir() if cache is None else cache
    home = cache / f"{distribution.folder}-{distribution.version}-{distribution.sha256[:12]}"
    if home.is_dir():
        return home
    title = distribution.title
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive(
            cache / f"{distribution.component}.lock",
            waiting=lambda holder: console.line(f"  waiting for {holder} to fetch {title}"),
        ):
            if not home.is_dir():
                _fetch_and_unpack(distribution, console, cache, home)
    except OSError as error:
        raise ComponentError(
            distribution.component,
            f"cannot fill the cache {cache}: {error}",
            hint="make room or make it writable, or set DDS_CACHE_DIR to another folder",
        ) from error
    return home


def maven_mirror(settings: Path) -> str | None:
    """The URL of the mirror that a Maven settings file names for Maven Central, or None."""
    try:
        # The user's own file, as trusted as Maven finds it.
        root = ET.parse(settings).getroot()  # noqa: S314
    except (OSError, ET.ParseError):
        return None
    for mirror in root.iterfind(".//{*}mirrors/{*}mirror"):
        of = mirror.findtext("{*}mirrorOf") or ""
        url = (mirror.findtext("{*}url") or "").strip().rstrip("/")
        names = {name.strip() for name in of.split(",")}
        if url and "!central" not in names and names & {"*", "external:*", "central"}:
            return url
    return None


def _fetch_and_unpack(
    distribution: Distribution, console: Console, cache: Path, home: Path
) -> None:
    work = cache / f"incoming-{distribution.component}"
    # Whatever is here was left by a command that was interrupted: nobody else holds the lock.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    name = f"{distribution.title} {distribution.version}"
    with console.step(f"fetch {name} into {cache}"):
        archive = _download(distribution, console, work)
        _verify(distribution, archive)
    with console.step(f"unpack {name}") as step:
        with _open(archive) as tar:
            # The checksum vouches for the content; Pythons before 3.11.4 have no filters.
            tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
            tar.extractall(work / "unpacked")  # noqa: S202
        entries = list((work / "unpacked").iterdir())
        top = entries[0] if len(entries) == 1 else work / "unpacked"
        top.rename(home)
        step.outcome = str(home)
    shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _open(archive: Path) -> Iterator[tarfile.TarFile]:
    """The tar that an archive is, or that a jar has in it."""
    if archive.suffix != ".jar":
        with tarfile.open(archive) as tar:
            yield tar
        return
    with zipfile.ZipFile(archive) as jar:
        (name,) = (name for name in jar.namelist() if name.endswith(".txz"))
        with jar.open(name) as file, tarfile.open(fileobj=file, mode="r:xz") as tar:
            yield tar


def _download(distribution: Distribution, console: Console, work: Path) -> Path:
    logging.getLogger("jgo").setLevel(logging.ERROR)
    repository = default_maven_repo()
    mirror = maven_mirror(Path.home() / ".m2" / "settings.xml")
    context = MavenContext(
        resolver=PythonResolver(progress_callback=_progress(console)),
        repo_cache=work / "maven",
        local_repos=[repository] if repository.is_dir() else [],
        remote_repos={"mirror": mirror} if mirror else None,
        timeout=60,
    )
    component = context.project(distribution.group, distribution.artifact).at_version(
        distribution.version
    )
    try:
        artifact = component.artifact(
            classifier=distribution.classifier, packaging=distribution.packaging
        )
        return Path(artifact.resolve())
    except (RuntimeError, OSError) as error:
        raise ComponentError(
            distribution.component,
            f"cannot fetch {distribution.group}:{distribution.artifact}:{distribution.version}: "
            f"{error}",
            hint="check the network and the mirror in ~/.m2/settings.xml, then run the command "
            f"again; or {distribution.instead}",
        ) from error


def _progress(
    console: Console,
) -> Callable[[str, int], AbstractContextManager[Callable[[int], None]]]:
    @contextmanager
    def progress(_filename: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        with console.progress("download", total_bytes) as bar:
            yield bar.add

    return progress


def _verify(distribution: Distribution, archive: Path) -> None:
    digest = hashlib.sha256()
    with archive.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    if digest.hexdigest() != distribution.sha256:
        raise ComponentError(
            distribution.component,
            f"{archive.name} has SHA-256 {digest.hexdigest()} instead of {distribution.sha256}",
            hint="the download was damaged or replaced: run the command again; if it repeats, "
            "check the mirror in ~/.m2/settings.xml and the copy in the local Maven repository",
        )
