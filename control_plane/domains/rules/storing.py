"""Writes what the rules are from now on, and what is told of it; in the session's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.events.repository import Change
from control_plane.domains.events.schemas import EventType
from control_plane.domains.rules import repository
from control_plane.domains.rules.models import RuleRow
from control_plane.domains.rules.policy import Rule
from control_plane.requests import current_request_id
from control_plane.rows import touch


async def store(
    session: AsyncSession,
    rows: dict[str, RuleRow],
    before: Sequence[Rule],
    after: Sequence[Rule],
) -> list[RuleRow]:
    """Write the rules; gives the rows of those that are new, other, moved or there again.

    A rule that only makes room for another one is not touched: what it says of an event depends on
    all of those ahead of it anyhow.

    Args:
        rows: those of `before` by id; those of `after` when this is done.
    """
    known = {rule.id: rule for rule in before}
    there = {rule.id for rule in after}
    moved = _moved(
        [rule.id for rule in before if rule.id in there],
        [rule.id for rule in after if rule.id in known],
    )
    for rule in before:
        if rule.id not in there:
            row = rows.pop(rule.id)
            row.deleted_at, row.position = datetime.now(UTC), None
            touch(row)
    await _free_names(session, rows, after)
    touched = []
    for place, rule in enumerate(after, start=1):
        found = rows.get(rule.id) or await session.get(RuleRow, rule.id)
        row = rows[rule.id] = found or RuleRow(id=rule.id, version=0)
        session.add(row)
        if rule != known.get(rule.id) or rule.id in moved:
            repository.take(row, rule)
            row.deleted_at = None
            touch(row)
            row.correlation_id = current_request_id()
            touched.append(row)
        row.position = place
    await session.flush()
    return touched


async def _free_names(
    session: AsyncSession, rows: dict[str, RuleRow], after: Sequence[Rule]
) -> None:
    """Let names be taken by others, and exchanged: no two rules may have one meanwhile either."""
    await session.flush()
    renamed = [
        rows[rule.id] for rule in after if rule.id in rows and rows[rule.id].name != rule.name
    ]
    if len(renamed) > 1 or (renamed and len(after) > len(rows)):
        for row in renamed:
            row.name = row.id
        await session.flush()


def told_of(
    what: EventType,
    touched: Sequence[RuleRow],
    gone: Sequence[str],
    after: Sequence[Rule],
    plan: int,
) -> list[Change]:
    """The events of a change.

    Args:
        what: what was done.
        gone: names of rules that are deleted.
    """
    if what is EventType.RULES_ORDERED:
        return [Change(what, {"rules": [rule.name for rule in after], "plan": plan})]
    if gone:
        return [Change(what, {"name": name, "plan": plan}) for name in gone]
    return [
        Change(
            what,
            {
                "name": row.name,
                "id": row.id,
                "effect": row.effect,
                "priority": row.priority,
                "enabled": row.enabled,
                "position": row.position,
                "plan": plan,
            },
        )
        for row in touched
    ]


def _moved(before: Sequence[str], after: Sequence[str]) -> set[str]:
    """Which rules have changed places: one that others made room for has not.

    >>> sorted(_moved(["a", "b", "c"], ["c", "a", "b"]))
    ['c']
    """
    for key in before:
        others = [each for each in after if each != key]
        if others == [each for each in before if each != key]:
            return set() if before == after else {key}
    return {key for key, was in zip(after, before, strict=True) if key != was}
