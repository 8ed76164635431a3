"""Authentication and roles, on the whole application with a real PostgreSQL."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import psycopg.sql
import pytest
import structlog
import uvicorn
from access import ISSUER, Client, Tokens, header, secured
from litestar.routes import HTTPRoute
from litestar.testing import AsyncTestClient

from control_plane.app import create_app
from control_plane.domains.consumers.schemas import OWN_FIELDS, ConsumerUpdate
from control_plane.errors import DatabaseUnavailableError
from control_plane.logs import configure_logging
from control_plane.security.keys import make_key
from control_plane.security.permissions import ROLES, Permission, declared
from control_plane.security.roles import Role
from control_plane.security.tokens import KeyRing
from control_plane.settings import Settings, SettingsError, load_settings

PUBLIC = {"/healthz", "/readyz", "/.well-known/jwks.json", "/.well-known/openid-configuration"}
HOUR = timedelta(hours=1)
NOBODY_ID = "c" + "0" * 16


@pytest.fixture
def safe(settings: Settings, tmp_path: Path) -> Settings:
    return secured(settings, tmp_path)


@pytest.fixture
def tokens(safe: Settings) -> Tokens:
    return Tokens(safe)


@pytest.fixture
def logs(settings: Settings) -> Iterator[io.StringIO]:
    """Everything that is logged, as the service logs it; put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(settings.model_copy(update={"log_level": "DEBUG"}), stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


async def broker_is_there() -> None:
    return


async def serving(settings: Settings) -> AsyncIterator[Client]:
    app = create_app(settings)
    app.state.control_plane.subscriptions._require_broker = broker_is_there
    async with AsyncTestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
async def guarded(safe: Settings) -> AsyncIterator[Client]:
    async for client in serving(safe):
        yield client


def routes(app: Any) -> list[tuple[str, str, Permission | None]]:
    """Path, method and permission of everything that the framework does not make by itself."""
    return [
        (route.path, method, declared(handler.opt))
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods - {"OPTIONS"}
    ]


def filled(path: str, value: str, number: int = 1) -> str:
    path = re.sub(r"\{[a-z]+:int\}", str(number), path)
    return re.sub(r"\{[a-z]+:[a-z]+\}", value, path)


async def register(client: Client | httpx.AsyncClient, name: str, platform: dict[str, str]) -> str:
    made = await client.post("/v1/consumers", json={"name": name, "owner": "us"}, headers=platform)
    assert made.status_code == 201
    return str(made.json()["id"])


def metric(text: str, reason: str) -> float:
    found = re.search(rf'dds_authentication_refused_total{{reason="{reason}"}} (\S+)', text)
    assert found
    return float(found[1])


def test_every_route_declares_what_it_needs(safe: Settings) -> None:
    app = create_app(safe)
    assert all(isinstance(route, HTTPRoute) for route in app.routes)
    found = routes(app)
    assert len(found) > 30
    assert [(path, method) for path, method, permission in found if permission is None] == []
    assert {path for path, _, need in found if need is Permission.PUBLIC} == PUBLIC
    # Whatever changes something that is everybody's is the platform team's alone.
    assert ROLES[Permission.OPERATE] == {Role.PLATFORM}
    assert not any(Role.FUNCTIONS in roles for roles in ROLES.values())
    writing = {need for _, method, need in found if method != "GET"}
    assert writing == {Permission.OPERATE, Permission.SUBSCRIBE, Permission.TOKENS}


async def test_a_route_that_declares_nothing_is_refused_to_everybody(
    safe: Settings, tokens: Tokens
) -> None:
    app = create_app(safe)
    for route in app.routes:
        if route.path == "/v1/consumers":
            for handler in route.route_handlers:
                handler.opt.clear()
    async with AsyncTestClient(app) as client:
        refused = await client.get("/v1/consumers", headers=tokens.platform())
        assert refused.status_code == 403
        assert refused.json()["type"] == "urn:dds:problem:forbidden"


async def test_nothing_but_health_and_keys_is_answered_without_a_token(guarded: Client) -> None:
    asked = [(filled(path, "x"), method) for path, method, _ in routes(guarded.app)]
    asked += [("/v1/nothing", "GET"), ("/", "GET"), ("/healthz/", "GET"), ("//healthz", "GET")]
    asked += [("/healthz/../v1/consumers", "GET"), ("/v1/consumers", "OPTIONS")]
    seen = []
    for path, method in asked:
        answer = await guarded.request(method, path)
        if path in PUBLIC:
            assert answer.status_code != 401
            continue
        assert answer.status_code == 401, (path, method)
        assert answer.headers["www-authenticate"] == 'Bearer realm="dds"'
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["type"] == "urn:dds:problem:unauthenticated"
        assert problem["request_id"] == answer.headers["x-request-id"]
        seen.append({problem["title"], problem["detail"]})
    assert len(seen) > 30
    assert all(each == seen[0] for each in seen)


async def test_every_refusal_looks_the_same_and_is_counted_by_reason(
    guarded: Client, tokens: Tokens
) -> None:
    wrong = {
        "Basic YTpi": "malformed",
        "Bearer": "malformed",
        "Bearer ": "malformed",
        "Bearer x.y.z": "malformed",
        "Bearer " + "x" * 5000: "oversized",
        "Bearer eyJhbGciOiJub25lIn0.e30.": "algorithm",
    }
    for given in wrong:
        refused = await guarded.get("/v1/consumers", headers={"Authorization": given})
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == 'Bearer realm="dds", error="invalid_token"'
        assert refused.json()["detail"] == "This needs a valid bearer token."
    text = (await guarded.get("/metrics", headers=tokens.platform())).text
    for reason, count in Counter(wrong.values()).items():
        assert metric(text, reason) == count
    assert metric(text, "signature") == 0


async def test_two_tokens_are_none(guarded: Client, tokens: Tokens) -> None:
    good = tokens.make(Role.PLATFORM)
    headers = [("Authorization", f"Bearer {good}"), ("Authorization", f"Bearer {good}")]
    assert (await guarded.get("/v1/consumers", headers=headers)).status_code == 401


async def test_the_scheme_is_read_in_any_case(guarded: Client, tokens: Tokens) -> None:
    headers = {"authorization": f"bearer {tokens.make(Role.PLATFORM)}"}
    assert (await guarded.get("/v1/consumers", headers=headers)).status_code == 200


async def test_roles_reach_what_is_theirs_and_nothing_else(guarded: Client, tokens: Tokens) -> None:
    desk = await register(guarded, "desk", tokens.platform())
    callers = {
        Role.PLATFORM: tokens.platform(),
        Role.READ_ONLY: tokens.of(Role.READ_ONLY, "grafana"),
        Role.PUBLISHER: tokens.of(Role.PUBLISHER, "feed-1"),
        Role.CONSUMER: tokens.of(Role.CONSUMER, desk),
        Role.FUNCTIONS: tokens.of(Role.FUNCTIONS, "functions"),
    }
    for path, method, permission in routes(guarded.app):
        assert permission is not None
        if permission is Permission.PUBLIC:
            continue
        for role, headers in callers.items():
            answer = await guarded.request(method, filled(path, "x"), headers=headers)
            refused = answer.status_code == 403
            assert refused == (role not in ROLES[permission]), (path, method, role, answer.text)
            if refused:
                assert answer.json()["type"] == "urn:dds:problem:forbidden"
                assert answer.json()["detail"] == "Your role may not do this."


async def test_the_description_says_how_to_authenticate(guarded: Client, tokens: Tokens) -> None:
    answer = await guarded.get("/schema/openapi.json", headers=tokens.platform())
    described = answer.json()
    assert described["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert described["security"] == [{"bearer": []}]
    for path, methods in described["paths"].items():
        for operation in methods.values():
            if path in PUBLIC:
                assert operation["security"] == [{}]
                assert "401" not in operation["responses"]
            else:
                assert operation.get("security", described["security"]) == [{"bearer": []}]
                assert {"401", "403", "503"} <= set(operation["responses"])


async def test_a_consumer_knows_only_itself(guarded: Client, tokens: Tokens) -> None:
    """One consumer tries everything with another's names and ids.

    Whatever it asks, the answer is the one to the same question about what does not exist.
    """
    platform = tokens.platform()
    own = await register(guarded, "alpha", platform)
    other = await register(guarded, "bravo", platform)
    mine = tokens.of(Role.CONSUMER, own)
    theirs = tokens.of(Role.CONSUMER, other)
    body = {"consumer": "bravo", "name": "secret-plan", "filter": "instrument = 'SECRET'"}
    made = await guarded.post("/v1/subscriptions", json=body, headers=theirs)
    assert made.status_code == 201, made.text
    subscription = made.json()
    renewed = (await guarded.post("/v1/tokens", json={}, headers=theirs)).json()
    before = await everything(guarded, platform, "bravo", subscription["id"])

    # What is there, beside what is not there, in the same form.
    pairs = [
        ("bravo", "nobdy"),
        (other, NOBODY_ID),
        (subscription["id"], "s" + "0" * 16),
        (subscription["subscription_name"], f"{NOBODY_ID}-s{'0' * 16}"),
        (renewed["id"], "0" * 32),
        ("secret-plan", "nosuch-plan"),
    ]
    asked = 0
    for path, method, permission in routes(guarded.app):
        assert permission is not None
        # The API's description is made of code alone.
        if permission is Permission.PUBLIC or path.startswith("/schema"):
            continue
        # A guard that refuses has read neither query nor body.
        most = None if Role.CONSUMER in ROLES[permission] else 1
        for real, unreal in pairs:
            for there, absent in zip(
                attempts(path, method, real)[:most],
                attempts(path, method, unreal)[:most],
                strict=True,
            ):
                first = await guarded.request(method, headers=mine, **there)
                second = await guarded.request(method, headers=mine, **absent)
                assert first.status_code == second.status_code, (method, there, first.text)
                assert plain(first, real) == plain(second, unreal), (method, there)
                # A preview reads the log, and the broker is away.
                away = path.endswith(":preview") and first.status_code == 503
                assert first.status_code < 500 or away
                for secret in ("SECRET", *(value for value, _ in pairs)):
                    if secret != real:
                        said = first.text.replace(real, "")
                        assert secret not in said, (method, there, said)
                        assert secret not in str(first.headers)
                asked += 1
    assert asked > 200
    assert await everything(guarded, platform, "bravo", subscription["id"]) == before
    for path in ("/v1/consumers", "/v1/subscriptions", "/v1/tokens"):
        listed = await guarded.get(path, headers=mine)
        assert listed.status_code == 200
        assert "bravo" not in listed.text
        assert other not in listed.text
    assert (await guarded.get("/v1/consumers", headers=theirs)).json()["items"][0]["id"] == other


def attempts(path: str, method: str, value: str) -> list[dict[str, Any]]:
    """Requests to a route that name something: in the path, the query, the body."""
    url = filled(path, value)
    if method == "GET" and "{" not in path:
        names = ("consumer", "name", "subject", "cursor", "subscription")
        return [{"url": url}, *({"url": url, "params": {name: value}} for name in names)]
    if method in ("GET", "DELETE"):
        return [{"url": url}]
    bodies: list[dict[str, Any]] = [
        {},
        {"consumer": value},
        {"subject": value},
        {"consumer": value, "name": "mine", "filter": "instrument = 'A'"},
        {"name": value, "labels": {"a": "b"}},
        {"role": "platform", "subject": value},
    ]
    return [{"url": url, "json": each} for each in bodies]


def plain(answer: Any, named: str) -> str:
    """An answer without what differs between any two requests."""
    text = answer.text.replace(named, "…")
    if answer.status_code == 201:  # the caller's own token, renewed
        return "made"
    return re.sub(r'"request_id":"[0-9a-f]+"', "", text)


async def everything(client: Client, platform: dict[str, str], name: str, key: str) -> list[Any]:
    found = [
        (await client.get(path, headers=platform)).json()
        for path in (f"/v1/consumers/{name}", f"/v1/subscriptions/{key}")
    ]
    listed = await client.get("/v1/subscriptions", params={"consumer": name}, headers=platform)
    return [*found, listed.json()]


async def test_a_consumer_manages_its_own(guarded: Client, tokens: Tokens) -> None:
    own = await register(guarded, "alpha", tokens.platform())
    mine = tokens.of(Role.CONSUMER, own)
    assert (await guarded.get("/v1/consumers/alpha", headers=mine)).json()["id"] == own
    changed = await guarded.patch("/v1/consumers/alpha", json={"contact": "x"}, headers=mine)
    assert changed.json()["contact"] == "x"
    refused = await guarded.patch(
        "/v1/consumers/alpha", json={"owner": "me", "contact": "y"}, headers=mine
    )
    assert refused.status_code == 403
    assert "owner" in refused.json()["detail"]
    found = (await guarded.get("/v1/consumers/alpha", headers=mine)).json()
    assert (found["owner"], found["contact"]) == ("us", "x")
    # Whatever else there is to change, now or later, is the platform team's.
    assert set(ConsumerUpdate.__struct_fields__) - OWN_FIELDS >= {"owner"}
    made = await guarded.post(
        "/v1/subscriptions", json={"consumer": own, "name": "all"}, headers=mine
    )
    key = made.json()["id"]
    listed = await guarded.get("/v1/subscriptions", headers=mine)
    assert [item["id"] for item in listed.json()["items"]] == [key]
    renamed = await guarded.patch(f"/v1/subscriptions/{key}", json={"name": "some"}, headers=mine)
    assert renamed.json()["name"] == "some"
    assert (await guarded.delete(f"/v1/subscriptions/{key}", headers=mine)).status_code == 204
    assert (await guarded.delete("/v1/consumers/alpha", headers=mine)).status_code == 403


async def test_keys_are_published_and_verify_what_is_issued(
    guarded: Client, tokens: Tokens
) -> None:
    document = (await guarded.get("/.well-known/openid-configuration")).json()
    assert document["issuer"] == ISSUER
    assert document["jwks_uri"] == f"{ISSUER}/.well-known/jwks.json"
    keys = (await guarded.get("/.well-known/jwks.json")).json()
    assert keys == tokens.ring.jwks()
    assert not any("d" in key for key in keys["keys"])


async def test_no_discovery_where_the_issuer_is_no_url(
    safe: Settings,
) -> None:
    async for client in serving(safe.model_copy(update={"token_issuer": "urn:dds"})):
        assert (await client.get("/.well-known/openid-configuration")).status_code == 404


async def test_callers_of_an_external_issuer_have_its_role_and_can_be_revoked(
    safe: Settings, tokens: Tokens, tmp_path: Path
) -> None:
    make_key(tmp_path / "theirs")
    theirs = KeyRing(tmp_path / "theirs", issuer="https://id.example", audience="us")
    trusting = safe.model_copy(
        update={
            "oidc_issuer": "https://id.example",
            "oidc_audience": "us",
            "oidc_jwks_url": "https://id.example/keys",
        }
    )

    async def fetch() -> bytes:
        return json.dumps(theirs.jwks()).encode()

    async for client in serving(trusting):
        client.app.state.control_plane.authenticate._external._fetch = fetch
        token, claims = theirs.issue(subject="bob", role=Role.READ_ONLY, lifetime=HOUR)
        assert (await client.get("/v1/plans", headers=header(token))).status_code == 200
        assert (await client.post("/v1/consumers", headers=header(token))).status_code == 403
        renewed = await client.post("/v1/tokens", json={}, headers=header(token))
        assert renewed.status_code == 403
        gone = await client.delete(f"/v1/tokens/{claims.token_id}", headers=tokens.platform())
        assert gone.status_code == 204
        assert (await client.get("/v1/plans", headers=header(token))).status_code == 401
        foreign = KeyRing(make_and_return(tmp_path / "foreign"), issuer="https://id.example")
        token, _ = foreign.issue(subject="bob", role=Role.PLATFORM, lifetime=HOUR)
        assert (await client.get("/v1/plans", headers=header(token))).status_code == 401


async def test_while_revocations_cannot_be_read_only_metrics_are_answered(
    guarded: Client, tokens: Tokens
) -> None:
    platform = tokens.platform()
    assert (await guarded.get("/v1/functions", headers=platform)).status_code == 200

    async def away() -> Any:
        raise DatabaseUnavailableError("PostgreSQL does not answer.")

    guarded.app.state.control_plane.revocations._load = away
    await asyncio.sleep(0.1)
    refused = await guarded.get("/v1/functions", headers=platform)
    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:dds:problem:database-unavailable"
    assert (await guarded.get("/metrics", headers=platform)).status_code == 200
    assert (await guarded.get("/metrics")).status_code == 401
    assert (await guarded.get("/healthz")).status_code == 200


async def test_authentication_that_is_off_says_so_loudly(
    settings: Settings,
    logs: io.StringIO,
) -> None:
    async with AsyncTestClient(create_app(settings)) as client:
        assert (await client.get("/v1/consumers")).status_code == 200
        assert (await client.get("/.well-known/jwks.json")).json() == {"keys": []}
        refused = await client.post("/v1/tokens", json={"role": "platform", "subject": "ann"})
        assert refused.status_code == 409
    assert "AUTHENTICATION IS OFF" in logs.getvalue()


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"DDS_AUTHENTICATION": "required"}, "DDS_SIGNING_KEYS_DIR"),
        ({"DDS_AUTHENTICATION": "on"}, "DDS_AUTHENTICATION"),
        ({"DDS_OIDC_ISSUER": "https://id.example"}, "DDS_OIDC_JWKS_URL"),
        (
            {
                "DDS_OIDC_ISSUER": "https://id.example",
                "DDS_OIDC_JWKS_URL": "http://id.example/keys",
                "DDS_OIDC_AUDIENCE": "us",
            },
            "https",
        ),
    ],
)
def test_settings_that_would_not_protect_are_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], named: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=named):
        load_settings()


async def test_neither_logs_nor_the_database_hold_a_token(
    safe: Settings, tokens: Tokens, tmp_path: Path, logs: io.StringIO
) -> None:
    """Every token of the test, good and refused, is looked for where it must not be."""
    foreign = KeyRing(make_and_return(tmp_path / "theirs"))
    used = [tokens.make(Role.PLATFORM)]
    used.append(foreign.issue(subject="eve", role=Role.PLATFORM, lifetime=HOUR)[0])
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(safe), log_config=None, access_log=False, lifespan="on")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url) as client:
        while not server.started:  # noqa: ASYNC110  (uvicorn tells nobody)
            await asyncio.sleep(0.01)
        own = await register(client, "desk", header(used[0]))
        for body in ({"consumer": own}, {"role": "publisher", "subject": "feed"}, {}):
            made = await client.post("/v1/tokens", json=body, headers=header(used[0]))
            assert made.status_code == 201
            assert made.headers["cache-control"] == "no-store"
            used.append(made.json()["token"])
        for token in used:
            await client.get("/v1/consumers", headers=header(token))
            await client.get("/v1/tokens", headers=header(token))
            await client.post("/v1/tokens", json={"token": token}, headers=header(used[0]))
        listed = (await client.get("/v1/tokens", headers=header(used[0]))).text
    server.should_exit = True
    await task
    logged = logs.getvalue()
    assert '"reason": "unknown-key"' in logged
    assert "token issued" in logged
    stored = everything_stored(safe.database_url)
    assert own in stored
    assert len(used) == 5
    for token in used:
        for secret in (token, token.split(".")[1], token.split(".")[2]):
            assert secret not in logged
            assert secret not in stored
            assert secret not in listed


def make_and_return(folder: Path) -> Path:
    make_key(folder)
    return folder


def everything_stored(url: str) -> str:
    """Every row of every table of ours as text."""
    with psycopg.connect(url) as connection:
        names = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
        rows = []
        for (name,) in names:
            statement = psycopg.sql.SQL("SELECT t::text FROM {} t").format(
                psycopg.sql.Identifier(name)
            )
            rows += [row for (row,) in connection.execute(statement).fetchall()]
    return "\n".join(rows)
