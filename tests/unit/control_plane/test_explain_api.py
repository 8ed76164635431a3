"""How explanations are asked for: refused questions, and none without a broker."""

from __future__ import annotations

from typing import Any

import pytest
from litestar.testing import AsyncTestClient

Client = AsyncTestClient[Any]

ASKED = {"subscription": "s0123456789abcdef", "instrument": "EUR/USD", "sequence": "17"}


@pytest.mark.parametrize(
    ("changed", "pointer"),
    [
        ({"sequence": "0"}, "query:sequence"),
        ({"sequence": str(2**63)}, "query:sequence"),
        ({"sequence": "last"}, "query:sequence"),
        ({"epoch": "-1"}, "query:epoch"),
        ({"epoch": str(2**32)}, "query:epoch"),
        ({"instrument": ""}, "query:instrument"),
        ({"instrument": "x" * 256}, "query:instrument"),
        ({"subscription": "s" * 65}, "query:subscription"),
    ],
)
async def test_a_bad_question_is_told_where_it_is_wrong(
    client: Client, changed: dict[str, str], pointer: str
) -> None:
    answer = await client.get("/v1/explain", params=ASKED | changed)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert [problem["pointer"] for problem in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize("absent", list(ASKED))
async def test_all_but_the_epoch_must_be_given(client: Client, absent: str) -> None:
    given = {name: value for name, value in ASKED.items() if name != absent}
    answer = await client.get("/v1/explain", params=given)
    assert answer.status_code == 400
    assert absent in answer.text


async def test_a_subscription_that_is_not_there_is_404(client: Client) -> None:
    answer = await client.get("/v1/explain", params=ASKED)
    assert answer.status_code == 404
    assert "no subscription" in answer.json()["detail"]


async def test_the_api_describes_explanations_with_their_problems(client: Client) -> None:
    document = (await client.get("/schema/openapi.json")).json()
    described = document["paths"]["/v1/explain"]["get"]
    required = {each["name"]: each["required"] for each in described["parameters"]}
    assert required == {"subscription": True, "instrument": True, "sequence": True, "epoch": False}
    assert {"200", "400", "404", "503"} <= set(described["responses"])
