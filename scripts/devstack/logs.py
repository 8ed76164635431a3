"""Shows log files: the last lines of each, then what is added while it watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from scripts.devstack.errors import UsageError, tail

_POLL_S = 0.25


class LogSince:
    """Counts a text in what is added to a log file after this object was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = path.stat().st_size if path.exists() else 0
        self._count = 0

    def count(self, text: bytes) -> int:
        """How often `text` was added so far. Always ask for the same text."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                added = file.read()
            whole = added.rfind(b"\n") + 1
            self._count += added.count(text, 0, whole)
            self._read_bytes += whole
        return self._count


def log_files(logs: Path, name: str | None) -> dict[str, Path]:
    """The log files below `logs` by label: all, or those of one component or function."""
    files = {path.stem: path for path in sorted(logs.glob("*.log"))}
    for path in sorted((logs / "functions").rglob("*.log")):
        files[path.stem] = path
    if name is None:
        return files
    chosen = {
        label: path
        for label, path in files.items()
        if name in {label, path.parent.name} or label.startswith(f"{name}-")
    }
    if not chosen:
        raise UsageError(
            f"no log of {name!r} below {logs}",
            hint=f"there are: {', '.join(files) or 'none, the stack was never up'}",
        )
    return chosen


def show(
    files: dict[str, Path], *, lines: int, follow: bool, write: Callable[[str], None] = print
) -> None:
    """Write the last `lines` lines of each file; with `follow` go on until interrupted."""
    prefix = len(files) > 1
    ends = {}
    for label, path in files.items():
        ends[label] = path.stat().st_size
        _write(label, tail(path, lines), prefix, write)
    while follow:
        time.sleep(_POLL_S)
        for label, path in files.items():
            size = path.stat().st_size if path.exists() else 0
            if size < ends[label]:
                ends[label] = 0
            if size > ends[label]:
                with path.open("rb") as file:
                    file.seek(ends[label])
                    whole, _, _ = file.read(size - ends[label]).rpartition(b"\n")
                ends[label] += len(whole) + 1 if whole else 0
                _write(label, whole.decode("utf-8", "replace").splitlines(), prefix, write)


def _write(label: str, lines: Iterable[str], prefix: bool, write: Callable[[str], None]) -> None:
    for line in lines:
        write(f"{label}: {line}" if prefix else line)
