"""The token that the project's own programs show to the control plane.

`DDS_TOKEN` holds it, or `DDS_TOKEN_FILE` names a file that does. The file is read for every
request, so a token can be replaced there before it expires. It is never an argument: those are seen
by everybody on the machine. Without both, requests go out as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import httpx

from marketdata.connection import Access


def authorization(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The header that authenticates a request to the control plane; none without a token.

    Raises:
        DistributionError: `DDS_TOKEN_FILE` cannot be read.
    """
    token = environment.get("DDS_TOKEN") or Access.from_environment(environment).token()
    return {"Authorization": f"Bearer {token.strip()}"} if token else {}


def authenticate(request: httpx.Request) -> httpx.Request:
    """Add the header to a request: `httpx.Client(auth=authenticate)`."""
    request.headers.update(authorization())
    return request
