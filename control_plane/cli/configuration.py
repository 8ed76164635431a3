"""Where the control plane is and which token is shown: options, environment, a file; in this order.

The token itself is in `DDS_TOKEN` or in a file that only its owner reads; never an argument or part
of the configuration, which others on the machine can see.
"""

from __future__ import annotations

import os
import ssl
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path

import click
import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
KEYS = ("url", "token_file", "trust_certs", "output")


class ConfigurationError(click.UsageError):
    """The configuration cannot be used; the text says what to change."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What requests need to know."""

    url: str = DEFAULT_URL
    token_file: Path | None = None
    trust_certs: Path | None = None

    def authenticate(self, request: httpx.Request) -> httpx.Request:
        """Add the token, if there is one; its file is read for every request."""
        if token := self._token():
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    def client(self) -> httpx.Client:
        """An HTTP client for the control plane."""
        verify: ssl.SSLContext | bool = True
        if self.trust_certs is not None:
            try:
                verify = ssl.create_default_context(cafile=self.trust_certs)
            except OSError as error:
                raise ConfigurationError(f"{self.trust_certs}: {error}") from None
        return httpx.Client(base_url=self.url, timeout=60.0, auth=self.authenticate, verify=verify)

    def _token(self) -> str | None:
        if self.token_file is None:
            return token_in_environment()
        try:
            mode = self.token_file.stat().st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigurationError(
                    f"{self.token_file} holds a token and can be used by others "
                    f"(mode {stat.S_IMODE(mode):04o}): chmod 600 {self.token_file}"
                )
            return self.token_file.read_text("ascii").strip()
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"The token cannot be read: {error}") from None


def token_in_environment() -> str | None:
    """The token of `DDS_TOKEN`."""
    return os.environ.get("DDS_TOKEN", "").strip() or None


def configuration_file() -> Path:
    """Where the configuration stands when nobody says."""
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "ddsctl.toml"


def load(path: Path | None) -> dict[str, str]:
    """What the configuration file says; nothing when there is none at the usual place.

    Raises:
        ConfigurationError: the file that was named is not there, or it is not what it should be.
    """
    file = path or configuration_file()
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        if path is None:
            return {}
        raise ConfigurationError(f"{file}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file}: {error}") from None
    for key, value in found.items():
        if key not in KEYS:
            raise ConfigurationError(f"{file}: {key!r} is unknown; known are {', '.join(KEYS)}")
        if not isinstance(value, str):
            raise ConfigurationError(f"{file}: {key} must be a text in quotes")
    for key in ("token_file", "trust_certs"):
        if key in found:  # from the file's own folder, not from where the command is called
            found[key] = str(file.parent / Path(found[key]).expanduser())
    return found
