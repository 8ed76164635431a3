"""Tokens of an external OpenID Connect issuer, verified with the keys that it publishes.

Keys are kept and asked for again when they are old, or when a token names one that is not known;
the issuer is asked at most once in `RETRY_SECONDS`, whatever tokens come in. Only keys for ES256
and RS256 are taken: no shared secrets, no short ones.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from control_plane.security.tokens import (
    Claims,
    Reason,
    TokenRefused,
    Trust,
    key_id,
    verify,
)

KEPT_SECONDS = 600.0
RETRY_SECONDS = 30.0
MAX_KEYS_BYTES = 256 * 1024
MIN_RSA_BITS = 2048
_TIMEOUT_SECONDS = 5.0

log = structlog.get_logger(__name__)

Fetch = Callable[[], Awaitable[bytes]]


def fetch_from(url: str) -> Fetch:
    """What asks a URL for its key set; httpx.HTTPError or ValueError when there is none."""

    async def fetch() -> bytes:
        async with (
            httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, follow_redirects=False) as client,
            client.stream("GET", url) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise ValueError(f"answered {answer.status_code}")
            body = b""
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > MAX_KEYS_BYTES:
                    raise ValueError(f"the key set is larger than {MAX_KEYS_BYTES} bytes")
            return body

    return fetch


class ExternalIssuer:
    """One issuer that is trusted beside the control plane itself."""

    def __init__(
        self, trust: Trust, fetch: Fetch, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._trust = trust
        self._fetch = fetch
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._keys: Mapping[str, tuple[Any, str]] = {}
        self._loaded_at = self._asked_at = float("-inf")

    async def verify(self, token: str) -> Claims:
        """What a token of this issuer says; TokenRefused when it is not to be believed."""
        kid = key_id(token)
        async with self._lock:
            now = self._monotonic()
            old = now - self._loaded_at > KEPT_SECONDS
            if (old or kid not in self._keys) and now - self._asked_at > RETRY_SECONDS:
                self._asked_at = now
                await self._refresh()
            known = self._keys.get(kid)
        if known is None:
            raise TokenRefused(Reason.UNKNOWN_KEY)
        public_key, algorithm = known
        return verify(token, public_key, algorithm, self._trust)

    async def _refresh(self) -> None:
        try:
            self._keys = _usable(await self._fetch())
            self._loaded_at = self._asked_at
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            log.warning("keys of the external issuer not read", error=type(error).__name__)


def _usable(body: bytes) -> dict[str, tuple[Any, str]]:
    """The keys of a key set that can be trusted, with their algorithms; ValueError for no set."""
    try:
        document = json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    found: dict[str, tuple[Any, str]] = {}
    match document:
        case {"keys": [*items]}:
            pass
        case _:
            raise ValueError("not a JSON Web Key Set")
    for item in items:
        kid = item.get("kid") if isinstance(item, dict) else None
        if not isinstance(kid, str) or item.get("use") not in (None, "sig"):
            continue
        try:
            key = jwt.PyJWK(item).key
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1":
            found[kid] = (key, "ES256")
        elif isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
            found[kid] = (key, "RS256")
    return found
