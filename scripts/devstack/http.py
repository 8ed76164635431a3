"""The few HTTP requests of the stack's health checks: small answers, short time, no exceptions."""

from __future__ import annotations

import urllib.request


def get(url: str, *, timeout_s: float = 5.0) -> bytes | None:
    """The body of a successful GET, or None when there is no such answer."""
    return _send(urllib.request.Request(url), timeout_s)  # noqa: S310  (see _send)


def post(url: str, *, timeout_s: float = 30.0) -> bytes | None:
    """The body of a successful POST without content, or None when there is no such answer."""
    return _send(urllib.request.Request(url, method="POST"), timeout_s)  # noqa: S310  (see _send)


def _send(request: urllib.request.Request, timeout_s: float) -> bytes | None:
    try:
        # Addresses come from the stack's own ports or the user's own settings.
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            return bytes(answer.read())
    except (OSError, ValueError):
        return None
