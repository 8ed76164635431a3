"""The few HTTP requests of the stack's health checks: small answers, short time, no exceptions."""

from __future__ import annotations

import urllib.request

from marketdata.errors import DistributionError
from scripts.devstack.security import Security


def get(url: str, *, security: Security | None = None, timeout_s: float = 5.0) -> bytes | None:
    """The body of a successful GET, or None when there is no such answer."""
    return _send(urllib.request.Request(url), security, timeout_s)  # noqa: S310  (see _send)


def post(url: str, *, security: Security | None = None, timeout_s: float = 30.0) -> bytes | None:
    """The body of a successful POST without content, or None when there is no such answer."""
    request = urllib.request.Request(url, method="POST")  # noqa: S310  (see _send)
    return _send(request, security, timeout_s)


def _send(
    request: urllib.request.Request, security: Security | None, timeout_s: float
) -> bytes | None:
    try:
        context = None
        if security is not None:
            context = security.tls()
            request.add_header("Authorization", f"Bearer {security.access.token()}")
        # Addresses come from the stack's own ports or the user's own settings.
        with urllib.request.urlopen(  # noqa: S310
            request, timeout=timeout_s, context=context
        ) as answer:
            return bytes(answer.read())
    except (OSError, ValueError, DistributionError):
        return None
