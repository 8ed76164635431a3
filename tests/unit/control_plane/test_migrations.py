"""Migrations run up and down, agree with the models, and take any usual URL."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

import control_plane.domains.alerts.models
import control_plane.domains.audit.models
import control_plane.domains.dead_letters.models
import control_plane.domains.events.models
import control_plane.domains.functions.models
import control_plane.domains.groups.models
import control_plane.domains.operations.models
import control_plane.domains.ordering.models
import control_plane.domains.publishers.models
import control_plane.domains.rules.models
import control_plane.domains.subscriptions.models
import control_plane.domains.tokens.models
import control_plane.idempotency.models  # noqa: F401  (all register their tables)
from control_plane.database import SCHEMA_REVISION, Base, Database, sqlalchemy_url

if TYPE_CHECKING:
    from conftest import Server

from alembic.config import Config

from control_plane.settings import REPOSITORY_ROOT

TABLES = {
    "consumers",
    "subscriptions",
    "views",
    "plans",
    "ordering_findings",
    "ordering_gaps",
    "ordering_counts",
    "ordering_positions",
    "ordering_poison",
    "instrument_sets",
    "instrument_set_versions",
    "dead_letter_resends",
    "subscription_moves",
    "subscription_health",
    "tokens",
    "token_revocations",
    "events",
    "event_log",
    "audit_entries",
    "audit_head",
    "audit_export",
    "alerts",
    "idempotency_keys",
    "transformations",
    "reference_tables",
    "reference_table_versions",
    "subscription_history",
    "function_codes",
    "groups",
    "operations",
    "rules",
    "rule_list_versions",
    "publishers",
}


AUDITED = {
    "consumers",
    "subscriptions",
    "plans",
    "instrument_sets",
    "instrument_set_versions",
    "dead_letter_resends",
    "tokens",
    "token_revocations",
    "transformations",
    "reference_tables",
    "reference_table_versions",
    "operations",
    "rules",
    "rule_list_versions",
    "publishers",
}
"""What somebody changes. The others follow from these, or are logs themselves."""


def config(url: str) -> Config:
    made = Config(str(REPOSITORY_ROOT / "migrations" / "alembic.ini"))
    made.attributes["url"] = url
    return made


def tables(url: str) -> set[str]:
    engine = create_engine(sqlalchemy_url(url))
    try:
        return set(inspect(engine).get_table_names()) - {"alembic_version"}
    finally:
        engine.dispose()


def test_up_down_and_up_again_from_an_empty_database(postgresql: Server) -> None:
    url = postgresql.create()
    command.upgrade(config(url), "head")
    assert tables(url) == TABLES
    command.downgrade(config(url), "base")
    assert tables(url) == set()
    command.upgrade(config(url), "head")
    command.upgrade(config(url), "head")
    assert tables(url) == TABLES


def test_who_was_there_before_entitlements_may_receive_what_it_did(postgresql: Server) -> None:
    url = postgresql.create()
    command.upgrade(config(url), "0004")
    engine = create_engine(sqlalchemy_url(url))
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO consumers (id, name) VALUES ('c0000000000000000', 'desk');"
                "INSERT INTO views (id, topic, spec)"
                """ VALUES ('0000000000000000', 't', '{"filter": "price > 1"}');"""
                "INSERT INTO subscriptions (id, consumer_id, view_id, name, start, plan)"
                " VALUES ('s0000000000000000', 'c0000000000000000', '0000000000000000',"
                " 's', 'latest', 1)"
            )
        for _ in range(2):
            command.upgrade(config(url), "head")
            with engine.connect() as connection:
                entitlements = connection.exec_driver_sql("SELECT entitlements FROM consumers")
                assert entitlements.scalar_one() == {}
                asked = connection.exec_driver_sql("SELECT spec FROM subscriptions").scalar_one()
                assert asked == {"filter": "price > 1"}
            command.downgrade(config(url), "0004")
    finally:
        engine.dispose()


def test_what_only_newer_revisions_know_is_no_obstacle_on_the_way_back(
    postgresql: Server,
) -> None:
    """Who goes back keeps what the older revision knows, and what it does not is gone."""
    url = postgresql.create()
    command.upgrade(config(url), "head")
    engine = create_engine(sqlalchemy_url(url))
    told = "SELECT c.name, s.name, s.state FROM consumers AS c JOIN subscriptions AS s"
    told += " ON s.consumer_id = c.id ORDER BY s.id"
    kept = [("desk", "s", "pending"), ("desk", "s", "closed")]
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO consumers (id, name, entitlements, workflow)"
                " VALUES ('c0000000000000000', 'desk', '{}', 'prediction');"
                "INSERT INTO views (id, topic, spec) VALUES ('0000000000000000', 't', '{}');"
                'INSERT INTO subscriptions (id, consumer_id, view_id, name, start, plan, "group",'
                " spec) VALUES ('s0000000000000000', 'c0000000000000000', '0000000000000000',"
                " 's', 'latest', 1, 'pickers', '{}');"
                "INSERT INTO groups (subscription_id) VALUES ('s0000000000000000');"
                "INSERT INTO subscription_moves (subscription_id, view_id, subscription_name,"
                " plan, goes_on, drain_until) VALUES ('s0000000000000000', '0000000000000000',"
                " 's', 1, true, now());"
                "INSERT INTO rules (id, name, predicate, consumers, effect, enabled, position)"
                " VALUES ('u0000000000000000', 'brake', 'null', '{}', 'deny', true, 1);"
                "INSERT INTO publishers (id, name, region, sources)"
                " VALUES ('p0000000000000000', 'feed', 'eu', '{feed-a}');"
                "INSERT INTO operations (id, kind, target)"
                " VALUES ('o0000000000000000', 'function.restart', 'sequencer');"
                "INSERT INTO subscriptions (id, consumer_id, view_id, name, start, start_place,"
                " plan, spec, state, closed_in_plan, activated_at) VALUES ('s0000000000000001',"
                " 'c0000000000000000', '0000000000000000', 's', 'place', '{}', 1, '{}',"
                " 'draining', 2, now())"
            )
        for revision in ("0020", "0018", "0015"):
            command.downgrade(config(url), revision)
            with engine.connect() as connection:
                assert connection.exec_driver_sql(told).all() == kept
        command.upgrade(config(url), "head")
        assert tables(url) == TABLES
        with engine.connect() as connection:
            assert connection.exec_driver_sql(told).all() == kept
            assert connection.exec_driver_sql("SELECT count(*) FROM rules").scalar_one() == 0
    finally:
        engine.dispose()


def test_every_release_can_be_left_and_come_back_to(postgresql: Server) -> None:
    """Up to each revision, back by one, and up again, with what consumers had at the first."""
    url = postgresql.create()
    script = ScriptDirectory.from_config(config(url))
    revisions = [each.revision for each in reversed(list(script.walk_revisions()))]
    command.upgrade(config(url), revisions[0])
    engine = create_engine(sqlalchemy_url(url))
    told = (
        "SELECT c.name, s.name, s.state, v.topic FROM consumers AS c"
        " JOIN subscriptions AS s ON s.consumer_id = c.id JOIN views AS v ON v.id = s.view_id"
    )
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO consumers (id, name) VALUES ('c0000000000000000', 'desk');"
                "INSERT INTO views (id, topic, spec) VALUES ('0000000000000000', 't', '{}');"
                "INSERT INTO subscriptions (id, consumer_id, view_id, name, start, plan)"
                " VALUES ('s0000000000000000', 'c0000000000000000', '0000000000000000',"
                " 's', 'latest', 1)"
            )
        for before, revision in pairwise(revisions):
            command.upgrade(config(url), revision)
            there = tables(url)
            command.downgrade(config(url), before)
            command.upgrade(config(url), revision)
            assert tables(url) == there, revision
            with engine.connect() as connection:
                found = connection.exec_driver_sql(told).all()
            assert found == [("desk", "s", "pending", "t")], revision
        assert tables(url) == TABLES
    finally:
        engine.dispose()


def test_models_and_migrations_describe_the_same_tables(database_url: str) -> None:
    engine = create_engine(sqlalchemy_url(database_url))
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, Base.metadata) == []
    finally:
        engine.dispose()


def test_what_somebody_changes_is_told_to_the_audit_log(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'audit_change'"
        ).fetchall()
    assert {table for (table,) in found} == AUDITED


def test_the_code_is_written_against_the_newest_migration(database_url: str) -> None:
    assert ScriptDirectory.from_config(config(database_url)).get_current_head() == SCHEMA_REVISION


async def test_the_revision_of_a_database_is_known(postgresql: Server, database: Database) -> None:
    assert await database.schema_revision() == SCHEMA_REVISION
    empty = Database(postgresql.create())
    try:
        assert await empty.schema_revision() is None
    finally:
        await empty.close()


def test_who_goes_back_behind_priorities_keeps_the_other_rules_in_their_order(
    postgresql: Server,
) -> None:
    """A control plane that knows no such rule would take it for one that denies."""
    url = postgresql.create()
    command.upgrade(config(url), "head")
    engine = create_engine(sqlalchemy_url(url))
    kept = [{"name": "brake", "effect": "deny"}, {"name": "all", "effect": "allow"}]
    first = {"name": "first", "effect": "prioritize", "priority": 3}
    try:
        with engine.begin() as connection:
            for place, rule in enumerate([first, *kept], start=1):
                connection.exec_driver_sql(
                    "INSERT INTO rules (id, name, predicate, consumers, effect, priority, enabled,"
                    " position) VALUES (%s, %s, 'null', '{}', %s, %s, true, %s)",
                    (f"u{place:016x}", rule["name"], rule["effect"], rule.get("priority"), place),
                )
            for version, rules in enumerate(([first], kept, [kept[0], first, kept[1]]), start=2):
                connection.exec_driver_sql(
                    "INSERT INTO rule_list_versions (version, rules, plan) VALUES (%s, %s, 1)",
                    (version, json.dumps(rules)),
                )
        command.downgrade(config(url), "0028")
        with engine.connect() as connection:
            rules = connection.exec_driver_sql("SELECT name, position FROM rules ORDER BY position")
            assert rules.all() == [("brake", 1), ("all", 2)]
            lists = "SELECT rules FROM rule_list_versions ORDER BY version"
            assert connection.exec_driver_sql(lists).scalars().all() == [[], [], kept, kept]
        command.upgrade(config(url), "head")
    finally:
        engine.dispose()


async def test_migrations_started_at_once_wait_for_each_other(postgresql: Server) -> None:
    url = postgresql.create()
    await asyncio.gather(
        *(asyncio.to_thread(_migrate_in_a_process, url) for _ in range(2)),
    )
    assert "plans" in tables(url)


def _migrate_in_a_process(url: str) -> None:
    ini = str(REPOSITORY_ROOT / "migrations" / "alembic.ini")
    subprocess.run(
        [sys.executable, "-m", "alembic", "-c", ini, "upgrade", "head"],
        env={**os.environ, "DDS_DATABASE_URL": url},
        cwd=REPOSITORY_ROOT.parent,
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize(
    ("url", "query"),
    [
        ("postgres://u@h:1/d", {}),
        ("postgresql://u@h:1/d", {}),
        ("postgresql+psycopg://u@h:1/d", {}),
        ("postgresql://u:@/d?host=/folder", {"host": "/folder"}),
    ],
)
def test_any_usual_url_becomes_one_for_psycopg(url: str, query: dict[str, str]) -> None:
    made = sqlalchemy_url(url)
    assert made.drivername == "postgresql+psycopg"
    assert made.database == "d"
    assert dict(made.query) == query
