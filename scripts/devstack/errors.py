"""Failures of the local stack: each names the component, its log file and what to do next.

    StackError           something of the stack failed; the message is for a person
    ├── ComponentError   one component failed: carries its name and log file
    │   └── StartAgainError  its start failed by chance: stop it and start it again
    ├── BootstrapError   the virtual environment could not be made
    └── UsageError       the request or the environment variables contradict themselves

Standard library only: `bootstrap` raises these before anything is installed.
"""

from __future__ import annotations

from pathlib import Path

_TAIL_BYTES = 64 * 1024


class StackError(Exception):
    """A failure with the next step for the person who reads it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def report(self) -> str:
        """The lines to print: what failed, then what to do."""
        lines = [f"error: {self.message}"]
        if self.hint:
            lines.append(f"what to do: {self.hint}")
        return "\n".join(lines)


class BootstrapError(StackError):
    """The virtual environment could not be made or filled."""


class UsageError(StackError):
    """Arguments or environment variables contradict themselves."""


class ComponentError(StackError):
    """A component did not start, stop or answer."""

    def __init__(
        self, component: str, message: str, *, log: Path | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.component = component
        self.log = log

    def report(self) -> str:
        """The lines to print, with the end of the log file."""
        lines = [f"error: {self.component}: {self.message}"]
        if self.log is not None and self.log.exists():
            lines.append(f"log: {self.log}")
            lines.extend(f"  | {line}" for line in tail(self.log, 15))
        if self.hint:
            lines.append(f"what to do: {self.hint}")
        return "\n".join(lines)


class StartAgainError(ComponentError):
    """A start that went wrong by chance: stop the component and start it again."""


def tail(path: Path, lines: int) -> list[str]:
    """The last `lines` lines of a text file, without reading all of it; [] when it is missing."""
    if lines <= 0:
        return []
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]
