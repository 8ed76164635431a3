"""The signing keys of the control plane: a directory of private keys (PEM, P-256, for ES256).

A key's file is named `<active from, UTC>-<kid>.pem`; `kid` is the RFC 7638 thumbprint of its
public half. The newest key that is active already signs, all verify, so a key is rotated by making
one that becomes active once every verifier knows it, and by deleting the old file once its last
token has expired. Files have mode 0600 in a directory of mode 0700; keys that others can read are
refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

ALGORITHM = "ES256"
_TIME = "%Y%m%dT%H%M%SZ"
_FILE = re.compile(r"(?P<time>[0-9]{8}T[0-9]{6}Z)-(?P<kid>[A-Za-z0-9_-]{43})\.pem")
_COORDINATE_BYTES = 32


class KeyDirectoryError(Exception):
    """The directory of signing keys cannot be used; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One private key with its id and the time from which it signs."""

    kid: str
    active_from: datetime
    private: ec.EllipticCurvePrivateKey

    def jwk(self) -> dict[str, str]:
        """The public half as a JSON Web Key (RFC 7517)."""
        return {**_members(self.private), "kid": self.kid, "use": "sig", "alg": ALGORITHM}

    def public_der(self) -> bytes:
        """The public half as DER (SubjectPublicKeyInfo), as a broker reads it."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def public_pem(self) -> bytes:
        """The public half as PEM (SubjectPublicKeyInfo)."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def make_key(directory: Path, *, active_from: datetime | None = None) -> SigningKey:
    """A new key in the directory, which is made where it is missing.

    `active_from` (now by default) is when it begins to sign; it verifies at once.
    """
    private = ec.generate_private_key(ec.SECP256R1())
    moment = (active_from or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
    key = SigningKey(_thumbprint(private), moment, private)
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f"{moment.strftime(_TIME)}-{key.kid}.pem"
    # Written under another name first: nobody reads half a key.
    draft = path.with_suffix(".draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    return key


def load_keys(directory: Path) -> dict[str, SigningKey]:
    """All keys of a directory by their id, oldest first.

    Raises:
        KeyDirectoryError: the directory is missing or holds no key, or a file is not a key of this
            kind, does not fit its name, or can be read or replaced by others.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".pem")
        writable = directory.stat().st_mode & 0o022
    except OSError as error:
        raise KeyDirectoryError(
            f"The directory of signing keys {directory} cannot be read ({error.strerror}): "
            "make a first key with `python -m control_plane.security new-key`."
        ) from None
    if writable:
        raise KeyDirectoryError(f"Others can write to {directory}: chmod 700 {directory}")
    keys = [_load(path) for path in paths]
    if not keys:
        raise KeyDirectoryError(
            f"There is no signing key in {directory}: "
            "make one with `python -m control_plane.security new-key`."
        )
    return {key.kid: key for key in keys}


def still_there(directory: Path, keys: Mapping[str, SigningKey]) -> dict[str, SigningKey]:
    """Those of some keys whose files the directory has, whatever else is in it.

    While the directory itself cannot be read nothing tells that a key was deleted: all stay.
    """
    try:
        names = {path.name for path in directory.iterdir()}
    except FileNotFoundError:
        return {}
    except OSError:
        return dict(keys)
    return {
        kid: key
        for kid, key in keys.items()
        if f"{key.active_from.strftime(_TIME)}-{kid}.pem" in names
    }


def signing_key(keys: Mapping[str, SigningKey], now: datetime) -> SigningKey:
    """The newest key that is active at `now`; KeyDirectoryError while none is."""
    active = [key for key in keys.values() if key.active_from <= now]
    if not active:
        raise KeyDirectoryError("No signing key is active yet; make one that is active at once.")
    return max(active, key=lambda key: (key.active_from, key.kid))


def ensure_key(directory: Path) -> SigningKey:
    """The key that signs now; the first one of a directory that has none is made.

    Raises:
        KeyDirectoryError: as `load_keys`, or no key of the directory is active.
    """
    if not any(directory.glob("*.pem")):
        make_key(directory)
    return signing_key(load_keys(directory), datetime.now(UTC))


def jwks(keys: Mapping[str, SigningKey]) -> dict[str, list[dict[str, str]]]:
    """The public halves as a JSON Web Key Set."""
    return {"keys": [key.jwk() for key in keys.values()]}


def _load(path: Path) -> SigningKey:
    match = _FILE.fullmatch(path.name)
    if match is None:
        raise KeyDirectoryError(f"{path} is not named as a signing key; remove it.")
    try:
        if path.stat().st_mode & 0o077:
            raise KeyDirectoryError(f"Others can read {path}: chmod 600 {path}")
        private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise KeyDirectoryError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError):
        raise KeyDirectoryError(f"{path} is not an unencrypted private key in PEM.") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
        raise KeyDirectoryError(f"{path} is not a key on the curve P-256.")
    if _thumbprint(private) != match["kid"]:
        raise KeyDirectoryError(f"{path} holds another key than its name says.")
    active_from = datetime.strptime(match["time"], _TIME).replace(tzinfo=UTC)
    return SigningKey(match["kid"], active_from, private)


def _members(private: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    numbers = private.public_key().public_numbers()
    return {
        "crv": "P-256",
        "kty": "EC",
        "x": _base64url(numbers.x.to_bytes(_COORDINATE_BYTES)),
        "y": _base64url(numbers.y.to_bytes(_COORDINATE_BYTES)),
    }


def _thumbprint(private: ec.EllipticCurvePrivateKey) -> str:
    """RFC 7638: the hash of the required members, sorted, without blanks."""
    members: dict[str, Any] = _members(private)
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return _base64url(hashlib.sha256(text.encode()).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
