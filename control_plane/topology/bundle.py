"""The functions' code as one zip in the layout that Pulsar's Python runtime expects.

    dds-0.1.0-3f6c2a91b4d0/src/functions/…       the runtime puts <top folder>/src on sys.path
    dds-0.1.0-3f6c2a91b4d0/src/marketdata/…

Equal sources give equal bytes: fixed times and modes, sorted names. The digest covers names and
contents and is part of the folder's name, so that a worker never mixes two versions of the code.
Dependencies are not inside: the worker's Python environment has them.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from control_plane.topology.model import Bundle
from marketdata.errors import DistributionError

_TIME = (1980, 1, 1, 0, 0, 0)
_LEFT_OUT_FOLDERS = frozenset({"__pycache__", "tests", "test"})
_LEFT_OUT_SUFFIXES = frozenset({".pyc", ".pyo"})


class BundleError(DistributionError):
    """The sources make no bundle. Correct the folders that it is built from."""


def build_bundle(packages: Mapping[str, Path], version: str) -> Bundle:
    """A bundle of Python packages, given by name and folder.

    Raises:
        BundleError: a folder is no package.
    """
    files: dict[str, bytes] = {}
    for name, folder in packages.items():
        if not (folder / "__init__.py").is_file():
            text = f"{folder} is no Python package: it has no __init__.py"
            raise BundleError(f"{text}. Name the folder of the package {name}.")
        for path in _sources(folder):
            files[f"{name}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    digest = content_digest(files)
    top = f"dds-{version}-{digest[:12]}"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{top}/src/{name}", _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return Bundle(f"{top}.zip", digest, buffer.getvalue())


def content_digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 (hex) over names and contents; independent of the zip's own encoding."""
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name]
        digest.update(f"{len(name)}:{name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def bundle_of(content: bytes, digest: str) -> Bundle:
    """A bundle read back from a cluster, under the file name that its folder needs.

    Raises:
        ValueError: the bytes are no zip in Pulsar's layout.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            tops = {name.split("/", 1)[0] for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise ValueError(f"the code is no zip: {error}") from error
    if len(tops) != 1:
        raise ValueError(f"the code has {len(tops)} top folders, not one")
    return Bundle(f"{tops.pop()}.zip", digest, content)


def _sources(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if hidden or _LEFT_OUT_FOLDERS & set(parts) or path.suffix in _LEFT_OUT_SUFFIXES:
            continue
        if path.is_file():
            yield path
