"""What a stack remembers between commands: `stack.json`, and the lock that guards its changes.

`stack.json` is replaced atomically and readable by its owner only. The lock is the kernel's
(flock): it goes with the process that held it, so a killed `up` never leaves it behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.devstack.errors import StackError
from scripts.devstack.processes import Identity


@dataclass(slots=True)
class State:
    """The content of `stack.json`.

    `components`: name -> pid, created_at_s, log and the component's URLs.
    `ports`: name -> port used last, kept so that addresses stay the same.
    `fingerprints`: step -> digest of the sources that it was last done with.
    `secure`: whether the servers speak TLS only and ask everybody who they are.
    """

    components: dict[str, dict[str, Any]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    secure: bool = False

    def identity(self, component: str) -> Identity | None:
        """The process recorded for a component; None when none is or it no longer lives."""
        record = self.components.get(component, {})
        if "pid" not in record or "created_at_s" not in record:
            return None
        identity = Identity(int(record["pid"]), float(record["created_at_s"]))
        return identity if identity.alive else None

    @classmethod
    def load(cls, path: Path) -> State:
        """Read `stack.json`; an absent file is an empty state."""
        try:
            document = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return cls()
        except ValueError as error:
            raise StackError(
                f"{path} is not valid JSON ({error})",
                hint=f"delete {path} and run the command again; data is kept",
            ) from error
        return cls(
            components=document.get("components", {}),
            ports=document.get("ports", {}),
            fingerprints=document.get("fingerprints", {}),
            secure=bool(document.get("secure", False)),
        )

    def save(self, path: Path) -> None:
        """Replace `stack.json` in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "components": self.components,
            "ports": self.ports,
            "fingerprints": self.fingerprints,
            "secure": self.secure,
        }
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2, sort_keys=True)
            file.write("\n")
        temporary.replace(path)


@contextmanager
def exclusive(
    path: Path, *, waiting: Callable[[str], None], timeout_s: float = 900.0
) -> Iterator[None]:
    """Hold the lock file `path`; tell `waiting` once whom we wait for when it is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    told = False
    with path.open("a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another command"
                if not told:
                    waiting(holder)
                    told = True
                if time.monotonic() >= deadline:
                    raise StackError(
                        f"{path} is still held by {holder} after {timeout_s:.0f} s",
                        hint="wait for that command or end it, then run this one again",
                    ) from None
                time.sleep(0.1)
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield
