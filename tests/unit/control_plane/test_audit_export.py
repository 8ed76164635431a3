"""The export of the audit log: every entry once, in the order of the chain, whatever breaks off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from litestar.testing import AsyncTestClient
from sqlalchemy import update

from control_plane.acting import component
from control_plane.broker import Broker
from control_plane.database import Database
from control_plane.domains.audit import repository
from control_plane.domains.audit.chain import Head, Link, follow
from control_plane.domains.audit.cloud_events import cloud_event, link_of
from control_plane.domains.audit.export import AuditExporter
from control_plane.domains.audit.models import AuditExport
from control_plane.domains.audit.service import AuditService, Repair
from control_plane.errors import BrokerUnavailableError

EVENT = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "minLength": 1, "format": "uri-reference"},
        "type": {"type": "string", "minLength": 1},
        "subject": {"type": "string", "minLength": 1},
        "time": {
            "type": "string",
            "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$",
        },
        "datacontenttype": {"const": "application/json"},
        "data": {"type": "object"},
    },
    # Extension attributes: none has a name that the specification does not allow.
    "propertyNames": {"pattern": "^[a-z0-9]+$"},
}
"""What CloudEvents 1.0 asks of an event in JSON (section 3.1; the JSON format's 2 and 3)."""

texts = st.text(st.characters(codec="utf-8"), max_size=8)
documents = st.none() | st.dictionaries(
    texts, st.none() | st.integers() | texts | st.lists(st.booleans(), max_size=2), max_size=3
).map(lambda value: json.dumps(value, ensure_ascii=False))
microseconds = st.integers(0, 2**52).map(str)
links = st.builds(
    Link,
    st.integers(1, 2**53),
    st.tuples(
        st.integers(1, 2**53).map(str),
        microseconds,
        *[texts] * 11,
        documents,
        documents,
        documents,
    ),
    st.binary(min_size=32, max_size=32),
)


@given(links)
def test_an_event_says_all_that_the_digest_covers(link: Link) -> None:
    assert link_of(cloud_event(link)) == link


@given(links)
def test_an_event_is_one_of_cloud_events(link: Link) -> None:
    event = json.loads(cloud_event(link))
    Draft202012Validator(EVENT).validate(event)
    assert event["id"] == f"{link.sequence}:{link.digest.hex()}"


class Topic:
    """A topic as a list; `breaks_after` messages the broker is gone, once."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.properties: list[dict[str, str]] = []
        self.breaks_after: int | None = None
        self.missing = False
        self.opened = 0
        self.writers = 0

    @asynccontextmanager
    async def writing(self, _broker: Broker, topic: str) -> AsyncIterator[Topic]:
        assert topic == "persistent://marketdata/audit/entries"
        self.opened += 1
        if self.missing:
            raise BrokerUnavailableError("apply the topology")
        assert not self.writers, "two write at a time"
        self.writers += 1
        try:
            yield self
        finally:
            self.writers -= 1

    async def newest(self) -> bytes | None:
        return self.messages[-1] if self.messages else None

    async def append(self, payloads: Sequence[bytes], properties: dict[str, str]) -> None:
        for payload in payloads:
            if self.breaks_after == 0:
                self.breaks_after = None
                raise BrokerUnavailableError("gone")
            if self.breaks_after is not None:
                self.breaks_after -= 1
            self.messages.append(payload)
            self.properties.append(properties)

    @property
    def sequences(self) -> list[int]:
        return [link_of(message).sequence for message in self.messages]


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    made = Topic()
    monkeypatch.setattr("control_plane.domains.audit.export.writing", made.writing)
    monkeypatch.setattr("control_plane.domains.audit.export.AT_ONCE", 3)
    monkeypatch.setattr("control_plane.domains.audit.export.STANDBY_SECONDS", 0.01)
    monkeypatch.setattr("control_plane.domains.audit.export.MAX_BACKOFF_SECONDS", 0.01)
    return made


@pytest.fixture
def divided() -> list[str]:
    return []


@asynccontextmanager
async def exporting(
    database: Database, divided: list[str] | None = None
) -> AsyncIterator[AuditExporter]:
    told = [] if divided is None else divided
    exporter = AuditExporter(
        database,
        cast(Broker, None),
        poll_seconds=0.01,
        on_divided=lambda: told.append("divided"),
    )
    task = asyncio.create_task(exporter.run())
    try:
        yield exporter
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110  (nobody tells)
            await asyncio.sleep(0.01)


async def seal(database: Database, *names: str) -> None:
    audit = AuditService(database, seal_seconds=60)
    await audit.repaired(
        Repair("make again", "subscriptions", name, after={"topic": "ü", "n": 1.50})
        for name in names
    )
    assert await audit.seal() == len(names)


async def exported(database: Database) -> int:
    async with database.transaction() as session:
        return await repository.exported(session)


async def noted(database: Database, sequence: int) -> None:
    """Wait until PostgreSQL knows that entries up to a place are exported."""
    async with asyncio.timeout(120):
        while await exported(database) != sequence:  # noqa: ASYNC110  (nobody tells)
            await asyncio.sleep(0.01)


async def test_every_entry_is_exported_once_in_the_order_of_the_chain(
    database: Database, topic: Topic
) -> None:
    """Those of before, too; the chain is checked from what stands on the topic alone."""
    await seal(database, *"abcde")
    async with exporting(database):
        await until(lambda: len(topic.messages) == 5)
        await seal(database, "f", "g")
        await noted(database, 7)
    async with database.transaction() as session:
        head = await repository.head(session)
    assert follow(Head(), map(link_of, topic.messages)) == (head, None)
    first = json.loads(topic.messages[0])
    assert first["subject"] == "subscriptions/a"
    assert first["time"] == first["data"]["recorded_at"]
    assert first["data"]["after"] == {"n": 1.5, "topic": "ü"}
    assert first["data"]["before"] is None
    assert topic.properties[0] == {
        "content-type": "application/cloudevents+json; charset=UTF-8",
    }


@pytest.mark.parametrize("breaks_after", range(6))
async def test_what_breaks_off_goes_on_behind_what_is_stored(
    database: Database, topic: Topic, breaks_after: int
) -> None:
    await seal(database, *"abcde")
    topic.breaks_after = breaks_after
    async with exporting(database):
        await until(lambda: len(topic.messages) >= 5)
        await seal(database, "f")
        await until(lambda: len(topic.messages) >= 6)
    assert topic.sequences == [1, 2, 3, 4, 5, 6]
    assert topic.opened == 2


async def test_progress_that_was_not_noted_makes_no_repeats(
    database: Database, topic: Topic
) -> None:
    """A control plane that was killed between the topic and PostgreSQL."""
    await seal(database, "a", "b", "c")
    async with exporting(database):
        await until(lambda: len(topic.messages) == 3)
    async with database.transaction() as session:
        await session.execute(update(AuditExport).values(sequence=1))
    await seal(database, "d")
    async with exporting(database):
        await noted(database, 4)
    assert topic.sequences == [1, 2, 3, 4]


async def test_a_topic_that_is_not_there_is_told_and_waited_for(
    database: Database, topic: Topic
) -> None:
    await seal(database, "a")
    topic.missing = True
    async with exporting(database):
        await until(lambda: topic.opened >= 3)
        assert await exported(database) == 0
        topic.missing = False
        await until(lambda: topic.sequences == [1])


async def test_a_topic_that_was_made_again_gets_the_whole_log(
    database: Database, topic: Topic
) -> None:
    await seal(database, "a", "b")
    async with exporting(database):
        await until(lambda: len(topic.messages) == 2)
    topic.messages.clear()
    async with exporting(database):
        await until(lambda: len(topic.messages) == 2)
    assert topic.sequences == [1, 2]


@pytest.mark.parametrize(
    "foreign",
    [
        cloud_event(Link(9, ("1", "0", *[""] * 11, None, None, None), bytes(32))),
        cloud_event(Link(2, ("1", "0", *[""] * 11, None, None, None), bytes(32))),
        b"hello",
    ],
)
async def test_a_chain_that_divides_is_told_and_goes_on_where_the_database_was(
    database: Database, topic: Topic, divided: list[str], foreign: bytes
) -> None:
    """As after a restore: what the topic has more is of a history that this log does not have."""
    await seal(database, "a", "b")
    async with exporting(database, divided):
        await noted(database, 2)
    assert divided == []
    topic.messages.append(foreign)
    await seal(database, "c")
    async with exporting(database, divided):
        await until(lambda: len(topic.messages) == 4)
    assert divided == ["divided"]
    assert link_of(topic.messages[-1]).sequence == 3
    async with exporting(database, divided):
        await seal(database, "d")
        await until(lambda: len(topic.messages) == 5)
    assert divided == ["divided"]


async def test_of_several_control_planes_one_exports(database: Database, topic: Topic) -> None:
    """`writing` refuses a second writer; when the first one ends, the other one goes on."""
    await seal(database, "a")
    async with exporting(database):
        await until(lambda: len(topic.messages) == 1)
        async with exporting(database):
            await seal(database, "b")
            await until(lambda: len(topic.messages) == 2)
            assert topic.opened == 1
    async with exporting(database):
        await seal(database, "c")
        await until(lambda: len(topic.messages) == 3)
    assert topic.sequences == [1, 2, 3]


async def test_metrics_tell_how_far_the_export_is(
    client: AsyncTestClient[Any], database: Database
) -> None:
    async def value(name: str) -> float:
        text = (await client.get("/metrics")).text
        (line,) = [each for each in text.splitlines() if each.startswith(f"{name} ")]
        return float(line.split()[1])

    assert await value("dds_audit_export_lag_seconds") == 0
    async with database.transaction() as session:
        await repository.add(
            session,
            [(component("test"), {"action": "a", "resource": "r", "resource_id": "i"})] * 2,
        )
    await AuditService(database, seal_seconds=60).seal()
    assert await value("dds_audit_exported_sequence") == 0
    assert await value("dds_audit_export_pending_entries") >= 2
    assert await value("dds_audit_export_lag_seconds") > 0
    assert await value("dds_audit_export_divided_total") == 0
