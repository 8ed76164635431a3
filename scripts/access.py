"""The token that the project's own programs show to the control plane.

`DDS_TOKEN` holds it, or `DDS_TOKEN_FILE` names a file that does. The file is read for every
request, so a token can be replaced there before it expires. It is never an argument: those are seen
by everybody on the machine. Without both, requests go out as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import httpx


class TokenNotFound(Exception):
    """DDS_TOKEN_FILE names a file that cannot be read: put a token there, or unset it."""


def authorization(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The header that authenticates a request to the control plane; none without a token."""
    token, file = environment.get("DDS_TOKEN"), environment.get("DDS_TOKEN_FILE")
    if not token and file:
        try:
            token = Path(file).read_text("ascii")
        except (OSError, ValueError) as error:
            raise TokenNotFound(
                f"{file} (DDS_TOKEN_FILE) holds no token that can be read ({type(error).__name__})"
            ) from None
    return {"Authorization": f"Bearer {token.strip()}"} if token else {}


def authenticate(request: httpx.Request) -> httpx.Request:
    """Add the header to a request: `httpx.Client(auth=authenticate)`."""
    request.headers.update(authorization())
    return request
