"""The Pulsar server distribution: fetched once, checked, unpacked into the user's cache.

`jgo` fetches it like Maven would: from the user's local Maven repository when it is there, from
the mirror that the user's Maven settings name, else from Maven's own default. The archive counts
only when its SHA-256 is the one kept here. It is unpacked beside its final place and renamed, so
an unpacked distribution is always complete; a file lock lets several commands run at once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

from jgo.constants import default_maven_repo
from jgo.maven import MavenContext, PythonResolver

from scripts.devstack.console import Console
from scripts.devstack.errors import ComponentError
from scripts.devstack.state import exclusive

GROUP, ARTIFACT, VERSION = "org.apache.pulsar", "pulsar-server-distribution", "4.0.8"
SHA256 = "35c7d064c9e0928edbf2e708989faba0379662f98aa84ce0d4190c59efb6765e"

_READ_BYTES = 1024 * 1024


def cache_dir() -> Path:
    """Where downloads are kept: DDS_CACHE_DIR, else below the user's cache folder."""
    override = os.environ.get("DDS_CACHE_DIR")
    if override:
        return Path(override).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser().resolve() / "data-distribution-service"


def pulsar_home(console: Console, cache: Path | None = None) -> Path:
    """The folder of the unpacked distribution; fetches and unpacks it when it is not there."""
    cache = cache_dir() if cache is None else cache
    home = cache / f"apache-pulsar-{VERSION}-{SHA256[:12]}"
    if home.is_dir():
        return home
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive(
            cache / "pulsar.lock",
            waiting=lambda holder: console.line(f"  waiting for {holder} to fetch Pulsar"),
        ):
            if not home.is_dir():
                _fetch_and_unpack(console, cache, home)
    except OSError as error:
        raise ComponentError(
            "pulsar",
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


def _fetch_and_unpack(console: Console, cache: Path, home: Path) -> None:
    work = cache / "incoming"
    # Whatever is here was left by a command that was interrupted: nobody else holds the lock.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with console.step(f"fetch Pulsar {VERSION} into {cache}"):
        archive = _download(console, work)
        _verify(archive)
    with console.step(f"unpack Pulsar {VERSION}") as step:
        with tarfile.open(archive) as tar:
            # The checksum vouches for the content; Pythons before 3.11.4 have no filters.
            tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
            tar.extractall(work / "unpacked")  # noqa: S202
        (top,) = (work / "unpacked").iterdir()
        top.rename(home)
        step.outcome = str(home)
    shutil.rmtree(work, ignore_errors=True)


def _download(console: Console, work: Path) -> Path:
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
    component = context.project(GROUP, ARTIFACT).at_version(VERSION)
    try:
        return Path(component.artifact(classifier="bin", packaging="tar.gz").resolve())
    except (RuntimeError, OSError) as error:
        raise ComponentError(
            "pulsar",
            f"cannot fetch {GROUP}:{ARTIFACT}:{VERSION}: {error}",
            hint="check the network and the mirror in ~/.m2/settings.xml, then run the command "
            "again; or set DDS_PULSAR_SERVICE_URL and DDS_PULSAR_ADMIN_URL to a broker of yours",
        ) from error


def _progress(
    console: Console,
) -> Callable[[str, int], AbstractContextManager[Callable[[int], None]]]:
    @contextmanager
    def progress(_filename: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        with console.progress("download", total_bytes) as bar:
            yield bar.add

    return progress


def _verify(archive: Path) -> None:
    digest = hashlib.sha256()
    with archive.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    if digest.hexdigest() != SHA256:
        raise ComponentError(
            "pulsar",
            f"{archive.name} has SHA-256 {digest.hexdigest()} instead of {SHA256}",
            hint="the download was damaged or replaced: run the command again; if it repeats, "
            "check the mirror in ~/.m2/settings.xml and the copy in the local Maven repository",
        )
