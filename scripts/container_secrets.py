"""The secrets of compose.yaml: made once, never printed, never overwritten.

    python3 scripts/container_secrets.py [FOLDER]

FOLDER is `containers/secrets` of this checkout, or DDS_SECRETS_DIR. It is readable for you alone;
the files in it are readable for everybody who can reach them, because the users inside the
containers are other ones. A database that exists keeps its password, so new files alone do not
change it.
Needs the standard library only.
"""

import os
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "containers" / "secrets"


def make_secrets(folder: Path) -> list[str]:
    """Make what is missing in the folder; the names of the files made."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    password = folder / "postgres-password"
    made = [_write(password, secrets.token_urlsafe(24))]
    service = f"[dds]\nhost=postgresql\ndbname=dds\nuser=dds\npassword={password.read_text()}\n"
    made.append(_write(folder / "pg_service.conf", service))
    return [name for name in made if name]


def _write(path: Path, text: str) -> str:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    except FileExistsError:
        return ""
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    path.chmod(0o444)
    return path.name


def main(arguments: list[str]) -> int:
    """Make them and say which ones were new."""
    folder = Path(arguments[0] if arguments else os.environ.get("DDS_SECRETS_DIR") or FOLDER)
    made = make_secrets(folder)
    print(f"{folder}: {', '.join(made)} made" if made else f"{folder}: nothing was missing")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
