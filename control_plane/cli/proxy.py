"""`ddsctl proxy`: the control plane for a browser of this machine, which has no token to show.

It listens on the loopback address and sends what comes on to the control plane, with the caller's
token. Pages of other sites cannot use it: a request has to be made for this address by its name,
and one that a page sends has to come from a page that came from here.
"""

from __future__ import annotations

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")
_NOT_SENT_ON = frozenset(
    {
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "host",
        "origin",
        "referer",
        "transfer-encoding",
    }
)
_NOT_ANSWERED = frozenset({"connection", "content-encoding", "content-length", "transfer-encoding"})
_LONGEST_SILENCE_S = 60.0
"""A stream of events has a heartbeat before that."""


class _Handler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    server: Proxy

    def handle_one(self) -> None:
        """Send a request on, and its answer back as it comes."""
        if not self._is_ours():
            self.send_error(HTTPStatus.FORBIDDEN, "ask for http://127.0.0.1 by a page of it")
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = [
            (name, value)
            for name, value in self.headers.items()
            if name.lower() not in _NOT_SENT_ON
        ]
        try:
            with self.server.client.stream(
                self.command, self.path, headers=headers, content=body
            ) as answer:
                self._answer(answer)
        except httpx.HTTPError as error:
            self.send_error(HTTPStatus.BAD_GATEWAY, "the control plane is not reached", str(error))

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do_HEAD = handle_one  # noqa: N815

    def _answer(self, answer: httpx.Response) -> None:
        self.send_response(answer.status_code)
        for name, value in answer.headers.multi_items():
            if name.lower() not in _NOT_ANSWERED:
                self.send_header(name, value)
        self.end_headers()
        for chunk in answer.iter_bytes():
            self.wfile.write(chunk)
            self.wfile.flush()

    def _is_ours(self) -> bool:
        """Whether a browser asks for this address by its name, from no page of another site."""
        port = self.server.server_port
        ours = {f"{name}:{port}" for name in _NAMES}
        origin = self.headers.get("Origin")
        return self.headers.get("Host") in ours and (
            origin is None or origin.removeprefix("http://") in ours
        )

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing of requests: the control plane logs them."""


class Proxy(ThreadingHTTPServer):
    """The proxy; `serve_forever` serves until `shutdown`.

    Args:
        client: sends requests to the control plane, with a token.
        port: 0 for any that is free.
    """

    daemon_threads = True

    def __init__(self, client: httpx.Client, port: int) -> None:
        self.client = client
        client.timeout = httpx.Timeout(_LONGEST_SILENCE_S)
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{HOST}:{self.server_port}"
