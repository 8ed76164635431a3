"""HTTP to Pulsar's admin port: bounded retries, timeouts everywhere, one error for each reaction.

    AdminError                  something went wrong at the admin API
     ├─ AdminUnavailable        the broker does not answer or is not ready: retry later
     ├─ AdminNotFound           the thing named does not exist: create it, or drop the reference
     ├─ AdminConflict           it exists already, or is in use: read it, then update it
     └─ AdminRejected           Pulsar refuses the request: change the request (or the permissions)

A request is repeated while the broker cannot be reached, cuts the connection, or answers 502, 503
or 504 ("Leader not yet ready"), until `retry_for_s` has passed. When an attempt may have been
carried out before its answer was lost, a later "exists already" of a creation, or "not found" of
a deletion, counts as success.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from marketdata.connection import NO_ACCESS, Access
from marketdata.errors import DistributionError

Multipart = dict[str, tuple[str | None, bytes, str]]
"""Part name to file name, content and content type."""

_RETRIED_STATUSES = frozenset({429, 502, 503, 504})
_SWITCHED_OFF = re.compile("is not enabled", re.IGNORECASE)
"""Pulsar answers 503, too, for a service that its configuration does not have."""
_FIRST_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 2.0


class AdminError(DistributionError):
    """Something went wrong at the admin API; `status` is its HTTP status, 0 when none came."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class AdminUnavailable(AdminError):
    """The broker or its functions worker does not answer or is not ready. Retry later."""


class AdminNotFound(AdminError):
    """The cluster has no such thing. Create it, or drop the reference to it."""


class AdminConflict(AdminError):
    """It exists already, is in use or was changed at the same time. Read it again, then update."""


class AdminRejected(AdminError):
    """Pulsar refuses the request as it is. Change the request or the permissions; do not retry."""


class _Bearer:
    """Shows the token that the file holds at the time of the request, as a hook of the client.

    A broker redirects to the one that has the topic. httpx takes what `auth` adds away there, since
    it is another host; what proves that it is of the cluster is its certificate, so the token is
    shown wherever the scheme is the configured one.
    """

    def __init__(self, access: Access, url: str) -> None:
        self._access = access
        self._scheme = httpx.URL(url).scheme

    async def __call__(self, request: httpx.Request) -> None:
        if request.url.scheme != self._scheme:
            return
        try:
            token = self._access.token()
        except DistributionError as error:
            raise AdminRejected(str(error)) from None
        request.headers["Authorization"] = f"Bearer {token}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the admin API answered. `uncertain`: an earlier attempt may have been carried out."""

    status: int
    content: bytes
    uncertain: bool
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """The body as JSON; None when there is none."""
        return json.loads(self.text) if self.text else None

    @property
    def reason(self) -> str:
        """Pulsar's own explanation: the `reason` of its JSON body, else the body."""
        try:
            body = json.loads(self.text)
        except ValueError:
            return self.text.strip()[:500]
        if isinstance(body, dict) and "reason" in body:
            return str(body["reason"])[:500]
        return self.text.strip()[:500]


class AdminHttp:
    """One connection pool to the admin port. Make it inside the event loop that uses it."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 15.0,
        retry_for_s: float = 20.0,
        access: Access = NO_ACCESS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._retry_for_s = retry_for_s
        self._client = httpx.AsyncClient(
            base_url=self.url,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 3.0)),
            event_hooks={"request": [_Bearer(access, url)] if access.token_file else []},
            verify=access.tls(),
            transport=transport,
            follow_redirects=True,
            trust_env=False,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        files: Multipart | None = None,
        params: dict[str, str] | None = None,
        retry_for_s: float | None = None,
        timeout_s: float | None = None,
        once: bool = False,
    ) -> Answer:
        """The answer, whatever its status, or AdminUnavailable when none came in time.

        `once`: it is not sent again when it may have been carried out.
        """
        headers = {"Content-Type": "application/json"} if body is not None else {}
        content = json.dumps(body).encode() if body is not None else None
        budget_s = self._retry_for_s if retry_for_s is None else retry_for_s
        deadline = time.monotonic() + budget_s
        pause_s = _FIRST_BACKOFF_S
        uncertain = False
        while True:
            try:
                response = await self._client.request(
                    method,
                    path,
                    content=content,
                    files=files,
                    params=params,
                    headers=headers,
                    timeout=httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s,
                )
            except httpx.TransportError as error:
                uncertain |= not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                problem = f"{type(error).__name__} {error}".strip()
                status, reason = 0, problem
            else:
                answer = Answer(response.status_code, response.content, uncertain, response.headers)
                if answer.status not in _RETRIED_STATUSES or _SWITCHED_OFF.search(answer.reason):
                    return answer
                # A gateway's time-out says nothing about what the broker did with the request.
                uncertain |= response.status_code in (502, 504)
                status, reason = answer.status, answer.reason
                problem = f"HTTP {status}: {reason}"
            if (once and uncertain) or time.monotonic() + pause_s > deadline:
                raise AdminUnavailable(
                    f"Pulsar's admin API at {self.url} does not serve {method} {path} ({problem}). "
                    "Check that the broker runs and that the admin URL is right, then retry.",
                    status=status,
                    reason=reason,
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_BACKOFF_S)

    async def call(
        self,
        method: str,
        path: str,
        what: str,
        *,
        body: Any = None,
        files: Multipart | None = None,
        params: dict[str, str] | None = None,
        retry_for_s: float | None = None,
        timeout_s: float | None = None,
        once: bool = False,
    ) -> Answer:
        """The answer of a request that succeeded; `what` names it in the error when it did not."""
        answer = await self.request(
            method,
            path,
            body=body,
            files=files,
            params=params,
            retry_for_s=retry_for_s,
            timeout_s=timeout_s,
            once=once,
        )
        if answer.status < 400:
            return answer
        if answer.uncertain and (
            (answer.status == 409 and method in ("PUT", "POST"))
            or (answer.status == 404 and method == "DELETE")
        ):
            return answer
        raise error_of(answer, what)


def error_of(answer: Answer, what: str) -> AdminError:
    """The exception that stands for an answer of 400 and above.

    >>> type(error_of(Answer(404, b'{"reason": "no such tenant"}', False), "read x")).__name__
    'AdminNotFound'
    """
    kind, advice = _reaction(answer.status)
    message = f"Cannot {what}: Pulsar answers {answer.status} ({answer.reason}). {advice}"
    return kind(message, status=answer.status, reason=answer.reason)


def _reaction(status: int) -> tuple[type[AdminError], str]:
    match status:
        case 404:
            return AdminNotFound, "Create it first, or correct its name."
        case 409:
            return AdminConflict, "Read its present state and update that instead."
        case 401 | 403:
            return AdminRejected, "Give the role of this token the permission, or use another one."
        case _ if status >= 500:
            return AdminUnavailable, "Look at the broker's log, then retry."
        case _:
            return AdminRejected, "Correct the request; repeating it does not help."
