"""Tokens: JSON Web Tokens that say who calls the API or the broker, and in which role.

One token serves both. Its `sub` is the role at the broker: a consumer's id, `functions`, or the
name of a person or a publisher; `role` is the role at the API. What is wrong with a token is told
by one of a fixed set of reasons, for metrics and logs; the caller learns none of them.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import jwt
import structlog

from control_plane.security.keys import (
    ALGORITHM,
    KeyDirectoryError,
    SigningKey,
    jwks,
    load_keys,
    signing_key,
    still_there,
)
from control_plane.security.roles import Role, fits

DEFAULT_ISSUER = "urn:dds"
DEFAULT_AUDIENCE = "dds"
MAX_LIFETIME = timedelta(hours=24)
"""No token lives longer, whoever issued it: so long is a revocation remembered."""
MAX_TOKEN_CHARS = 4096
RELOAD_SECONDS = 5.0
"""How old what is known of the directory of keys may be."""
LEEWAY = timedelta(seconds=5)
"""How far clocks may differ."""
_ALGORITHMS = (ALGORITHM, "RS256")
_REQUIRED = ["iss", "aud", "sub", "iat", "exp"]

log = structlog.get_logger(__name__)


class Reason(StrEnum):
    """Why a request was not authenticated: the label of `dds_authentication_refused_total`."""

    MISSING = "missing"
    MALFORMED = "malformed"
    OVERSIZED = "oversized"
    ALGORITHM = "algorithm"
    UNKNOWN_KEY = "unknown-key"
    SIGNATURE = "signature"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    CLAIMS = "claims"
    REVOKED = "revoked"


class TokenRefused(Exception):
    """A token that does not authenticate; `reason` is for metrics and logs, not for the caller."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says, once it is verified or issued.

    `token_id` is "" where it has none. `authenticated_at` is when somebody who may issue tokens
    issued the first of those that this one was renewed from.
    """

    subject: str
    role: Role
    token_id: str
    issuer: str
    issued_at: datetime
    expires_at: datetime
    authenticated_at: datetime


@dataclass(frozen=True, slots=True)
class Trust:
    """What a token must say to be believed, beside its signature."""

    issuer: str
    audience: str
    subject_claim: str = "sub"
    role_claim: str = "role"


class KeyRing:
    """The keys of a directory: issues and verifies tokens.

    What changes in the directory is taken over within `RELOAD_SECONDS`, without a restart; a
    directory that becomes unusable is logged, and of what was known those keys stay whose files
    are there. Safe to use from several threads.
    """

    def __init__(
        self,
        directory: Path,
        *,
        issuer: str = DEFAULT_ISSUER,
        audience: str = DEFAULT_AUDIENCE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """KeyDirectoryError when the directory holds no usable keys."""
        self._directory = directory
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self.trust = Trust(issuer, audience)
        self._keys: Mapping[str, SigningKey] = load_keys(directory)
        self._loaded_at = monotonic()

    def keys(self) -> Mapping[str, SigningKey]:
        """The keys by their id, oldest first."""
        with self._lock:
            if self._monotonic() - self._loaded_at >= RELOAD_SECONDS:
                self._loaded_at = self._monotonic()
                try:
                    self._keys = load_keys(self._directory)
                except KeyDirectoryError as error:
                    log.error("signing keys not reloaded", error=str(error))  # noqa: TRY400
                    # A key that was deleted is not to be believed, whatever else is wrong there.
                    self._keys = still_there(self._directory, self._keys)
            return self._keys

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys as a JSON Web Key Set."""
        return jwks(self.keys())

    def issue(
        self,
        *,
        subject: str,
        role: Role,
        lifetime: timedelta,
        authenticated_at: datetime | None = None,
        now: datetime | None = None,
    ) -> tuple[str, Claims]:
        """A signed token and what it says.

        Raises:
            ValueError: the subject does not fit the role, or the lifetime is out of bounds.
            KeyDirectoryError: no key is active yet.
        """
        if not fits(role, subject):
            raise ValueError(f"{subject!r} cannot be the subject of a token for the role {role}.")
        if not timedelta(seconds=1) <= lifetime <= MAX_LIFETIME:
            raise ValueError(f"A token lives from 1 s to {MAX_LIFETIME // timedelta(hours=1)} h.")
        now = now or datetime.now(UTC)
        key = signing_key(self.keys(), now)
        issued_at = now.replace(microsecond=0)
        claims = Claims(
            subject=subject,
            role=role,
            token_id=secrets.token_hex(16),
            issuer=self.trust.issuer,
            issued_at=issued_at,
            expires_at=issued_at + lifetime,
            authenticated_at=authenticated_at or issued_at,
        )
        payload = {
            "iss": claims.issuer,
            "aud": self.trust.audience,
            "sub": subject,
            "role": role.value,
            "jti": claims.token_id,
            "iat": claims.issued_at,
            "nbf": claims.issued_at,
            "exp": claims.expires_at,
            "auth_time": int(claims.authenticated_at.timestamp()),
        }
        return jwt.encode(payload, key.private, ALGORITHM, headers={"kid": key.kid}), claims

    def verify(self, token: str) -> Claims:
        """What a token of this issuer says; TokenRefused when it is not to be believed."""
        key = self.keys().get(key_id(token))
        if key is None:
            raise TokenRefused(Reason.UNKNOWN_KEY)
        return verify(token, key.private.public_key(), ALGORITHM, self.trust)


def key_id(token: str) -> str:
    """The id of the key that a token names, unverified; TokenRefused for what is no token."""
    if len(token) > MAX_TOKEN_CHARS:
        raise TokenRefused(Reason.OVERSIZED)
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise TokenRefused(Reason.MALFORMED) from None
    kid = header.get("kid")
    if header.get("alg") not in _ALGORITHMS:
        raise TokenRefused(Reason.ALGORITHM)
    if not isinstance(kid, str):
        raise TokenRefused(Reason.UNKNOWN_KEY)
    return kid


def verify(token: str, public_key: Any, algorithm: str, trust: Trust) -> Claims:
    """What a token says, when its signature and its claims hold; TokenRefused otherwise.

    The algorithm is the key's, never the token's choice.
    """
    try:
        payload = jwt.decode(
            token,
            public_key,
            algorithms=[algorithm],
            issuer=trust.issuer,
            audience=trust.audience,
            leeway=LEEWAY,
            options={"require": _REQUIRED},
        )
    except jwt.InvalidTokenError as error:
        raise TokenRefused(_reason(error)) from None
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise TokenRefused(Reason.MALFORMED) from None
    return _claims(payload, trust)


_REASONS: tuple[tuple[type[jwt.InvalidTokenError], Reason], ...] = (
    (jwt.ExpiredSignatureError, Reason.EXPIRED),
    (jwt.ImmatureSignatureError, Reason.NOT_YET_VALID),
    (jwt.InvalidIssuerError, Reason.ISSUER),
    (jwt.InvalidAudienceError, Reason.AUDIENCE),
    (jwt.InvalidAlgorithmError, Reason.ALGORITHM),
    (jwt.InvalidSignatureError, Reason.SIGNATURE),
    (jwt.MissingRequiredClaimError, Reason.CLAIMS),
    (jwt.DecodeError, Reason.MALFORMED),
)


def _reason(error: jwt.InvalidTokenError) -> Reason:
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), Reason.CLAIMS)


def _claims(payload: Mapping[str, Any], trust: Trust) -> Claims:
    subject, token_id = payload.get(trust.subject_claim), payload.get("jti", "")
    role = _role(payload.get(trust.role_claim))
    if not isinstance(subject, str) or not isinstance(token_id, str) or not fits(role, subject):
        raise TokenRefused(Reason.CLAIMS)
    try:
        issued_at, expires_at, authenticated_at = (
            datetime.fromtimestamp(int(value), UTC)
            for value in (payload["iat"], payload["exp"], payload.get("auth_time", payload["iat"]))
        )
    except (ValueError, TypeError, OverflowError, OSError):
        raise TokenRefused(Reason.CLAIMS) from None
    if expires_at - issued_at > MAX_LIFETIME:
        raise TokenRefused(Reason.CLAIMS)
    return Claims(subject, role, token_id, trust.issuer, issued_at, expires_at, authenticated_at)


def _role(value: object) -> Role:
    """The one role that a claim names: itself, or one of a list in which no other is known."""
    known = {role.value for role in Role}
    named = {v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)}
    roles = named & known
    if len(roles) != 1:
        raise TokenRefused(Reason.CLAIMS)
    return Role(roles.pop())
