"""Digests of source folders: whether a step that was done once has to be done again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

_IGNORED = {"__pycache__"}


def fingerprint(paths: Iterable[Path], *, also: Iterable[str] = ()) -> str:
    """A digest of the names and contents below `paths`, and of the strings in `also`.

    Missing paths count as empty. Compiled Python files do not count.
    """
    digest = hashlib.sha256()
    for text in also:
        digest.update(f"{text}\0".encode())
    for path in paths:
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.is_file() and not _IGNORED.intersection(file.parts):
                digest.update(f"{file.relative_to(path.parent)}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
