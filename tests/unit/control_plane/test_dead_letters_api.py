"""Dead letters: what letters say, what is sent again, and how the API answers without a broker."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from litestar.testing import AsyncTestClient

from control_plane.database import Database
from control_plane.domains.dead_letters import repository
from control_plane.domains.dead_letters.letters import Letter, LetterId
from control_plane.domains.dead_letters.reading import Wanted
from control_plane.domains.dead_letters.service import _destination
from control_plane.errors import ConflictError
from marketdata.topics import INGEST_EVENTS, SEQUENCED_EVENTS, partition_topic

Client = AsyncTestClient[Any]

HERE = "sequencer:2:731:12"
STORED_AT = datetime(2026, 1, 31, tzinfo=UTC)


def letter(key: str = HERE, **properties: str) -> Letter:
    told = {"source_topic": partition_topic(INGEST_EVENTS, 2), "reason_code": "wrong_schema"}
    return Letter(LetterId.parse(key), STORED_AT, told | properties, 5, b"bytes")


@pytest.mark.parametrize("key", [HERE, "distributor:0:0:0", "sequencer:1:731:12:3"])
def test_an_id_names_a_place_and_is_spelt_in_one_way(key: str) -> None:
    assert str(LetterId.parse(key)) == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        "sequencer",
        "sequencer:0:1",
        "sequencer:00:1:2",
        "sequencer:0:1:-2",
        "sequencer:0:1:2:3:4",
        "publisher:0:1:2",
        "sequencer:0:1:2\n",
        "sequencer:0:1:٢",
        f"sequencer:0:{10**18}:2",
    ],
)
def test_what_was_not_made_here_is_no_id(key: str) -> None:
    with pytest.raises(ValueError, match="is no id of a dead letter"):
        LetterId.parse(key)


def test_ids_order_as_the_log_does() -> None:
    keys = ["sequencer:0:9:10", "sequencer:0:10:2", "sequencer:0:10:2:0", "sequencer:1:1:1"]
    assert sorted(map(LetterId.parse, reversed(keys))) == [LetterId.parse(key) for key in keys]


def test_a_letter_gives_back_what_the_function_wrote() -> None:
    read = letter(
        failed_at_ns="1700000000000000000",
        original_kind="trade",
        original_original_note="x",
        position="7",
    )
    assert read.failed_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert read.original == {"kind": "trade", "original_note": "x"}
    assert read.truncated_from is None
    assert read.code == "wrong_schema"


@pytest.mark.parametrize("value", ["", "soon", "-1", "9" * 20])
def test_a_letter_with_a_time_or_size_that_is_no_number_can_be_read(value: str) -> None:
    read = letter(failed_at_ns=value, truncated_from_bytes=value)
    assert read.failed_at is None
    assert read.truncated_from == read.size


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (Wanted(), True),
        (Wanted(code="wrong_schema"), True),
        (Wanted(code="empty"), False),
        (Wanted(since=STORED_AT), True),
        (Wanted(since=datetime(2026, 2, 1, tzinfo=UTC)), False),
    ],
)
def test_a_list_takes_what_is_wanted(wanted: Wanted, taken: bool) -> None:
    assert wanted.takes(letter()) is taken


def test_a_frame_goes_back_to_where_it_came_from() -> None:
    assert _destination(letter()) == partition_topic(INGEST_EVENTS, 2)


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (letter("distributor:2:731:12"), "in the log already"),
        (letter("conflator:2:731:12"), "in the log already"),
        (letter(truncated_from_bytes="9000000"), "5 of the frame's 9000000 bytes"),
        (letter(source_topic=partition_topic(SEQUENCED_EVENTS, 2)), "no partition of"),
        (letter(source_topic=INGEST_EVENTS), "no partition of"),
        (letter(source_topic=""), "no partition of"),
    ],
)
def test_what_cannot_be_sent_again_is_refused_with_the_reason(refused: Letter, reason: str) -> None:
    with pytest.raises(ConflictError, match=reason):
        _destination(refused)


async def test_one_of_two_resends_at_once_is_the_one_that_sends(database: Database) -> None:
    order: list[str] = []

    async def resend(name: str) -> bool:
        async with database.transaction() as session:
            claimed = await repository.claim(session, HERE, "topic")
            order.append(name)
            row = await repository.resend_of(session, HERE)
            assert row is not None
            if claimed:
                await asyncio.sleep(0.1)
                row.position = "1:2"
            else:
                assert row.position == "1:2"
        return claimed

    assert sorted(await asyncio.gather(resend("a"), resend("b"))) == [False, True]
    async with database.transaction() as session:
        stored = await repository.resends_of(session, [HERE, "sequencer:0:0:0"])
    assert [(key, row.position) for key, row in stored.items()] == [(HERE, "1:2")]


async def test_a_resend_that_fails_leaves_no_trace(database: Database) -> None:
    async def fail() -> None:
        async with database.transaction() as session:
            assert await repository.claim(session, HERE, "topic")
            raise ConflictError("the broker went away")

    with pytest.raises(ConflictError):
        await fail()
    async with database.transaction() as session:
        assert await repository.resend_of(session, HERE) is None


@pytest.mark.parametrize(
    ("query", "status", "pointer"),
    [
        ("function=publisher", 400, "query:function"),
        ("partition=-1", 400, "query:partition"),
        ("limit=0", 400, "query:limit"),
        ("since=yesterday", 422, "query:since"),
        ("since=2026-01-01T00:00:00", 422, "query:since"),
        ("cursor=mine", 422, "query:cursor"),
    ],
)
async def test_a_bad_question_is_told_where_it_is_wrong(
    client: Client, query: str, status: int, pointer: str
) -> None:
    answer = await client.get(f"/v1/dead-letters?{query}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert [problem["pointer"] for problem in answer.json()["errors"]] == [pointer]


async def test_what_is_no_id_is_404_even_without_a_broker(client: Client) -> None:
    for answer in (
        await client.get("/v1/dead-letters/mine"),
        await client.get("/v1/dead-letters/mine/payload"),
        await client.post("/v1/dead-letters/mine/resend"),
    ):
        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:dds:problem:not-found"


async def test_without_a_broker_nothing_is_read_or_sent(client: Client) -> None:
    for answer in (
        await client.get("/v1/dead-letters"),
        await client.get(f"/v1/dead-letters/{HERE}"),
        await client.get(f"/v1/dead-letters/{HERE}/payload"),
        await client.post(f"/v1/dead-letters/{HERE}/resend"),
    ):
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:dds:problem:broker-unavailable"


async def test_the_api_describes_dead_letters_with_their_problems(client: Client) -> None:
    paths = (await client.get("/schema/openapi.json")).json()["paths"]
    listed = paths["/v1/dead-letters"]["get"]
    assert {parameter["name"] for parameter in listed["parameters"]} == {
        "cursor",
        "limit",
        "function",
        "code",
        "partition",
        "since",
    }
    assert "409" in paths["/v1/dead-letters/{key}/resend"]["post"]["responses"]
    payload = paths["/v1/dead-letters/{key}/payload"]["get"]["responses"]
    assert list(payload["200"]["content"]) == ["application/octet-stream"]
