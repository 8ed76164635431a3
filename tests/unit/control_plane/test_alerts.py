"""What ends soon, is refused or is unusual is told once, and counted while it stands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from access import Client, Tokens, secured
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from litestar.testing import AsyncTestClient
from sqlalchemy import select, text
from structlog.testing import capture_logs
from test_health_history import Clock, put
from world import World

from control_plane.acting import Actor, Refusal
from control_plane.app import create_app
from control_plane.database import Database
from control_plane.domains.alerts import repository
from control_plane.domains.alerts.certificates import Certificates
from control_plane.domains.alerts.models import AlertKind, AlertRow
from control_plane.domains.alerts.watch import ExpiryWatch
from control_plane.domains.audit.refused_events import RefusedEvents
from control_plane.domains.events.models import EventRow
from control_plane.domains.events.repository import Change
from control_plane.domains.events.schemas import EventType
from control_plane.domains.subscriptions import unusual
from control_plane.domains.subscriptions.unusual import LEAST_SAMPLES, Usual
from control_plane.domains.tokens.models import IssuedToken, Revocation
from control_plane.security.roles import Role
from control_plane.settings import Settings

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


async def events(database: Database, kind: EventType) -> list[EventRow]:
    query = select(EventRow).where(EventRow.type == kind.value).order_by(EventRow.id)
    async with database.transaction() as session:
        return list(await session.scalars(query))


async def standing(database: Database) -> set[str]:
    async with database.transaction() as session:
        return set(await session.scalars(select(AlertRow.about)))


async def test_an_alert_is_told_when_it_begins_and_again_when_it_begins_anew(
    database: Database,
) -> None:
    async def settle(*abouts: str, among: list[str] | None = None) -> list[str]:
        told = {each: Change(EventType.TOKEN_EXPIRING, {"name": each}) for each in abouts}
        async with database.transaction() as session:
            return await repository.settle(session, AlertKind.TOKEN, told, among=among)

    assert await settle("a", "b") == ["a", "b"]
    assert await settle("b", "c") == ["c"]
    assert await standing(database) == {"b", "c"}
    # What was not looked at stays.
    assert await settle("d", among=["d", "c"]) == ["d"]
    assert await standing(database) == {"b", "d"}
    async with database.transaction() as session:
        other = {"b": Change(EventType.CERTIFICATE_EXPIRING, {"name": "b"})}
        assert await repository.settle(session, AlertKind.CERTIFICATE, other) == ["b"]
        counts = await repository.count_by_kind(session)
    assert counts == {"token": 2, "certificate": 1, "consumption": 0, "function": 0}
    assert await settle() == []
    assert await settle("a") == ["a"]
    told = [row.data["name"] for row in await events(database, EventType.TOKEN_EXPIRING)]
    assert told == ["a", "b", "c", "d", "a"]


def certificate(path: Path, *days: float) -> Path:
    """A file with certificates that end in so many days."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    path.write_bytes(
        b"".join(
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=400))
            .not_valid_after(now + timedelta(days=each))
            .sign(key, hashes.SHA256())
            .public_bytes(Encoding.PEM)
            for each in days
        )
    )
    return path


async def test_a_certificate_is_told_at_each_threshold_until_it_is_replaced(
    database: Database, tmp_path: Path
) -> None:
    file, clock = tmp_path / "server.pem", Clock()
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing")
    files = {"http": certificate(file, 31), "trust": broken, "none": None}
    watch = ExpiryWatch(database, Certificates(files), clock=clock)
    for days in ((31,), (29,), (200, 6.9), (0.5,), (-1,), (90,)):
        certificate(file, *days)
        await watch.look()
        await watch.look()  # not again within the minute
        clock.now += 60
    told = await events(database, EventType.CERTIFICATE_EXPIRING)
    assert [(row.data["name"], row.data["days"]) for row in told] == [
        ("http", 30),
        ("http", 7),
        ("http", 1),
        ("http", 1),
    ]
    assert await standing(database) == set()


async def test_a_certificate_that_cannot_be_read_is_told_once_and_is_not_over(
    database: Database, tmp_path: Path
) -> None:
    file, clock = certificate(tmp_path / "server.pem", 20), Clock()
    content = file.read_bytes()
    watch = ExpiryWatch(database, Certificates({"http": file}), clock=clock)
    with capture_logs() as logged:
        for there in (content, b"nothing", b"nothing", content, b"nothing", content):
            file.write_bytes(there)
            await watch.look()
            clock.now += 60
    assert len(await events(database, EventType.CERTIFICATE_EXPIRING)) == 1
    assert [each["event"] for each in logged] == [
        "a certificate cannot be read",
        "a certificate can be read again",
    ] * 2
    certificate(file, 90)
    await watch.look()
    assert await standing(database) == set()


async def test_the_end_of_certificates_is_a_metric(tmp_path: Path) -> None:
    files = {"http": certificate(tmp_path / "a.pem", 90, 3), "trust": tmp_path / "none.pem"}
    (family,) = Certificates(files).collect()
    (sample,) = family.samples
    assert sample.labels == {"use": "http"}
    assert abs(sample.value - (datetime.now(UTC) + timedelta(days=3)).timestamp()) < 600


async def test_a_token_is_told_that_nobody_renewed(database: Database) -> None:
    now = datetime.now(UTC)
    consumer = "c" + "0" * 16

    def token(number: int, subject: str, *, age: float, left: float, role: str) -> IssuedToken:
        return IssuedToken(
            id=f"{number:032x}",
            subject=subject,
            role=role,
            issued_by="ann",
            issued_at=now - timedelta(minutes=age),
            expires_at=now + timedelta(minutes=left),
        )

    async with database.transaction() as session:
        session.add_all(
            [
                token(1, consumer, age=57, left=3, role="consumer"),
                token(2, "renewed", age=57, left=3, role="publisher"),
                token(3, "renewed", age=1, left=59, role="publisher"),
                token(4, "young", age=50, left=10, role="read-only"),
                token(5, "gone", age=61, left=-1, role="read-only"),
                token(6, "revoked", age=57, left=3, role="read-only"),
                token(7, "revoked-by-subject", age=57, left=3, role="read-only"),
                token(8, "left-with-the-old", age=57, left=3, role="publisher"),
                token(9, "left-with-the-old", age=1, left=59, role="publisher"),
                Revocation(token_id=f"{6:032x}", revoked_by="ann", forget_after=now),
                Revocation(token_id=f"{9:032x}", revoked_by="ann", forget_after=now),
                Revocation(
                    subject="revoked-by-subject",
                    issued_until=now,
                    revoked_by="ann",
                    forget_after=now,
                ),
            ]
        )
    clock = Clock()
    watch = ExpiryWatch(database, Certificates({}), clock=clock)
    for _ in range(3):
        await watch.look()
        clock.now += 60
    told = await events(database, EventType.TOKEN_EXPIRING)
    assert [(row.data["name"], row.consumer_id) for row in told] == [
        (consumer, consumer),
        ("left-with-the-old", None),
    ]
    assert told[0].data["id"] == f"{1:032x}"


def refusal(status: int, reason: str = "", actor: str = "unauthenticated") -> Refusal:
    return Refusal(Actor(actor), status, reason, "GET /")


def test_refusals_are_told_at_once_and_then_a_minute_together() -> None:
    clock = Clock()
    refused = RefusedEvents(clock=clock)
    assert refused.take() == []
    refused.count(refusal(401, "missing"))
    assert refused.take() == [
        Change(EventType.LOGIN_FAILED, {"times": 1, "reasons": {"missing": 1}})
    ]
    for reason in ("missing", "expired", "missing"):
        refused.count(refusal(401, reason))
    for number in range(12):
        refused.count(refusal(403, actor=f"desk-{number}"))
    refused.count(refusal(403, actor="desk-11"))
    clock.now += 59
    assert refused.take() == []
    clock.now += 1
    failed, access = refused.take()
    assert failed.data == {"times": 3, "reasons": {"missing": 2, "expired": 1}}
    assert access.type is EventType.ACCESS_REFUSED
    assert access.data["times"] == 13
    assert len(access.data["callers"]) == 10
    assert access.data["callers"]["desk-11"] == 2
    clock.now += 60
    assert refused.take() == []


@pytest.mark.parametrize(
    ("rate", "again", "usual", "samples", "found"),
    [
        (60.0, 0.0, 10.0, LEAST_SAMPLES, "rate"),
        (50.0, 0.0, 10.0, LEAST_SAMPLES, None),
        (60.0, 0.0, 10.0, LEAST_SAMPLES - 1, None),
        (9.0, 0.0, 0.0, LEAST_SAMPLES, None),
        (11.0, 0.0, 0.0, LEAST_SAMPLES, "rate"),
        (60.0, 30.0, 60.0, 0, "redelivery"),
        (60.0, 29.0, 60.0, LEAST_SAMPLES, None),
        (0.0, 1.0, 0.0, 0, "redelivery"),
        (0.0, 0.9, 0.0, 0, None),
    ],
)
def test_what_is_unusual(
    rate: float, again: float, usual: float, samples: int, found: str | None
) -> None:
    row = {"rate": rate, "redelivery_rate": again}
    told = unusual.unusual(row, Usual("one", "c", usual, samples), 5.0)
    assert (told and told["reason"]) == found


@pytest.mark.parametrize(
    ("rate", "again", "usual", "found"),
    [
        (41.0, 0.0, 10.0, "rate"),
        (40.0, 0.0, 10.0, None),
        (8.0, 0.0, 1.0, "rate"),
        (7.9, 0.0, 1.0, None),
        (60.0, 24.0, 60.0, "redelivery"),
        (60.0, 23.0, 60.0, None),
        (0.0, 0.8, 0.0, "redelivery"),
    ],
)
def test_what_was_told_is_over_a_part_below(
    rate: float, again: float, usual: float, found: str | None
) -> None:
    row, known = {"rate": rate, "redelivery_rate": again}, Usual("one", "c", usual, LEAST_SAMPLES)
    assert unusual.unusual(row, known, 5.0) is None
    told = unusual.unusual(row, known, 5.0, stands=True)
    assert (told and told["reason"]) == found


async def test_unusual_consumption_is_told_once_until_it_is_over(world: World) -> None:
    one, other = await world.subscribe("one"), await world.subscribe("other")
    now = datetime.now(UTC)
    for key in (one, other):
        ages = range(1, LEAST_SAMPLES + 1)
        await put(world, key, *({"at": now - timedelta(minutes=age)} for age in ages))
    # Longer ago than a day: not what is usual now.
    old = now - timedelta(days=2)
    await put(world, one, *({"at": old, "rate": 1000.0} for _ in range(2 * LEAST_SAMPLES)))

    async def look(**rates: float) -> None:
        seen = [
            {"subscription_id": key, "rate": rate, "redelivery_rate": 0.0}
            for key, rate in ((one, rates.get("one")), (other, rates.get("other")))
            if rate is not None
        ]
        async with world.database.transaction() as session:
            await unusual.tell(session, seen, 5.0)

    await look(one=100.0, other=9.0)
    await look(one=90.0)
    (told,) = await events(world.database, EventType.SUBSCRIPTION_UNUSUAL)
    assert told.data == {"name": "one", "reason": "rate", "rate": 100.0, "usual": 1.0}
    assert (told.subscription_id, told.consumer_id) == (
        one,
        (await world.consumers.get("desk"))[0].id,
    )
    await look(other=100.0)
    assert await standing(world.database) == {one, other}
    await look(one=1.0, other=100.0)
    assert await standing(world.database) == {other}
    await look(one=100.0)
    assert len(await events(world.database, EventType.SUBSCRIPTION_UNUSUAL)) == 3
    # Who stays near the threshold, which is 5.0 times 1.0 but 10.0 at least, is told once.
    for rate in (9.0, 11.0, 8.0, 12.0):
        await look(one=rate)
    assert len(await events(world.database, EventType.SUBSCRIPTION_UNUSUAL)) == 3
    await look(one=7.9)
    assert one not in await standing(world.database)
    await look(one=9.0)
    assert one not in await standing(world.database)


@pytest.fixture
def safe(settings: Settings, tmp_path: Path) -> Settings:
    return secured(settings, tmp_path, audit_seal_seconds=60.0)


@pytest.fixture
async def client(safe: Settings) -> AsyncIterator[Client]:
    async with AsyncTestClient(create_app(safe), raise_server_exceptions=False) as client:
        yield client


async def test_refused_requests_become_events_and_alerts_a_metric(
    client: Client, safe: Settings, database: Database
) -> None:
    reader = Tokens(safe).of(Role.READ_ONLY, "grafana")
    assert (await client.get("/v1/plans")).status_code == 401
    assert (await client.post("/v1/consumers", json={}, headers=reader)).status_code == 403
    audit: Any = client.app.state.control_plane.audit
    await audit.tell_refusals()
    (failed,) = await events(database, EventType.LOGIN_FAILED)
    assert failed.data == {"times": 1, "reasons": {"missing": 1}}
    (refused,) = await events(database, EventType.ACCESS_REFUSED)
    assert refused.data == {"times": 1, "callers": {"grafana": 1}}
    async with database.transaction() as session:
        await session.execute(text("INSERT INTO alerts VALUES ('token', 'a', now())"))
    lines = (await client.get("/metrics", headers=reader)).text.splitlines()
    assert 'dds_alerts{kind="token"} 1.0' in lines
    assert 'dds_alerts{kind="consumption"} 0.0' in lines
