"""Gaps and findings over HTTP, and what `/metrics` and `/readyz` tell about them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from litestar.testing import AsyncTestClient
from ordering_events import closed, event, opened

from control_plane.database import Database
from control_plane.domains.ordering import repository
from control_plane.domains.ordering.intake import Intake, Place
from control_plane.domains.ordering.repository import Progress
from marketdata.ordering import encode_ordering_events

Client = AsyncTestClient[Any]

SECOND_NS = 1_000_000_000
# 2100-01-01: what is older than the retention would be deleted by the application as it starts.
BASE_NS = 4_102_444_800 * SECOND_NS


@pytest.fixture
async def stored(client: Client, database: Database) -> Client:
    """The application over seven gaps, one a second, of two sources; the third one is closed."""
    events = [
        opened(
            n,
            source="cme" if n % 2 else "ice",
            instrument="EUR/USD" if n == 5 else "ESZ6",
            detected_at_ns=BASE_NS + n * SECOND_NS,
        )
        for n in range(7)
    ]
    events.append(closed(7, "1:70:2", detected_at_ns=BASE_NS + 7 * SECOND_NS, source="ice"))
    events.append(event(8, detected_at_ns=BASE_NS + 8 * SECOND_NS, source="ice"))
    await keep(database, encode_ordering_events(events), b"no findings")
    return client


async def keep(database: Database, *payloads: bytes) -> None:
    intake = Intake()
    for entry, payload in enumerate(payloads):
        intake.take(1, Place(7, entry), payload)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    progress = Progress(1, Place(7, len(payloads)), now, len(payloads))
    async with database.transaction() as session:
        await repository.advance(session, progress, None, intake)
        await repository.store(session, intake)


async def ids(client: Client, query: str) -> list[str]:
    answer = await client.get(f"/v1/ordering/{query}")
    assert answer.status_code == 200, answer.text
    return [item["id"].rsplit(":", 1)[1] for item in answer.json()["items"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("gaps", "0123456"),
        ("gaps?sort=-opened_at", "6543210"),
        ("gaps?state=open", "013456"),
        ("gaps?state=closed", "2"),
        ("gaps?source=cme", "135"),
        ("gaps?instrument=EUR%2FUSD", "5"),
        ("gaps?partition=1", "0123456"),
        ("gaps?partition=2", ""),
        ("gaps?since=2100-01-01T00:00:04Z", "456"),
        ("gaps?source=ice&state=open&since=2100-01-01T00:00:04Z&sort=-opened_at", "64"),
        ("findings?type=gap_closed", "7"),
        ("findings?type=reversal&source=ice", "8"),
        ("findings?sort=-detected_at&limit=3", "876"),
        ("findings?instrument=EUR%2FUSD&type=gap_opened", "5"),
    ],
)
async def test_lists_are_narrowed_and_sorted(stored: Client, query: str, expected: str) -> None:
    assert "".join(await ids(stored, query)) == expected


@pytest.mark.parametrize("sort", ["opened_at", "-opened_at"])
async def test_pages_follow_each_other_in_either_direction(stored: Client, sort: str) -> None:
    seen: list[str] = []
    cursor = ""
    for _ in range(4):
        answer = (await stored.get(f"/v1/ordering/gaps?limit=2&sort={sort}{cursor}")).json()
        seen += [item["id"] for item in answer["items"]]
        cursor = f"&cursor={answer['next_cursor']}"
    assert answer["next_cursor"] is None
    everything = (await stored.get(f"/v1/ordering/gaps?sort={sort}")).json()["items"]
    assert seen == [item["id"] for item in everything]


async def test_a_gap_is_described_as_it_stands(stored: Client) -> None:
    gap = (await stored.get("/v1/ordering/gaps/1:70:2")).json()
    assert gap == {
        "id": "1:70:2",
        "state": "closed",
        "source": "ice",
        "instrument": "ESZ6",
        "partition": 1,
        "first": 10,
        "last": 19,
        "missing": 10,
        "remaining": 0,
        "opened_at": "2100-01-01T00:00:02Z",
        "closed_at": "2100-01-01T00:00:07Z",
        "closed_by": "fill",
        "ts_event": "2023-11-14T22:13:20Z",
        "sequence": 0,
        "epoch": 1,
        "position": 70,
        "resend_requests": 0,
        "resend_requested_at": None,
    }


@pytest.mark.parametrize(
    ("path", "status", "pointer"),
    [
        ("gaps?state=half", 400, "query:state"),
        ("gaps?partition=-1", 400, "query:partition"),
        ("gaps?limit=0", 400, "query:limit"),
        ("gaps?sort=source", 422, "query:sort"),
        ("gaps?since=yesterday", 422, "query:since"),
        ("gaps?since=2026-01-01T00:00:00", 422, "query:since"),
        ("gaps?cursor=mine", 422, "query:cursor"),
        ("findings?type=gaps", 400, "query:type"),
    ],
)
async def test_a_bad_question_is_told_where_it_is_wrong(
    client: Client, path: str, status: int, pointer: str
) -> None:
    answer = await client.get(f"/v1/ordering/{path}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert [problem["pointer"] for problem in answer.json()["errors"]] == [pointer]


async def test_a_gap_that_is_not_there_is_404_and_a_closed_one_is_not_asked_for(
    stored: Client,
) -> None:
    assert (await stored.get("/v1/ordering/gaps/1:70:9")).status_code == 404
    assert (await stored.post("/v1/ordering/gaps/1:70:9/resend")).status_code == 404
    refused = await stored.post("/v1/ordering/gaps/1:70:2/resend")
    assert refused.status_code == 409
    assert "closed by fill" in refused.json()["detail"]


async def test_without_a_broker_nothing_is_asked_for_and_no_instrument_is_known(
    stored: Client,
) -> None:
    for answer in (
        await stored.post("/v1/ordering/gaps/1:70:1/resend"),
        await stored.get("/v1/ordering/instruments/ESZ6"),
    ):
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:dds:problem:broker-unavailable"
        assert answer.headers["retry-after"] == "2"
    assert (await stored.get("/v1/ordering/gaps/1:70:1")).json()["resend_requests"] == 0


async def test_metrics_tell_gaps_and_findings_by_source_only(stored: Client) -> None:
    series = (await stored.get("/metrics")).text.splitlines()
    assert {
        'dds_ordering_open_gaps{source="cme"} 3.0',
        'dds_ordering_open_gaps{source="ice"} 3.0',
        'dds_ordering_missing_events{source="cme"} 30.0',
        'dds_ordering_findings_total{outcome="",source="ice",type="gap_opened"} 4.0',
        'dds_ordering_findings_total{outcome="fill",source="ice",type="gap_closed"} 1.0',
        'dds_ordering_findings_total{outcome="passed",source="ice",type="reversal"} 1.0',
        'dds_ordering_poison_total{partition="1"} 1.0',
        'dds_ordering_messages_total{partition="1"} 2.0',
        'dds_ordering_stored_entry_id{partition="1"} 2.0',
        "dds_ordering_follower_lag_seconds 0.0",
    } <= set(series)
    assert not [line for line in series if "ESZ6" in line]


async def test_readiness_shows_the_follower_and_does_not_depend_on_it(client: Client) -> None:
    ready = (await client.get("/readyz")).json()
    assert ready["ordering_follower"]["role"] in ("starting", "following", "standby")
    assert ready["ordering_follower"]["lag_seconds"] == 0.0
    assert "ordering_follower" not in ready["missing"]


async def test_the_api_describes_ordering_with_its_problems(client: Client) -> None:
    paths = (await client.get("/schema/openapi.json")).json()["paths"]
    listed = paths["/v1/ordering/gaps"]["get"]
    assert {parameter["name"] for parameter in listed["parameters"]} == {
        "cursor",
        "limit",
        "state",
        "source",
        "instrument",
        "partition",
        "since",
        "sort",
    }
    assert "409" in paths["/v1/ordering/gaps/{key}/resend"]["post"]["responses"]
    assert "404" in paths["/v1/ordering/instruments/{instrument}"]["get"]["responses"]
