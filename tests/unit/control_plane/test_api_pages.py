"""The pages of the API's description, and how a browser that has no token gets to them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from access import Tokens, secured
from litestar.testing import AsyncTestClient

from control_plane.app import create_app
from control_plane.cli.configuration import Configuration
from control_plane.cli.proxy import Proxy
from control_plane.settings import Settings

Client = AsyncTestClient[Any]


async def test_pages_need_nothing_from_elsewhere(client: Client) -> None:
    page = await client.get("/schema")
    assert page.headers["content-type"].startswith("text/html")
    head, _, body = page.text.partition("<body>")
    assert '"operationId":"createSubscription"' in body
    assert "//" not in head
    files = re.findall(r'(?:href|src)="([^"]*)"', head)
    assert sorted(files) == [
        "/schema/files/swagger-ui-bundle.js",
        "/schema/files/swagger-ui-standalone-preset.js",
        "/schema/files/swagger-ui.css",
        "data:,",
    ]
    for path in files:
        if path.startswith("/"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert len(answer.content) > 10_000
    assert (await client.get("/schema/files/swagger-editor.css")).status_code == 404


async def test_pages_need_a_token_as_everything_does(settings: Settings, tmp_path: Path) -> None:
    guarded = secured(settings, tmp_path)
    async with AsyncTestClient(create_app(guarded), raise_server_exceptions=False) as client:
        for path in ("/schema", "/schema/files/swagger-ui.css"):
            assert (await client.get(path)).status_code == 401
            answer = await client.get(path, headers=Tokens(guarded).platform())
            assert answer.status_code == 200


class _Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        told = f"{self.command} {self.path} {body.decode()} {self.headers['Authorization']}"
        self.send_response(201)
        self.send_header("X-Origin", str(self.headers["Origin"]))
        self.end_headers()
        self.wfile.write(told.encode())

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[str]:
    """The address of a proxy to what answers with what it was asked."""
    token = tmp_path / "token"
    token.write_text("secret\n")
    token.chmod(0o600)
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Echo)) as url:
        configuration = Configuration(url=url, token_file=token)
        with configuration.client() as client, serving(Proxy(client, 0)) as address:
            yield address


def test_the_token_is_added_and_cannot_be_chosen(proxied: str) -> None:
    answer = httpx.post(
        f"{proxied}/v1/x?a=b", content="body", headers={"Authorization": "Bearer other"}
    )
    assert answer.status_code == 201
    assert answer.text == "POST /v1/x?a=b body Bearer secret"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 201),
    ],
)
def test_pages_of_other_sites_cannot_use_it(
    proxied: str, headers: dict[str, str], status: int
) -> None:
    assert httpx.post(f"{proxied}/v1/x", content="", headers=headers).status_code == status


def test_its_own_pages_can(proxied: str) -> None:
    answer = httpx.post(f"{proxied}/v1/x", content="", headers={"Origin": proxied})
    assert (answer.status_code, answer.headers["X-Origin"]) == (201, "None")


def test_a_control_plane_that_is_away_is_told() -> None:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Echo)) as url:
        pass
    with Configuration(url=url).client() as client, serving(Proxy(client, 0)) as address:
        assert httpx.get(f"{address}/schema").status_code == 502
