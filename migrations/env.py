"""Alembic's environment: migrates the database named by DDS_DATABASE_URL.

One migration runs at a time (advisory lock), so several hosts may start one at once. A test may
hand over a URL as `config.attributes["url"]`.
"""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import create_engine, pool, text

import control_plane.domains.audit.models
import control_plane.domains.dead_letters.models
import control_plane.domains.events.models
import control_plane.domains.functions.models
import control_plane.domains.groups.models
import control_plane.domains.instrument_sets.models
import control_plane.domains.operations.models
import control_plane.domains.ordering.models
import control_plane.domains.publishers.models
import control_plane.domains.reference_tables.models
import control_plane.domains.rules.models
import control_plane.domains.subscriptions.models
import control_plane.domains.tokens.models
import control_plane.domains.transformations.models
import control_plane.idempotency.models  # noqa: F401  (all register their tables)
from control_plane.database import Base, sqlalchemy_url

MIGRATION_LOCK = 0x6464_7300

target_metadata = Base.metadata


def database_url() -> str:
    """The URL to migrate; exits with a sentence where there is none."""
    url = context.config.attributes.get("url") or os.environ.get("DDS_DATABASE_URL")
    if not url:
        raise SystemExit("Set DDS_DATABASE_URL to the database to migrate (postgresql://…).")
    return str(url)


def run_offline() -> None:
    """Write the migration as SQL."""
    context.configure(
        url=sqlalchemy_url(database_url()), target_metadata=target_metadata, literal_binds=True
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Migrate the database in one transaction."""
    engine = create_engine(sqlalchemy_url(database_url()), poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=target_metadata)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
