"""Lists come in the order that is asked for, each row once, and say what they cannot be asked."""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import pytest
from described import description
from hypothesis import given
from hypothesis import strategies as st
from litestar.testing import AsyncTestClient
from sqlalchemy import select
from world import World

from control_plane.database import Database
from control_plane.domains.tokens.models import IssuedToken
from control_plane.errors import InvalidRequestError
from control_plane.listing import Listing

Client = AsyncTestClient[Any]

LISTING = Listing(IssuedToken, "issued_at", "expires_at", "subject")
BEGIN: Final = datetime(2026, 1, 1, 9, 30, 0, 123456, tzinfo=UTC)
ORDER_IS_MEANING: Final = {
    "getSubscriptionHistory",
    "listInstrumentSetVersions",
    "listReferenceTableVersions",
    "listReferenceTableRows",
    "listRollouts",
    "listRules",
    "listDeadLetters",
}
"""Lists that come in one order only."""


def token(number: int) -> IssuedToken:
    """One of many that are equal in one or two of the fields."""
    return IssuedToken(
        id=f"{number * 7919 % 1000:032x}",
        subject=f"s{number % 3}",
        role="consumer",
        issued_by="ann",
        issued_at=BEGIN + timedelta(microseconds=number % 4),
        expires_at=BEGIN + timedelta(days=1 + number % 5),
    )


@pytest.fixture
async def stored(database: Database) -> list[IssuedToken]:
    rows = [token(number) for number in range(40)]
    async with database.transaction() as session:
        session.add_all(rows)
    return [token(number) for number in range(40)]


def in_order(rows: list[IssuedToken], sort: str) -> list[str]:
    fields = sort.split(",")
    rows = sorted(rows, key=lambda row: row.id, reverse=fields[-1].startswith("-"))
    for field in reversed(fields):
        name = field.removeprefix("-")
        rows = sorted(rows, key=lambda row: getattr(row, name), reverse=field.startswith("-"))
    return [row.id for row in rows]


@pytest.mark.parametrize(
    "sort",
    [
        "issued_at",
        "-expires_at",
        "subject,issued_at",
        "-subject,-issued_at,-expires_at",
        "subject,-expires_at",
        "-issued_at,subject,-expires_at",
    ],
)
async def test_pages_hold_every_row_once_in_the_order_asked_for(
    database: Database, stored: list[IssuedToken], sort: str
) -> None:
    seen: list[str] = []
    cursor: str | None = None
    while cursor is not None or not seen:
        asked = LISTING.ask(sort, cursor, 7)
        async with database.transaction() as session:
            rows = (await session.scalars(asked.of(select(IssuedToken)))).all()
        page = asked.page([row.id for row in rows], rows)
        assert 0 < len(page.items) <= 7
        seen += page.items
        cursor = page.next_cursor
    assert seen == in_order(stored, sort)


async def test_a_cursor_outlives_the_row_it_was_made_of(
    database: Database, stored: list[IssuedToken]
) -> None:
    async with database.transaction() as session:
        asked = LISTING.ask("subject", None, 5)
        rows = (await session.scalars(asked.of(select(IssuedToken)))).all()
        cursor = asked.page(rows, rows).next_cursor
        await session.delete(rows[4])
    async with database.transaction() as session:
        asked = LISTING.ask("subject", cursor, 100)
        rest = (await session.scalars(asked.of(select(IssuedToken)))).all()
    assert [row.id for row in rest] == in_order(stored, "subject")[5:]


@pytest.mark.parametrize(
    "sort", ["", "name", "subject,", "subject,-subject", "--subject", "Subject"]
)
def test_another_order_is_refused_with_those_there_are(sort: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        LISTING.ask(sort, None, 10)
    (problem,) = refused.value.problems
    assert problem.pointer == "query:sort"
    assert problem.detail.endswith("allowed: issued_at, expires_at, subject")


def cursor_of(*place: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "no cursor",
        cursor_of(),
        cursor_of("subject", "desk"),
        cursor_of("subject", "desk", "id", "more"),
        cursor_of("-subject", "desk", "id"),
        cursor_of("subject", 7, "id"),
        cursor_of("subject", "desk\0", "id"),
        cursor_of("subject", "desk", "\ud800"),
        cursor_of("subject", "d" * 1000, "id"),
        cursor_of("subject", None, "id"),
    ],
)
def test_a_foreign_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        LISTING.ask("subject", cursor, 10)
    assert [problem.pointer for problem in refused.value.problems] == ["query:cursor"]


def test_a_place_in_time_has_its_offset() -> None:
    given_out = cursor_of("issued_at", BEGIN.isoformat(), "id")
    assert LISTING.ask("issued_at", given_out, 10).after == (BEGIN, "id")
    with pytest.raises(InvalidRequestError):
        LISTING.ask("issued_at", cursor_of("issued_at", "2026-01-01T00:00:00", "id"), 10)


@given(st.text(max_size=100) | st.binary(max_size=100).map(lambda b: base64.b64encode(b).decode()))
def test_any_other_cursor_is_refused_or_understood_but_never_breaks(text: str) -> None:
    with suppress(InvalidRequestError):
        LISTING.ask(None, text, 10)


def test_every_list_in_pages_can_be_sorted() -> None:
    paged = {
        operation["operationId"]: {each["name"] for each in operation["parameters"]}
        for methods in description().document["paths"].values()
        for operation in methods.values()
        if any(each["name"] == "cursor" for each in operation.get("parameters", ()))
    }
    assert {name for name, taken in paged.items() if "sort" not in taken} == ORDER_IS_MEANING


async def test_no_route_takes_a_query_parameter_that_it_does_not_know(client: Client) -> None:
    operations = [
        (method.upper(), re.sub(r"{[^}]*}", "1", path), operation)
        for path, methods in description().document["paths"].items()
        if path.startswith("/v1/")
        for method, operation in methods.items()
    ]
    assert operations
    for method, path, operation in operations:
        refused = await client.request(method, path, params={"limt": "1"})
        assert refused.status_code == 422, (method, path, refused.text)
        (problem,) = refused.json()["errors"]
        assert problem["pointer"] == "query:limt"
        for each in operation.get("parameters", ()):
            if each["in"] == "query":
                assert each["name"] in problem["detail"], (method, path)


async def test_a_query_parameter_stands_there_once(client: Client) -> None:
    for query in ("suspended=true&suspended=false", "limit=1&limit=1", "name=a&region=eu&name=b"):
        refused = await client.get(f"/v1/consumers?{query}")
        assert refused.status_code == 422, refused.text
        (problem,) = refused.json()["errors"]
        assert problem == {"pointer": f"query:{query.partition('=')[0]}", "detail": "give it once"}
    both = await client.get("/v1/events?type=consumer.created&type=consumer.deleted")
    assert both.status_code == 200


async def test_parameters_hold_text_that_can_be_stored(client: Client) -> None:
    paths = {
        "/v1/subscriptions?format=a%00b": "query:format",
        "/v1/functions/%00": "path:name",
        "/v1/explain?subscription=%00&instrument=A&sequence=1": "query:subscription",
    }
    for path, pointer in paths.items():
        refused = await client.get(path)
        assert refused.status_code == 400, refused.text
        assert refused.json()["type"] == "urn:dds:problem:request-shape"
        (problem,) = refused.json()["errors"]
        assert problem == {"pointer": pointer, "detail": "text may not contain U+0000"}


async def test_lists_are_filtered_and_sorted_over_http(client: Client) -> None:
    for name, region in (("b", "eu"), ("a", "eu"), ("c", "us")):
        body = {"name": name, "region": region, "workflow": "close"}
        assert (await client.post("/v1/consumers", json=body)).status_code == 201
    assert (await client.patch("/v1/consumers/b", json={"suspended": True})).status_code == 200

    async def names(**query: Any) -> list[str]:
        answer = await client.get("/v1/consumers", params=query)
        assert answer.status_code == 200, answer.text
        return [item["name"] for item in answer.json()["items"]]

    assert await names() == ["b", "a", "c"]
    assert await names(sort="-created_at") == ["c", "a", "b"]
    assert await names(sort="name", region="eu") == ["a", "b"]
    assert await names(sort="name", suspended="false") == ["a", "c"]
    assert await names(suspended="true", workflow="close") == ["b"]
    assert await names(workflow="open") == []
    refused: httpx.Response = await client.get("/v1/consumers", params={"sort": "owner"})
    assert refused.status_code == 422
    assert refused.json()["errors"] == [
        {"pointer": "query:sort", "detail": "there is no such field; allowed: created_at, name"}
    ]


LABELLED: Final = {
    "a": {"team": "alpha", "desk": "7"},
    "b": {"team": "alpha", "a:b": "c"},
    "c": {"team": "beta", "desk": ""},
    "d": {"a": "b:c", "nmae": "team"},
    "e": {},
}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (["team:alpha"], "ab"),
        (["team"], "abc"),
        (["desk:"], "c"),
        (["desk", "team:alpha"], "a"),
        (["team:alpha", "team:beta"], ""),
        (["alpha"], ""),
        # The name ends at the first colon.
        (["a:b:c"], "d"),
        (["a:b"], ""),
        ([], "abcde"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/consumers", "/v1/subscriptions", "/v1/publishers"])
async def test_labels_that_are_asked_for_are_all_there(
    client: Client, world: World, path: str, wanted: list[str], found: str
) -> None:
    for name, labels in LABELLED.items():
        if path == "/v1/subscriptions":
            await world.subscribe(name, labels=labels)
        else:
            made = await client.post(path, json={"name": name, "labels": labels})
            assert made.status_code == 201, made.text
    answer = await client.get(path, params={"label": wanted})
    assert answer.status_code == 200, answer.text
    names = {item["name"] for item in answer.json()["items"]}
    assert names - {"desk"} == set(found)


async def test_a_label_without_a_name_is_refused(client: Client) -> None:
    refused = await client.get("/v1/consumers", params={"label": ["team", ""]})
    assert refused.status_code == 400
