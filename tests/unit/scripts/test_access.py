"""Where the project's own programs take their token from."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from marketdata.errors import DistributionError
from scripts.access import authenticate, authorization
from scripts.verification.control_api import ControlApi


def test_without_a_token_nothing_is_added() -> None:
    assert authorization({}) == {}
    assert authorization({"DDS_TOKEN": "", "DDS_TOKEN_FILE": ""}) == {}


def test_a_file_is_read_anew_and_the_variable_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    environment = {"DDS_TOKEN_FILE": str(file)}
    assert authorization(environment) == {"Authorization": "Bearer one"}
    file.write_text("two")
    assert authorization(environment) == {"Authorization": "Bearer two"}
    assert authorization(environment | {"DDS_TOKEN": "three"}) == {"Authorization": "Bearer three"}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DistributionError, match="DDS_TOKEN_FILE"):
        authorization({"DDS_TOKEN_FILE": str(tmp_path / "missing")})


def test_requests_of_the_projects_client_carry_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDS_TOKEN", "mine")
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("Authorization"))
        return httpx.Response(200, json={})

    with httpx.Client(transport=httpx.MockTransport(answer), auth=authenticate) as client:
        client.get("http://there/v1/consumers")
    with ControlApi("http://there") as api:
        api.http._transport = httpx.MockTransport(answer)
        api.http._mounts.clear()
        api.request("GET", "/v1/plans/current")
    assert seen == ["Bearer mine", "Bearer mine"]
