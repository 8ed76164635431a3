"""`GET /v1/events` on the whole application: who sees what, what is refused, how streams end."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from access import Client, Tokens, secured
from litestar.testing import AsyncTestClient

from control_plane.app import create_app
from control_plane.errors import DatabaseUnavailableError
from control_plane.security.authentication import Authenticator
from control_plane.security.callers import Caller
from control_plane.security.revocation import Revocations, Revoked
from control_plane.security.roles import Role
from control_plane.server import Server
from control_plane.settings import Settings

ALL = {"Last-Event-ID": "0"}


@pytest.fixture
def safe(settings: Settings, tmp_path: Path) -> Settings:
    return secured(settings, tmp_path)


@pytest.fixture
def tokens(safe: Settings) -> Tokens:
    return Tokens(safe)


@pytest.fixture
async def guarded(safe: Settings) -> AsyncIterator[Client]:
    async with AsyncTestClient(create_app(safe), raise_server_exceptions=False) as client:
        yield client


async def events(client: Client, headers: dict[str, str], query: str = "") -> list[tuple[str, str]]:
    """Type and name of what a stream tells."""
    answer = await client.get(f"/v1/events{query}", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.split("\r\n\r\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in fields:
            told = json.loads(fields["data"])
            assert (str(told["number"]), told["type"]) == (fields["id"], fields["event"])
            found.append((told["type"], told["data"].get("name", "")))
    return found


async def register(client: Client | httpx.AsyncClient, name: str, headers: dict[str, str]) -> str:
    made = await client.post("/v1/consumers", json={"name": name}, headers=headers)
    assert made.status_code == 201
    return str(made.json()["id"])


async def test_a_consumer_sees_what_happens_to_itself_and_nothing_else(
    guarded: Client, tokens: Tokens
) -> None:
    platform = tokens.platform()
    ids = {name: await register(guarded, name, platform) for name in ("alpha", "bravo")}
    big = {"name": "big", "instruments": ["AAPL"]}
    await guarded.post("/v1/instrument-sets", json=big, headers=platform)
    await guarded.patch("/v1/consumers/bravo", json={"suspended": True}, headers=platform)
    theirs = [("consumer.created", "bravo"), ("consumer.suspended", "bravo")]
    everything = await events(guarded, platform | ALL)
    assert set(everything) >= {
        ("consumer.created", "alpha"),
        ("instrument_set.created", "big"),
        ("plan.created", ""),
        *theirs,
    }
    reader = tokens.of(Role.READ_ONLY, "grafana")
    assert await events(guarded, reader | ALL) == everything
    for name, expected in (("alpha", [("consumer.created", "alpha")]), ("bravo", theirs)):
        own = tokens.of(Role.CONSUMER, ids[name])
        assert await events(guarded, own | ALL) == expected
        for key in (name, ids[name]):
            assert await events(guarded, own | ALL, f"?consumer={key}") == expected
            assert await events(guarded, platform | ALL, f"?consumer={key}") == expected
    mine = tokens.of(Role.CONSUMER, ids["alpha"])
    refused = await guarded.get("/v1/events?consumer=bravo", headers=mine)
    assert refused.status_code == 404
    assert (await guarded.get("/v1/events", headers=tokens.of(Role.PUBLISHER, "feed"))).is_error


async def test_events_are_chosen_by_type_and_subscription(client: Client) -> None:
    await register(client, "alpha", {})
    await client.patch("/v1/consumers/alpha", json={"owner": "us"})
    await client.delete("/v1/consumers/alpha")
    query = "?type=consumer.created&type=consumer.deleted"
    assert [what for what, _ in await events(client, ALL, query)] == [
        "consumer.created",
        "consumer.deleted",
    ]
    assert (await client.get("/v1/events?subscription=s0")).status_code == 404
    unknown = await client.get("/v1/events?type=consumer.gone")
    assert unknown.status_code == 400
    assert unknown.json()["errors"][0]["pointer"] == "query:type"


async def test_a_place_that_was_not_given_out_here_is_refused(client: Client) -> None:
    for given in ("-1", "1.5", "next", "9" * 19):
        refused = await client.get("/v1/events", headers={"Last-Event-ID": given})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"] == "header:Last-Event-ID"


async def test_an_event_names_the_request_that_caused_it(client: Client) -> None:
    made = await client.post("/v1/consumers", json={"name": "desk"})
    text = (await client.get("/v1/events?type=consumer.created", headers=ALL)).text
    told = json.loads(text.split("data: ")[1].splitlines()[0])
    assert told["request_id"] == made.headers["x-request-id"]
    assert told["consumer"] == made.json()["id"]
    assert told["subscription"] is None


async def test_one_stream_too_many_is_refused(settings: Settings) -> None:
    full = settings.model_copy(update={"event_streams": 0})
    async with AsyncTestClient(create_app(full)) as client:
        refused = await client.get("/v1/events")
    assert refused.status_code == 429
    assert refused.json()["type"] == "urn:dds:problem:too-many-streams"
    assert refused.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    ("revoked", "hours_ago", "expected"),
    [("", 0, True), ("token", 0, False), ("", 2, False), (None, 0, False)],
)
async def test_a_stream_is_held_by_a_token_that_holds(
    tokens: Tokens, revoked: str | None, hours_ago: int, expected: bool
) -> None:
    """Not by one that is revoked or expired, nor when that cannot be known."""
    _, issued = tokens.ring.issue(subject="ann", role=Role.PLATFORM, lifetime=timedelta(hours=1))
    claims = replace(issued, expires_at=issued.expires_at - timedelta(hours=hours_ago))

    async def load() -> Revoked:
        if revoked is None:
            raise DatabaseUnavailableError("away")
        return Revoked(frozenset({claims.token_id} if revoked else ()))

    authenticator = Authenticator(tokens.ring, Revocations(load, known_within_seconds=60), None)
    caller = Caller("ann", Role.PLATFORM, claims)
    assert await authenticator.still_allowed(caller) is expected


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[tuple[Server, httpx.AsyncClient, Any]]:
    """A server with streams that end only when they are told to, and that waits for them."""
    app = create_app(settings.model_copy(update={"event_stream_seconds": 3600}))
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on")
    server = Server(app, config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=None) as client:
            while not server.started:  # noqa: ASYNC110  (uvicorn tells nobody)
                await asyncio.sleep(0.01)
            yield server, client, app.state.control_plane.events
    finally:
        server.should_exit = True
        await task


async def test_a_stream_tells_what_happens_meanwhile_and_ends_in_order_at_shutdown(
    settings: Settings,
) -> None:
    async with (
        served(settings) as (server, client, _),
        client.stream("GET", "/v1/events") as answer,
    ):
        lines = answer.aiter_lines()
        assert await anext(lines) == ": connected"
        await register(client, "desk", {})
        async for line in lines:
            if line.startswith("event: "):
                break
        assert line == "event: consumer.created"
        server.should_exit = True
        # To its end: a connection that is cut off instead raises.
        assert [line async for line in lines][-1] == ""


async def test_a_reader_that_leaves_gives_its_stream_back(settings: Settings) -> None:
    async with served(settings) as (_, client, feed):
        async with client.stream("GET", "/v1/events") as answer:
            await anext(answer.aiter_lines())
            assert feed.streams == 1
        while feed.streams:  # noqa: ASYNC110  (uvicorn tells nobody)
            await asyncio.sleep(0.01)
