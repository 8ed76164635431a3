"""Certificates, keys and tokens of the containers: made at their start, renewed while they run.

    python -m scripts.container_credentials serve      # make them, and new ones every hour
    python -m scripts.container_credentials renew      # once, now

It runs in a container of its own. Below `/credentials` each other container has a folder, a volume
that is mounted there and in that container alone; what is not mounted here is not made. Its files
can be read by whoever is in that container, since the users differ. The authority's key stands in
a volume that nobody else has, the keys that sign tokens in one that the control planes share.

Tokens live a day, as long as any may, and are renewed every hour. Certificates live 90 days and are
made anew after 45: brokers and functions workers notice by themselves, the others when they are
started again (docs/operations.md).
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from control_plane.security.keys import ensure_key
from control_plane.security.roles import Role
from control_plane.security.tokens import MAX_LIFETIME, KeyRing
from scripts.devstack.certificates import Certificates, write_private

FOLDER: Final = Path("/credentials")
INTERVAL: Final = timedelta(hours=1)
_READABLE: Final = 0o444
_ROLES: Final = {
    "broker": Role.PLATFORM,
    "platform": Role.PLATFORM,
    "functions": Role.FUNCTIONS,
    "prometheus": Role.READ_ONLY,
}


@dataclass(frozen=True)
class Recipient:
    """What a container is given beside the authority's certificate.

    Attributes:
        hosts: the names under which it is reached; none: it is no server.
        published: whether it is reached from outside, too.
        tokens: whose it shows.
    """

    hosts: tuple[str, ...] = ()
    published: bool = False
    tokens: tuple[str, ...] = ()


RECIPIENTS: Final = {
    "broker": Recipient(
        tuple(
            f"{host}.{network}"
            for host in ("broker", "broker-2", "brokers", "worker", "worker-2")
            for network in ("admin", "data")
        ),
        published=True,
        tokens=("broker", "functions"),
    ),
    "control-plane": Recipient(
        ("control-plane", "control-plane-2"), published=True, tokens=("platform",)
    ),
    "proxy": Recipient(("proxy", "proxy.admin"), published=True),
    "postgresql": Recipient(("postgresql",)),
    "prometheus": Recipient(tokens=("prometheus",)),
    "platform": Recipient(tokens=("platform",)),
}
"""Folder -> recipient: the services of compose.yaml; `platform` is for jobs and people."""


def renew(folder: Path = FOLDER, public_host: str = "") -> None:
    """Make what is missing or old, and new tokens.

    Raises:
        KeyDirectoryError: the keys that sign tokens cannot be used.
    """
    keys = folder / "signing-keys"
    public_key = ensure_key(keys).public_der()
    ring = KeyRing(keys)
    outside = dict.fromkeys(filter(None, ("127.0.0.1", public_host)))
    for name, recipient in _mounted(folder).items():
        place = folder / name
        certificates = Certificates(place, folder / "authority", _READABLE)
        hosts = (*recipient.hosts, *(outside if recipient.published else ()))
        if hosts:
            certificates.ensure(*hosts)
        if name == "proxy":
            both = certificates.server.read_bytes() + certificates.server_key.read_bytes()
            write_private(place / "proxy.pem", both, _READABLE)
        write_private(place / "token-key.der", public_key, _READABLE)
        for subject in recipient.tokens:
            token, _ = ring.issue(subject=subject, role=_ROLES[subject], lifetime=MAX_LIFETIME)
            write_private(place / f"{subject}.token", token.encode(), _READABLE)
        # Last: the container's health check looks at its age.
        write_private(place / "ca.pem", certificates.authority.read_bytes(), _READABLE)


def _mounted(folder: Path) -> dict[str, Recipient]:
    """Who is there: the single machine has no proxy."""
    return {
        name: recipient
        for name, recipient in RECIPIENTS.items()
        if os.access(folder / name, os.W_OK)
    }


def main(arguments: list[str]) -> int:
    """Run one command."""
    public_host = os.environ.get("DDS_PUBLIC_HOST", "")
    if arguments not in (["serve"], ["renew"]):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    renew(public_host=public_host)
    while arguments == ["serve"]:
        time.sleep(INTERVAL.total_seconds())
        renew(public_host=public_host)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
