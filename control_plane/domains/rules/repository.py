"""Queries on routing rules; each runs in the transaction of the session given."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.publishers import repository as publisher_rows
from control_plane.domains.rules.models import RuleListVersion, RuleRow
from control_plane.domains.rules.policy import Origins, Policy, Rule
from control_plane.requests import current_request_id
from marketdata.filters import Filter
from marketdata.routing_rules import Effect, Selector

_TOLD = tuple(name for name in Rule.__struct_fields__ if name != "condition")
"""What is told of a rule beside its condition, whose text is among it."""


def new_rule_id() -> str:
    """A fresh id; all have one length."""
    return "u" + secrets.token_hex(8)


async def ordered(session: AsyncSession) -> Sequence[RuleRow]:
    """The rules in their order."""
    query = select(RuleRow).where(RuleRow.deleted_at.is_(None)).order_by(RuleRow.position)
    return (await session.scalars(query)).all()


async def policy(session: AsyncSession) -> Policy:
    """What the rules say now. It holds until the transaction ends under Lock.PLAN_SEQUENCE."""
    rules = list(map(rule_of, await ordered(session)))
    return Policy(rules, await origins_for(session, rules))


async def origins_for(session: AsyncSession, rules: Sequence[Rule]) -> Origins:
    """The sources of regions, where rules ask for them."""
    asked = any(rule.by_origin for rule in rules)
    return await publisher_rows.origins(session) if asked else {}


async def are_naming(session: AsyncSession, set_name: str) -> bool:
    """Whether the condition of a rule, enabled or not, names an instrument set."""
    rules = map(rule_of, await ordered(session))
    return any(set_name in rule.condition.sets for rule in rules)


def rule_of(row: RuleRow) -> Rule:
    """A row as a rule."""
    return Rule(
        id=row.id,
        name=row.name,
        description=row.description,
        when=row.condition,
        condition=_condition(msgspec.json.encode(row.predicate)),
        origin_regions=_listed(row.origin_regions),
        origin_regions_except=_listed(row.origin_regions_except),
        consumers=msgspec.convert(row.consumers, Selector),
        effect=msgspec.convert(row.effect, Effect),
        enabled=row.enabled,
        priority=row.priority,
    )


def take(row: RuleRow, rule: Rule) -> None:
    """Give a row what a rule is."""
    row.name, row.description = rule.name, rule.description
    row.condition, row.predicate = rule.when, rule.condition.to_json()
    row.origin_regions = _stored(rule.origin_regions)
    row.origin_regions_except = _stored(rule.origin_regions_except)
    row.consumers = msgspec.to_builtins(rule.consumers)
    row.effect, row.priority, row.enabled = rule.effect, rule.priority, rule.enabled


async def add_version(session: AsyncSession, rules: Sequence[Rule], plan: int) -> None:
    """Keep what all rules are from a plan on; the caller holds Lock.PLAN_SEQUENCE."""
    newest = await session.scalar(select(func.max(RuleListVersion.version)))
    stored = [
        {
            **{name: getattr(rule, name) for name in _TOLD},
            "predicate": rule.condition.to_json(),
        }
        for rule in rules
    ]
    session.add(
        RuleListVersion(
            version=int(newest or 0) + 1,
            rules=msgspec.to_builtins(stored),
            plan=plan,
            correlation_id=current_request_id(),
        )
    )
    await session.flush()


async def rules_of(session: AsyncSession, plan: int) -> list[Rule] | None:
    """The rules when the plan behind one was made; None where that is not known."""
    query = (
        select(RuleListVersion.rules)
        .where(RuleListVersion.plan <= plan)
        .order_by(RuleListVersion.version.desc())
        .limit(1)
    )
    stored = await session.scalar(query)
    return None if stored is None else list(map(_kept_rule, stored))


def _kept_rule(stored: dict[str, Any]) -> Rule:
    # Versions from before there was a member lack it.
    members = {name: stored[name] for name in _TOLD if name in stored} | {
        "origin_regions": _listed(stored["origin_regions"]),
        "origin_regions_except": _listed(stored["origin_regions_except"]),
        "consumers": msgspec.convert(stored["consumers"], Selector),
    }
    return Rule(condition=_condition(msgspec.json.encode(stored["predicate"])), **members)


def _listed(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _stored(values: tuple[str, ...] | None) -> list[str] | None:
    return None if values is None else list(values)


@lru_cache(maxsize=1024)
def _condition(predicate: bytes) -> Filter:
    return Filter.from_json(msgspec.json.decode(predicate))
