"""The API keeps what its OpenAPI description says, and no request ends in an internal error.

Schemathesis makes requests of all kinds. The control plane is served by a real server over a real
PostgreSQL, so that broken requests come through a socket; the broker is away but for what a
subscription asks of it before it is stored.

CI runs a short form. The long one: DDS_CONTRACT_EXAMPLES=130, examples of each operation and role,
which makes well over 10,000 requests for each. DDS_CONTRACT_PATHS, a regular expression, makes it a
piece of the paths.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest
import uvicorn
from access import Tokens, header, secured

from control_plane.app import MAX_BODY_BYTES, create_app
from control_plane.domains.system.service import HealthService
from control_plane.security.roles import Role
from control_plane.server import Server
from control_plane.settings import Settings

EXAMPLES = int(os.environ.get("DDS_CONTRACT_EXAMPLES", "0"))
"""Of each operation; 0 for the short form."""
PATHS = os.environ.get("DDS_CONTRACT_PATHS", ".*")
CONFIGURATION = """
# 503 is what is said of a broker that is away.
[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", "503"]

# What fits the description is never called malformed (400). It may be refused for what it means:
# a filter is any text for JSON Schema.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "412", "422", "429", "503"]

[checks.negative_data_rejection]
expected-statuses = [
  "400", "401", "403", "404", "405", "406", "409", "412", "413", "415", "422", "429", "503",
]
"""


@pytest.fixture
def served(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Tokens]]:
    """A control plane that requires tokens behind a real server: its URL, and who makes tokens."""

    async def there(_: HealthService) -> None:
        return

    monkeypatch.setattr(HealthService, "require_broker", there)
    settings = secured(settings, tmp_path, activation_timeout_ms=0, rate_limit_per_second=0.0)
    with _serving(settings) as url:
        yield url, Tokens(settings)


@contextmanager
def _serving(settings: Settings) -> Iterator[str]:
    app = create_app(settings)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, server_header=False)
    server = Server(app, config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        (listening,) = server.servers[0].sockets
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def schemathesis(
    folder: Path, url: str, description: bytes, token: str | None, subject: str, *options: str
) -> tuple[int, str]:
    """How many requests were made, and what was found; "" for nothing."""
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    (folder / "openapi.json").write_bytes(description)
    authorization = [] if token is None else ["--header", f"Authorization: Bearer {token}"]
    ended = subprocess.run(
        [
            str(Path(sys.executable).with_name("st")),
            "--config-file=schemathesis.toml",
            "run",
            "openapi.json",
            f"--url={url}",
            "--checks=all",
            "--continue-on-failure",
            "--no-shrink",
            "--no-color",
            "--warnings=off",
            # On a busy machine an answer is slow, not wrong.
            "--request-timeout=120",
            "--max-response-time=120",
            *authorization,
            *options,
        ],
        cwd=folder,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "contract_hooks",
            "PYTHONPATH": str(Path(__file__).parent),
            "DDS_CONTRACT_SUBJECT": subject,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    made = re.search(r"(\d+) generated", ended.stdout)
    # A body that it made may be longer than all else that it says.
    told = "\n".join(line[:400] for line in ended.stdout.splitlines())
    return int(made[1]) if made else 0, "" if ended.returncode == 0 else told[-40_000:]


def _consumer(url: str, tokens: Tokens) -> str:
    """The id of a registered consumer."""
    made = httpx.post(
        f"{url}/v1/consumers", json={"name": "somebody"}, headers=tokens.platform(), timeout=60
    )
    return str(made.json()["id"])


def _description(url: str, tokens: Tokens) -> bytes:
    return httpx.get(f"{url}/schema/openapi.json", headers=tokens.platform(), timeout=60).content


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    "role", [None, Role.PLATFORM, Role.CONSUMER, Role.PUBLISHER, Role.READ_ONLY]
)
def test_no_answer_is_undocumented(
    served: tuple[str, Tokens], tmp_path: Path, role: Role | None
) -> None:
    url, tokens = served
    if not EXAMPLES and role not in (None, Role.PLATFORM):
        pytest.skip("short form: these roles see a part of what the platform team sees")
    subject = _consumer(url, tokens) if role is Role.CONSUMER else "ann"
    short = ["--phases=examples,fuzzing,stateful", "--max-examples=4", "--generation-deterministic"]
    long = [f"--max-examples={EXAMPLES}", f"--include-path-regex={PATHS}"]
    description = _description(url, tokens)
    paths = json.loads(description)["paths"].items()
    operations = sum(len(methods) for path, methods in paths if re.search(PATHS, path))
    token = None if role is None else tokens.make(role, subject)
    made, found = schemathesis(
        tmp_path,
        url,
        description,
        token,
        subject,
        *(long if EXAMPLES else short),
    )
    print(f"{operations} operations, {made} requests as {role}")  # noqa: T201 (pytest -s shows it)
    assert not found, found
    if token is not None:
        still = httpx.get(f"{url}/v1/tokens", headers=header(token), timeout=60)
        assert still.status_code == 200, "it has revoked its own token"
    assert made >= (operations * EXAMPLES if EXAMPLES else 100)


def test_bodies_are_described_as_they_are_checked(served: tuple[str, Tokens]) -> None:
    described = json.loads(_description(*served))
    schemas = described["components"]["schemas"]
    made = schemas["ConsumerCreate"]
    assert made["additionalProperties"] is False
    assert made["properties"]["name"]["pattern"].startswith("^[a-z0-9]")
    venues = schemas["Entitlements"]["properties"]["venues"]
    assert venues["anyOf"][0]["items"]["pattern"] == "^[A-Z0-9]{4}$"
    (partition,) = (
        each["schema"]
        for each in described["paths"]["/v1/ordering/gaps"]["get"]["parameters"]
        if each["name"] == "partition"
    )
    bounded, null = partition["oneOf"]
    assert (bounded["exclusiveMinimum"], null) == (-1, {"type": "null"})
    assert isinstance(bounded["maximum"], int)


def test_options_name_every_method_of_a_path(served: tuple[str, Tokens]) -> None:
    url, tokens = served
    answer = httpx.options(f"{url}/v1/consumers/x", headers=tokens.platform())
    assert answer.status_code == 204
    assert answer.headers["allow"] == "DELETE, GET, OPTIONS, PATCH"
    refused = httpx.put(f"{url}/v1/consumers/x", headers=tokens.platform())
    assert refused.status_code == 405
    assert set(refused.headers["allow"].split(", ")) == {"DELETE", "GET", "OPTIONS", "PATCH"}


def test_nothing_of_a_request_reaches_the_next_one_on_its_connection(
    served: tuple[str, Tokens],
) -> None:
    """Uvicorn pauses the reading of a large body, and reads on in that request's context."""
    url, tokens = served
    large = {"name": "NOT A NAME", "instruments": ["A" * 200] * 1000}
    one, other = tokens.make(Role.PLATFORM, "one"), tokens.make(Role.PLATFORM, "other")
    with httpx.Client(base_url=url, timeout=60) as client:
        made = client.post(
            "/v1/instrument-sets",
            json=large,
            headers={**header(one), "Idempotency-Key": "k"},
        )
        assert made.status_code == 400
        assert len(made.request.content) < MAX_BODY_BYTES
        # Not carried out: its key is claimed by no transaction, not even by one of these.
        for path in ("/v1/audit/verification", "/v1/consumers"):
            answer = client.get(path, headers=header(other))
            assert answer.status_code == 200, answer.text
        changed = client.post("/v1/consumers", json={"name": "c"}, headers=header(other))
        assert changed.status_code == 201, changed.text
    again = httpx.post(
        f"{url}/v1/instrument-sets",
        json={"name": "set", "instruments": []},
        headers={**header(one), "Idempotency-Key": "k"},
        timeout=60,
    )
    assert again.status_code == 201, again.text


BROKEN: Final = (
    (b"[" * 200_000, 400),
    (b'{"name": ' * 20_000, 400),
    (b'{"name": "\xff\xfe"}', 400),
    (b'{"name": "\\ud800"}', 400),
    (b'{"name": "a\\u0000b"}', 400),
    (b'{"name": "desk", "owner": "\\u0000"}', 400),
    (b'{"name": 1' + b"0" * 10_000 + b"}", 400),
    (b'{"name": "desk", "labels": {"a": 1e999}}', 400),
    (b"", 400),
    (b"\x00", 400),
    (b" " * (MAX_BODY_BYTES + 1), 413),
)


def test_a_body_that_is_none_is_refused(served: tuple[str, Tokens]) -> None:
    url, tokens = served
    for content, status in BROKEN:
        answer = httpx.post(
            f"{url}/v1/consumers",
            content=content,
            headers={**tokens.platform(), "Content-Type": "application/json"},
            timeout=60,
        )
        assert answer.status_code == status, (content[:20], answer.text)
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_time_is_a_time(served: tuple[str, Tokens]) -> None:
    url, tokens = served
    for since in ("0.5", "1700000000", "yesterday", "2026-01-01", "2026-01-01T00:00:00", "T", ""):
        for path in ("/v1/audit", "/v1/ordering/gaps", "/v1/dead-letters"):
            answer = httpx.get(f"{url}{path}", params={"since": since}, headers=tokens.platform())
            assert answer.status_code == 422, (path, since, answer.text)
