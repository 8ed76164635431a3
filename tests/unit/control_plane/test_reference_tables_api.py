"""Reference tables over HTTP, and their way to the topic, against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import io
import threading
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from litestar.testing import AsyncTestClient
from sqlalchemy import text
from world import World, reconciler_of

from control_plane.database import Database
from control_plane.domains.ordering.follower import FollowerState
from control_plane.domains.reference_tables import repository, service
from control_plane.domains.reference_tables.reading import ARROW, CSV, JSON
from control_plane.domains.reference_tables.schemas import ColumnSpec, ReferenceTableCreate
from control_plane.domains.system.metrics import Metrics
from control_plane.errors import ConflictError, PreconditionFailedError
from control_plane.settings import Settings
from marketdata.plans import Plan, encode_plan
from marketdata.reference import Enrichment, ReferenceTable, TableRef
from marketdata.reference.table import assembled, read_content
from marketdata.transformations import Transformation

Client = AsyncTestClient[Any]
PATH = "/v1/reference-tables"
COLUMNS = [
    {"name": "instrument", "type": "text"},
    {"name": "rate", "type": "decimal(4)"},
    {"name": "lot", "type": "integer"},
    {"name": "listed", "type": "boolean"},
    {"name": "since", "type": "time"},
]
AAPL = {
    "instrument": "AAPL",
    "rate": "1.0842",
    "lot": 100,
    "listed": True,
    "since": "2026-01-31T14:30:00.123456789Z",
}


async def make(client: Client, name: str = "masters", **members: Any) -> dict[str, Any]:
    body = {"name": name, "columns": COLUMNS, "key": ["instrument"], **members}
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def rows_of(client: Client, name: str = "masters") -> list[dict[str, Any]]:
    return [item["values"] for item in (await client.get(f"{PATH}/{name}/rows")).json()["items"]]


def stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


async def test_a_table_is_made_filled_changed_and_deleted(client: Client) -> None:
    made = await make(client, description="all")
    assert (made["version"], made["rows"], made["columns"]) == (1, 0, COLUMNS)
    assert (await client.get(f"{PATH}/masters")).json() == made
    filled = await client.put(
        f"{PATH}/{made['id']}/rows", json=[{**AAPL, "instrument": "B"}, AAPL],
        headers={"If-Match": '"1"'},
    )  # fmt: skip
    assert filled.status_code == 200, filled.text
    assert (filled.headers["etag"], filled.json()["rows"]) == ('"2"', 2)
    assert await rows_of(client) == [AAPL, {**AAPL, "instrument": "B"}]
    changed = await client.patch(
        f"{PATH}/masters/rows",
        content="instrument,rate\nB,0.5\nC,-3.25\n",
        headers={"Content-Type": f"{CSV}; charset=utf-8", "X-Request-ID": "the-cause"},
    )
    assert (changed.status_code, changed.json()["version"]) == (200, 3)
    assert [(row["instrument"], row["rate"], row["lot"]) for row in await rows_of(client)] == [
        ("AAPL", "1.0842", 100), ("B", "0.5000", None), ("C", "-3.2500", None),
    ]  # fmt: skip
    stale = await client.put(f"{PATH}/masters/rows", json=[], headers={"If-Match": '"2"'})
    assert stale.status_code == 412
    same = await client.patch(f"{PATH}/masters/rows", json=[AAPL])
    assert same.json()["version"] == 3
    versions = (await client.get(f"{PATH}/masters/versions")).json()["items"]
    assert [(v["version"], v["rows"]) for v in versions] == [(3, 3), (2, 2), (1, 0)]
    assert versions[0]["correlation_id"] == "the-cause"
    assert (await client.delete(f"{PATH}/masters")).status_code == 204
    assert (await client.get(f"{PATH}/masters")).status_code == 404
    assert (await make(client))["id"] != made["id"]


async def test_three_forms_of_the_same_rows_are_one_content(client: Client) -> None:
    await make(client)
    arrow = pa.table(
        {
            "instrument": pa.array(["AAPL"]).dictionary_encode(),
            "rate": pa.array([Decimal("1.0842")], pa.decimal128(10, 4)),
            "lot": pa.array([100], pa.int16()),
            "listed": [True],
            "since": pa.array([1769869800123456789], pa.timestamp("ns", "UTC")),
        }
    )
    csv = ",".join(AAPL) + "\nAAPL,1.0842,100,true,2026-01-31T14:30:00.123456789Z\n"
    digests = set()
    for body, media_type in ((stream(arrow), ARROW), (csv.encode(), CSV)):
        answer = await client.put(
            f"{PATH}/masters/rows", content=body, headers={"Content-Type": media_type}
        )
        assert answer.status_code == 200, answer.text
        digests.add(answer.json()["digest"])
    for rate in ('"1.0842"', "1.0842", '"1.08420"'):
        body = f'[{{"instrument": "AAPL", "rate": {rate}, "lot": 100, "listed": true,'
        body += '"since": "2026-01-31T14:30:00.123456789Z"}]'
        answer = await client.put(
            f"{PATH}/masters/rows", content=body, headers={"Content-Type": JSON}
        )
        assert answer.status_code == 200, answer.text
        digests.add(answer.json()["digest"])
    assert len(digests) == 1
    assert await rows_of(client) == [AAPL]


@pytest.mark.parametrize(
    ("body", "media_type", "told"),
    [
        (b"instrument,rate\nA,1.00001\n", CSV, "column 'rate' is a decimal(4)"),
        (b"instrument,rate\nA,922337203685477.5808\n", CSV, "out of range"),
        (b"instrument,lot\nA,1.5\n", CSV, "column 'lot' is a integer"),
        (b"instrument,listed\nA,yes\n", CSV, "write true or false"),
        (b"instrument,since\nA,2026-01-31\n", CSV, "column 'since' is a time"),
        (b"instrument,nope\nA,1\n", CSV, "no column 'nope'"),
        (b"lot\n1\n", CSV, "column 'instrument' is missing"),
        (b"instrument\nA\nB\nA\n", CSV, "rows 1 and 3 have the same instrument"),
        (b'instrument,lot\n"A",1\n,2\n', CSV, "row 2: 'instrument' is null"),
        (b'[{"instrument": ["A"]}]', JSON, "values are texts"),
        (b"[1]", JSON, "no application/json of rows"),
        (b"no arrow", ARROW, "no application/vnd.apache.arrow.stream of rows"),
        (
            stream(pa.table({"instrument": ["A"], "rate": [1.5]})),
            ARROW,
            "floats are not exact",
        ),
        (stream(pa.table({"instrument": [1]})), ARROW, "int64 is no text"),
        (b"<xml/>", "text/xml", "cannot be read from text/xml"),
    ],
)
async def test_rows_that_are_none_are_refused(
    client: Client, body: bytes, media_type: str, told: str
) -> None:
    await make(client)
    answer = await client.put(
        f"{PATH}/masters/rows", content=body, headers={"Content-Type": media_type}
    )
    assert answer.status_code == 422, answer.text
    assert told in answer.json()["detail"]
    assert (await client.get(f"{PATH}/masters")).json()["version"] == 1


@pytest.mark.parametrize(
    ("members", "status", "pointer"),
    [
        ({"key": ["lot"]}, 422, "/key"),
        ({"key": ["instrument", "instrument"]}, 422, "/key"),
        ({"valid_from": "lot"}, 422, "/valid_from"),
        ({"columns": [*COLUMNS, COLUMNS[0]]}, 422, "/columns"),
        ({"columns": [{"name": "instrument", "type": "float"}]}, 400, "/columns"),
        ({"key": []}, 400, "/key"),
    ],
)
async def test_tables_that_contradict_themselves_are_refused(
    client: Client, members: dict[str, Any], status: int, pointer: str
) -> None:
    body = {"name": "t", "columns": COLUMNS, "key": ["instrument"], **members}
    answer = await client.post(PATH, json=body)
    assert answer.status_code == status
    assert answer.json()["errors"][0]["pointer"].startswith(pointer)


async def test_many_rows_fit_and_come_in_pages(client: Client) -> None:
    await make(client, columns=COLUMNS[:1])
    body = "instrument\n" + "\n".join(f"I{n:06}" for n in range(100_000))
    answer = await client.put(f"{PATH}/masters/rows", content=body, headers={"Content-Type": CSV})
    assert (answer.status_code, answer.json()["rows"]) == (200, 100_000)
    page = (await client.get(f"{PATH}/masters/rows", params={"limit": 2})).json()
    page = (
        await client.get(f"{PATH}/masters/rows", params={"limit": 2, "cursor": page["next_cursor"]})
    ).json()
    assert page["items"] == [{"values": {"instrument": name}} for name in ("I000002", "I000003")]


async def test_transformations_ask_of_tables_that_are_there(client: Client) -> None:
    transformation = {
        "enrich": [{"table": "masters", "columns": {"lot": "lot", "rate": "rate"}}],
        "compute": {"lots": "round(size / lot, 2)", "worth": "price * rat"},
    }
    body = {"name": "enriched", "transformation": transformation}
    refused = await client.post("/v1/transformations", json=body)
    assert refused.json()["errors"][0]["pointer"] == "/transformation/enrich/0"
    assert "GET /v1/reference-tables" in refused.json()["errors"][0]["hint"]
    await make(client)
    refused = (await client.post("/v1/transformations", json=body)).json()["errors"]
    assert [(e["pointer"], e["position"], e["hint"]) for e in refused] == [
        ("/transformation/compute/worth", 8, "did you mean rate?")
    ]
    del transformation["compute"]["worth"]  # type: ignore[attr-defined]
    made = await client.post("/v1/transformations", json=body)
    assert made.status_code == 201
    (asked,) = made.json()["transformation"]["enrich"]
    assert asked["types"] == {"lot": "integer", "rate": "decimal(4)"}
    assert asked["on"] == ["instrument"]
    held = {"table": "masters", "columns": {"lot": "lot"}, "missing": "hold"}
    refused = await client.post(
        "/v1/transformations", json={"name": "t", "transformation": {"enrich": [held]}}
    )
    assert refused.status_code == 400
    assert "hold" in refused.text


def filling(world: World, key: str, *lots: int) -> Any:
    body = "instrument,lot\n" + "".join(f"I{n},{lot}\n" for n, lot in enumerate(lots))
    return world.reference_tables.load(key, body.encode(), CSV, None, replace=True)


def published(world: World) -> list[int]:
    """The lots of the table that the newest plan names, taken from the topic."""
    one = (world.broker.last.tables or {})["masters"]
    data = assembled(one.digest, one.pieces, world.broker.tables)
    assert data is not None
    table = ReferenceTable(read_content(data))
    return table.column("lot", table.rows_at(table.groups(["I0", "I1"]), [0, 0])).to_pylist()  # type: ignore[arg-type]


async def test_content_stands_on_the_topic_before_the_plan_that_names_it(
    world: World, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "KEPT_VERSIONS", 2)
    columns = [ColumnSpec("instrument", "text"), ColumnSpec("lot", "integer")]
    await world.reference_tables.create(ReferenceTableCreate("masters", columns, ["instrument"]))
    await filling(world, "masters", 1, 2)
    await world.settle()
    # Nobody has asked for it.
    assert world.broker.tables == {}
    wanted = Transformation(enrich=(Enrichment("masters", {"lot": "lot"}),))
    subscription = await world.subscribe("s", transformation=wanted)
    await world.settle()
    assert await world.state(subscription) == "active"
    assert published(world) == [1, 2]
    changed = await filling(world, "masters", 3, 4)
    assert changed.plan == world.broker.last.number + 1
    await world.settle()
    assert published(world) == [3, 4]
    digests = [{key.split("/")[0] for key in keys} for keys in world.broker.tables_before_plan]
    assert changed.digest in digests[-1] - digests[-2]
    metrics = Metrics(FollowerState())
    reconciler = reconciler_of(database, settings, broker=world.broker, metrics=metrics)
    async with database.transaction() as session:
        await reconciler._tables(session, world.broker.last.number - 1)
        assert len(await repository.on_topic(session)) == 2
        # Every function runs the newest plan.
        await reconciler._tables(session, world.broker.last.number)
        assert list(await repository.on_topic(session)) == [changed.digest]
    # What has been lost is published again, before its plan is.
    world.broker.tables.clear()
    await world.settle()
    assert published(world) == [3, 4]
    async with database.transaction() as session:
        kept = await session.scalars(
            text(
                "SELECT version FROM reference_table_versions WHERE content IS NOT NULL ORDER BY 1"
            )
        )
        # Not on the topic any more, but what a rollback may ask for.
        assert list(kept) == [2, 3]


async def test_rows_are_merged_again_when_the_table_has_changed_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [ColumnSpec("instrument", "text"), ColumnSpec("lot", "integer")]
    await world.reference_tables.create(ReferenceTableCreate("masters", columns, ["instrument"]))
    merge, loop, overtaking = service._merged, asyncio.get_running_loop(), [3, 7]

    def overtaken(*arguments: Any) -> Any:
        """Merge, while somebody else fills the table; nobody holds up the plans meanwhile."""
        made = merge(*arguments)
        if overtaking:
            other = filling(world, "masters", overtaking.pop())
            asyncio.run_coroutine_threadsafe(other, loop).result(60)
        return made

    monkeypatch.setattr(service, "_merged", overtaken)

    def adding(if_match: str | None) -> Any:
        body = b"instrument,lot\nB,1\n"
        return world.reference_tables.load("masters", body, CSV, if_match, replace=False)

    added = await adding(None)
    assert (added.version, added.rows) == (4, 2)
    held = (await world.reference_tables.rows("masters", cursor=None, limit=9)).items
    assert [row.values for row in held] == [
        {"instrument": "B", "lot": 1},
        {"instrument": "I0", "lot": 3},
    ]
    overtaking.append(9)
    with pytest.raises(PreconditionFailedError):
        await adding('"4"')
    overtaking.extend(range(20, 20 + service.MOST_MERGES))
    with pytest.raises(ConflictError, match="changed all the time"):
        await adding(None)
    assert overtaking == []


async def enriching(world: World) -> None:
    """A table with a subscription that joins it, published."""
    columns = [ColumnSpec("instrument", "text"), ColumnSpec("lot", "integer")]
    await world.reference_tables.create(ReferenceTableCreate("masters", columns, ["instrument"]))
    await filling(world, "masters", 1, 2)
    wanted = Transformation(enrich=(Enrichment("masters", {"lot": "lot"}),))
    await world.subscribe("s", transformation=wanted)
    await world.settle()
    assert published(world) == [1, 2]


async def test_a_table_that_the_topic_lost_while_it_holds_another_is_published_again(
    world: World,
) -> None:
    await enriching(world)
    plan = world.broker.last
    world.broker.tables = {f"{'0' * 64}/0": b"of another table, loaded since"}
    await world.settle()
    assert world.broker.last == plan
    assert published(world) == [1, 2]
    plans = len(world.broker.plans)
    await world.settle()
    assert len(world.broker.plans) == plans


async def test_a_database_from_before_a_load_has_its_table_published_again(world: World) -> None:
    """What the topic was told to forget since then, and what a later plan named, is known to it."""
    await enriching(world)
    ours = world.broker.last
    for key in list(world.broker.tables):
        world.broker.tables[key] = b""
    world.broker.tables[f"{'0' * 64}/0"] = b"of the version that the database has forgotten"
    later = {"masters": TableRef(9, "0" * 64, 1)}
    world.broker.plans.append(encode_plan(Plan(ours.number + 3, "0" * 64, 0, "", (), {}, later)))
    await world.settle()
    assert world.broker.last.number > ours.number + 3
    assert world.broker.last.tables == ours.tables
    assert published(world) == [1, 2]


async def test_tables_are_made_ready_once_and_in_a_thread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_ready, made, here = repository._made_ready, [], threading.get_ident()
    monkeypatch.setattr(repository, "_ready", {})
    monkeypatch.setattr(repository, "MOST_READY", 2)

    def recorded(content: bytes) -> ReferenceTable:
        assert threading.get_ident() != here
        made.append(content)
        return make_ready(content)

    monkeypatch.setattr(repository, "_made_ready", recorded)
    columns = [ColumnSpec("instrument", "text"), ColumnSpec("lot", "integer")]
    for lot, name in enumerate("abc"):
        await world.reference_tables.create(ReferenceTableCreate(name, columns, ["instrument"]))
        await filling(world, name, lot)

    async def lots(*names: str) -> dict[str, list[Any]]:
        async with world.database.transaction() as session:
            found = await repository.tables(session, names)
        return {
            name: table.column("lot", table.groups(["I0"])).to_pylist()
            for name, table in found.items()
        }

    assert await lots("a", "nope") == {"a": [0]}
    assert await lots("a", "b") == {"a": [0], "b": [1]}
    assert len(made) == 2
    assert await lots("c", "b", "a") == {"a": [0], "b": [1], "c": [2]}
    assert len(made) == 3
    assert len(repository._ready) == 2
    await filling(world, "a", 7)
    assert await lots("a") == {"a": [7]}
    assert len(made) == 4
