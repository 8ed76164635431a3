"""What the tests of authentication share: an application that requires it, and tokens for it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from litestar.testing import AsyncTestClient

from control_plane.security.keys import make_key
from control_plane.security.roles import Role
from control_plane.security.tokens import KeyRing
from control_plane.settings import Settings

Client = AsyncTestClient[Any]
ISSUER = "http://control-plane.example"


def secured(settings: Settings, folder: Path, **changes: Any) -> Settings:
    """The settings, with authentication required and a first signing key."""
    make_key(folder / "keys")
    return settings.model_copy(
        update={
            "authentication": "required",
            "signing_keys_dir": folder / "keys",
            "token_issuer": ISSUER,
            "revocation_seconds": 0.05,
            **changes,
        }
    )


def header(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Tokens:
    """Tokens as `python -m control_plane.security issue` makes them."""

    def __init__(self, settings: Settings) -> None:
        assert settings.signing_keys_dir is not None
        self.ring = KeyRing(settings.signing_keys_dir, issuer=settings.token_issuer)

    def make(self, role: Role, subject: str = "ann") -> str:
        return self.ring.issue(subject=subject, role=role, lifetime=timedelta(hours=1))[0]

    def platform(self) -> dict[str, str]:
        return header(self.make(Role.PLATFORM))

    def of(self, role: Role, subject: str) -> dict[str, str]:
        return header(self.make(role, subject))
