"""Makes the virtual environment of the checkout and fills it. Standard library only.

`.venv` is reused as long as `requirements.lock`, `pyproject.toml`, the Python and the place of
the checkout are those it was made for: a stamp file in it holds their digest, written last. An
interrupted run has no stamp and is repeated. pip runs with the user's own settings (index, mirror,
proxy, certificates); nothing is passed that would override them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.devstack.console import Console
from scripts.devstack.errors import BootstrapError

_STAMP = "dds-stamp"
_LOCK = "dds-lock"
_PROBE = "import sys, pip; print(sys.version_info >= (3, 11))"


def ensure_environment(checkout: Path, console: Console) -> Path:
    """The Python of the checkout's filled virtual environment; makes what is missing."""
    venv = checkout / ".venv"
    python = venv / "bin" / "python"
    if _stamp(venv) == stamp_of(checkout) and python.exists():
        return python
    venv.mkdir(exist_ok=True)
    with (venv / _LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = stamp_of(checkout)
        if _stamp(venv) != wanted or not python.exists():
            _fill(checkout, venv, python, console)
            (venv / _STAMP).write_text(wanted)
    return python


def stamp_of(checkout: Path) -> str:
    """The digest of everything that the environment depends on."""
    digest = hashlib.sha256(f"{checkout}\0{sys.version_info[:2]}\0".encode())
    for name in ("requirements.lock", "pyproject.toml"):
        digest.update((checkout / name).read_bytes())
    return digest.hexdigest()


def _stamp(venv: Path) -> str | None:
    try:
        return (venv / _STAMP).read_text().strip()
    except OSError:
        return None


def _fill(checkout: Path, venv: Path, python: Path, console: Console) -> None:
    log = venv / "dds-install.log"
    log.unlink(missing_ok=True)
    if not _works(python):
        with console.step(f"make the virtual environment {venv}"):
            _empty(venv)
            # Only a Python outside of any virtual environment makes one that is independent.
            base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info[1]}"
            maker = base if base.exists() else Path(sys.executable)
            _run(
                [str(maker), "-m", "venv", str(venv)],
                log,
                hint="install Python's venv module (Debian, Ubuntu: `apt install python3-venv`), "
                "then run the command again",
            )
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    network = "check the network and your pip settings (`pip config list`), then run it again"
    with console.step("install the locked dependencies"):
        lock = str(checkout / "requirements.lock")
        _run([*pip, "--require-hashes", "-r", lock], log, hint=network)
    with console.step("install the project"):
        project = ["--no-deps", "--no-build-isolation", "-e", str(checkout)]
        _run([*pip, *project], log, hint="read the log above")


def _works(python: Path) -> bool:
    try:
        answer = subprocess.run(
            [python, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return answer.stdout.strip() == "True"


def _empty(venv: Path) -> None:
    for path in venv.iterdir():
        if path.name == _LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _run(command: list[str], log: Path, *, hint: str) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER"}
    }
    with log.open("ab") as output:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
        )
    if ended.returncode != 0:
        lines = log.read_text("utf-8", "replace").splitlines()[-15:]
        shown = "\n".join(f"  | {line}" for line in lines)
        raise BootstrapError(
            f"virtual environment: `{' '.join(command[1:])}` failed\nlog: {log}\n{shown}",
            hint=hint,
        )
