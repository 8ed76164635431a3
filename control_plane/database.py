"""PostgreSQL: the engine, sessions, and the advisory locks that serialize control planes.

Every failure to reach the database surfaces as DatabaseUnavailableError, so that callers can tell
"try again" from "fix the request"; constraint violations stay SQLAlchemy's IntegrityError.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from enum import IntEnum, unique

import msgspec
import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from control_plane.errors import DatabaseUnavailableError

# The Alembic revision this code is written against; a test keeps it equal to the newest migration.
SCHEMA_REVISION = "0030"
CONNECT_TIMEOUT_SECONDS = 3
HELD_IDLE_SECONDS = 30
"""PostgreSQL ends the session of a lock's holder that is silent for so long: it hangs."""

IN_TRANSACTION_IDLE_SECONDS = 3600
"""The same within a transaction: what it holds is free again, whatever became of its process.

Longer than the broker needs for whatever a transaction waits for, as for the topics of a plan."""


class Base(DeclarativeBase):
    """All tables; constraint names are fixed so that migrations and error mapping can use them."""


Base.metadata.naming_convention = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}


@unique
class Lock(IntEnum):
    """Advisory locks; the numbers are part of the protocol between control planes."""

    PLAN_SEQUENCE = 0x6464_7301
    """Held while a change and its plan are written: plan numbers rise without holes.

    Shared by changes that make no plan, but must not see one made meanwhile."""
    PUBLISH = 0x6464_7302
    """Held by the one control plane that publishes."""
    RECONCILE = 0x6464_7303
    """Held by the one control plane that reconciles."""
    ORDERING = 0x6464_7304
    """Held by the one control plane that stores what the sequencer finds; for a session's life."""
    AUDIT = 0x6464_7305
    """Held by the one control plane that seals entries of the audit log."""
    FUNCTIONS = 0x6464_7306
    """Held by the one control plane that looks after functions."""
    CONFIRM = 0x6464_730A
    """Held by the one control plane that looks what followed workflows have confirmed."""
    AUDIT_EXPORT = 0x6464_7309
    """Held by the one control plane that exports the audit log; for a session's life."""
    DEAD_LETTERS = 0x6464_730B
    """Held by the one control plane that sends dead letters again which an operation asks for."""
    SUBSCRIPTIONS_OF = 0x6464_730C
    """Held for each consumer whose subscriptions are counted before others are made."""


AtBegin = Callable[[AsyncSession], Awaitable[None]]
_at_begin: ContextVar[tuple[AtBegin, ...]] = ContextVar("at_begin", default=())


@contextmanager
def at_begin(call: AtBegin) -> Iterator[None]:
    """Have a call made first in every transaction of this context, and of tasks made in it.

    Not in those that only read before the change of a request (`Database.reading`).
    """
    reset = _at_begin.set((*_at_begin.get(), call))
    try:
        yield
    finally:
        _at_begin.reset(reset)


def sqlalchemy_url(url: str) -> URL:
    """Any usual spelling of a PostgreSQL URL as one for psycopg 3."""
    return make_url(url.replace("postgres://", "postgresql://", 1)).set(
        drivername="postgresql+psycopg"
    )


def integrity_constraint(error: IntegrityError) -> str | None:
    """The name of the constraint that a statement ran into."""
    original = error.orig
    return original.diag.constraint_name if isinstance(original, psycopg.Error) else None


@asynccontextmanager
async def _unavailable_errors() -> AsyncIterator[None]:
    try:
        yield
    except ProgrammingError as error:
        if isinstance(error.orig, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
            raise DatabaseUnavailableError(
                "The database is not migrated: run "
                "`alembic -c migrations/alembic.ini upgrade head`."
            ) from error
        raise
    except PoolTimeoutError as error:
        raise DatabaseUnavailableError("All database connections are in use.") from error
    except DBAPIError as error:
        if error.connection_invalidated or isinstance(
            error.orig, psycopg.OperationalError | psycopg.InterfaceError
        ):
            raise DatabaseUnavailableError("PostgreSQL does not answer.") from error
        raise
    except (psycopg.OperationalError, OSError) as error:
        raise DatabaseUnavailableError("PostgreSQL does not answer.") from error


class Database:
    """One engine and its sessions; safe to make while PostgreSQL is down."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        asked = sqlalchemy_url(url)
        ends = f"-c idle_in_transaction_session_timeout={IN_TRANSACTION_IDLE_SECONDS}s"
        self.engine = create_async_engine(
            asked,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=5,
            pool_pre_ping=True,
            json_deserializer=msgspec.json.decode,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                # Behind it: what the URL says holds.
                "options": f"{ends} {asked.query.get('options', '')}".strip(),
            },
        )
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        libpq = self.engine.url.set(drivername="postgresql")
        self._conninfo = libpq.render_as_string(hide_password=False)

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session in one transaction: committed at the end, rolled back on an error."""
        async with _unavailable_errors(), self._sessions() as session, session.begin():
            for call in _at_begin.get():
                await call(session)
            yield session

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session in a transaction that changes nothing, before the one of a request's change.

        What is to be called first in every transaction (`at_begin`) is left to that one.
        """
        async with _unavailable_errors(), self._sessions() as session, session.begin():
            await session.execute(text("SET TRANSACTION READ ONLY"))
            yield session

    async def ping(self) -> None:
        """DatabaseUnavailableError when PostgreSQL does not answer."""
        async with self.transaction() as session:
            await session.execute(text("SELECT 1"))

    async def schema_revision(self) -> str | None:
        """The Alembic revision that the database is at; None when it was never migrated."""
        async with self.transaction() as session:
            table = await session.scalar(text("SELECT to_regclass('alembic_version')::text"))
            if table is None:
                return None
            revision: str | None = await session.scalar(
                text("SELECT version_num FROM alembic_version")
            )
            return revision

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
        """Hear notifications, in a session beside the pool.

        Gives a call that waits for one, at most for the seconds given. What is notified while
        nobody waits is heard by the next call. DatabaseUnavailableError when the session is gone.
        """
        async with (
            _unavailable_errors(),
            await psycopg.AsyncConnection.connect(
                self._conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT_SECONDS
            ) as connection,
        ):
            await connection.execute(SQL("LISTEN {}").format(Identifier(channel)))

            async def heard(seconds: float) -> None:
                async with _unavailable_errors():
                    async for _ in connection.notifies(timeout=seconds, stop_after=1):
                        pass

            yield heard

    @asynccontextmanager
    async def held(self, which: Lock) -> AsyncIterator[Callable[[], Awaitable[None]] | None]:
        """An advisory lock for longer than a transaction; None when somebody else has it.

        Gives a call that proves the lock is still held, to be made more often than every
        `HELD_IDLE_SECONDS`: it raises DatabaseUnavailableError when the session is gone, and with
        it the lock. What is done meanwhile must be safe against a second holder all the same.
        """
        async with _unavailable_errors(), self.engine.connect() as connection:
            try:
                key = {"key": int(which)}
                taken = await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), key)
                await connection.execute(text(f"SET idle_session_timeout = '{HELD_IDLE_SECONDS}s'"))
                await connection.commit()

                async def prove() -> None:
                    async with _unavailable_errors():
                        await connection.execute(text("SELECT 1"))
                        await connection.commit()

                yield prove if taken else None
            finally:
                # The lock and the timeout belong to the session: it must not go back to the pool.
                await connection.invalidate()


async def lock(session: AsyncSession, which: Lock, *, shared: bool = False) -> None:
    """Wait for an advisory lock; it is released with the session's transaction.

    Who holds it shared, keeps only those away who do not.
    """
    function = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    await session.execute(text(f"SELECT {function}(:key)"), {"key": int(which)})


async def lock_each(session: AsyncSession, which: Lock, keys: Collection[str]) -> None:
    """Wait for the locks of some keys, in an order that is the same for all who want several."""
    await session.execute(
        text(
            "SELECT pg_advisory_xact_lock(:which, key) FROM (SELECT DISTINCT hashtext(each) AS key"
            " FROM unnest(CAST(:keys AS text[])) AS each ORDER BY key) AS keys"
        ),
        {"which": int(which), "keys": list(keys)},
    )


async def try_lock(session: AsyncSession, which: Lock) -> bool:
    """Take an advisory lock if it is free; it is released with the session's transaction."""
    return bool(
        await session.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": int(which)})
    )
