"""Rules of routing rules: a change, the views that it makes and their plan commit together.

Rules are one more condition in the views of the consumers that they select, beside entitlements
(decision 58). So a change that makes a difference to a subscription moves it to another view, from
one plan on, and a change that makes none does nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import structlog

from control_plane.database import Database, Lock, lock
from control_plane.domains.events.repository import record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.instrument_sets import repository as set_rows
from control_plane.domains.rules import changes, repository
from control_plane.domains.rules.following import follow_policy
from control_plane.domains.rules.models import RuleRow
from control_plane.domains.rules.policy import Policy, Rule, shadow_of
from control_plane.domains.rules.schemas import (
    RuleCreate,
    RuleOrder,
    RuleOut,
    RulesOut,
    RuleUpdate,
)
from control_plane.domains.rules.storing import store, told_of
from control_plane.domains.subscriptions.service import Publication
from control_plane.pages import Page, check_match, decode_number

log = structlog.get_logger(__name__)

Edit = Callable[[Sequence[Rule]], list[Rule]]


class RuleService:
    """Make, order, describe, change and delete routing rules."""

    def __init__(
        self,
        database: Database,
        publication: Publication,
        *,
        drain_seconds: float,
        wait_seconds: float,
    ) -> None:
        self._database = database
        self._publication = publication
        self._drain_seconds = drain_seconds
        self._wait_seconds = wait_seconds

    async def create(self, data: RuleCreate) -> tuple[RuleOut, int]:
        """Make a rule; gives its version too.

        Raises:
            InvalidRequestError: the condition is refused, or the rule can never match; or a
                subscription's condition would cost too much with it.
            ConflictError: the name is taken, or there are too many rules.
        """
        key = repository.new_rule_id()
        rows = await self._edit(
            lambda rules: changes.made(rules, data, key), EventType.RULE_CREATED
        )
        log.info("routing rule made", rule=data.name)
        return _told(rows, key)

    async def get(self, key: str) -> tuple[RuleOut, int]:
        """The rule with this id or name, and its version."""
        async with self._database.transaction() as session:
            rows = await repository.ordered(session)
        return _told(rows, changes.find(list(map(repository.rule_of, rows)), key).id)

    async def page(self, *, cursor: str | None, limit: int) -> tuple[Page[RuleOut], str]:
        """One page of rules in their order, and the version of that order.

        The cursor is the last position seen.
        """
        behind = decode_number(cursor, most_digits=9) if cursor is not None else 0
        async with self._database.transaction() as session:
            rows = await repository.ordered(session)
        items = [out for out in _outs(rows) if out.position > behind]
        more = len(items) > limit
        page = Page(items[:limit], str(items[limit - 1].position) if more else None)
        return page, _order_version(row.id for row in rows)

    async def update(self, key: str, data: RuleUpdate, if_match: str | None) -> tuple[RuleOut, int]:
        """Change what `data` names; gives the new version too.

        Raises:
            PreconditionFailedError: If-Match does not hold.
            InvalidRequestError, ConflictError: as of a new rule.
        """
        found: list[str] = []

        def edit(rules: Sequence[Rule]) -> list[Rule]:
            found.append(changes.find(rules, key).id)
            return changes.changed(rules, key, data)

        rows = await self._edit(edit, EventType.RULE_CHANGED, key=key, if_match=if_match)
        log.info("routing rule changed", rule=found[0])
        return _told(rows, found[0])

    async def order(self, data: RuleOrder, if_match: str | None) -> tuple[RulesOut, str]:
        """Give the rules another order, all at once; gives the version of that order too.

        Raises:
            PreconditionFailedError: If-Match does not hold: the order is another one by now.
            InvalidRequestError: not every rule is named once.
        """
        rows = await self._edit(
            lambda rules: changes.ordered(rules, data.rules),
            EventType.RULES_ORDERED,
            if_match=if_match,
        )
        log.info("routing rules ordered", rules=[row.name for row in rows])
        out = RulesOut(_outs(rows), max((row.plan for row in rows), default=0))
        return out, _order_version(row.id for row in rows)

    async def delete(self, key: str, if_match: str | None) -> None:
        """Delete a rule; what only it denied is delivered from a plan on."""
        await self._edit(
            lambda rules: changes.without(rules, key),
            EventType.RULE_DELETED,
            key=key,
            if_match=if_match,
        )
        log.info("routing rule deleted", rule=key)

    async def _edit(
        self, edit: Edit, what: EventType, *, key: str | None = None, if_match: str | None = None
    ) -> list[RuleRow]:
        """Change the rules and let subscriptions follow; gives the rows in their order.

        If-Match is about the rule of `key`, and about the order of all where there is none.
        """
        async with self._database.transaction() as session:
            await lock(session, Lock.PLAN_SEQUENCE)
            rows = {row.id: row for row in await repository.ordered(session)}
            before = list(map(repository.rule_of, rows.values()))
            if key is None:
                check_match(if_match, _order_version(rows))
            else:
                check_match(if_match, rows[changes.find(before, key).id].version)
            after = edit(before)
            if after == before:
                return list(rows.values())
            origins = await repository.origins_for(session, [*before, *after])
            different = [rule for rule in after if rule not in before]
            for rule in different:
                held = await set_rows.contents(session, rule.condition.sets)
                changes.names_known(rule, held, origins)
            touched = await store(session, rows, before, after)
            plan = await follow_policy(
                session,
                Policy(before, origins),
                Policy(after, origins),
                drain_seconds=self._drain_seconds,
            )
            for row in touched:
                row.plan = plan
            await repository.add_version(session, after, plan)
            gone = [rule.name for rule in before if all(rule.id != each.id for each in after)]
            await record(session, *told_of(what, touched, gone, after, plan))
            for row in touched:
                await session.refresh(row)
        await self._publication.published(self._wait_seconds)
        return [rows[rule.id] for rule in after]


def _order_version(ids: Iterable[str]) -> str:
    """Another one for every order of other rules; what a rule says makes no difference."""
    return hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16]


def _told(rows: Sequence[RuleRow], key: str) -> tuple[RuleOut, int]:
    out = next(each for each in _outs(rows) if each.id == key)
    return out, next(row.version for row in rows if row.id == key)


def _outs(rows: Sequence[RuleRow]) -> list[RuleOut]:
    rules = list(map(repository.rule_of, rows))
    return [_out(row, rule, rules) for row, rule in zip(rows, rules, strict=True)]


def _out(row: RuleRow, rule: Rule, rules: Sequence[Rule]) -> RuleOut:
    shadow = shadow_of(rule, rules)
    return RuleOut(
        id=rule.id,
        name=rule.name,
        description=rule.description,
        when=rule.when,
        canonical_when=rule.condition.canonical,
        origin_regions=rule.origin_regions,
        origin_regions_except=rule.origin_regions_except,
        consumers=rule.consumers,
        effect=rule.effect,
        priority=rule.priority,
        enabled=rule.enabled,
        position=row.position or 0,
        shadowed_by=shadow.name if shadow else None,
        plan=row.plan,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
