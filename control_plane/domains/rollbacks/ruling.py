"""Puts back the ordered routing rules, unless somebody could receive more by them than now.

Rules are one list, and its order decides: it is put back as a whole or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.consumers import repository as consumer_rows
from control_plane.domains.consumers.models import Consumer
from control_plane.domains.events.repository import Change
from control_plane.domains.events.schemas import EventType
from control_plane.domains.instrument_sets import repository as set_rows
from control_plane.domains.rollbacks.outcome import Outcome
from control_plane.domains.rules import changes, repository
from control_plane.domains.rules.models import RuleRow
from control_plane.domains.rules.policy import Policy, Rule
from control_plane.domains.rules.storing import store, told_of
from control_plane.errors import InvalidRequestError
from marketdata.entitlements import Entitlements

_NAME = "routing rules"
_TOLD = 10


class Ruling:
    """The rules of now, and those that are put back.

    Attributes:
        before, after: what they say; one and the same where they are not put back.
    """

    def __init__(self, rows: dict[str, RuleRow], now: Policy) -> None:
        self.before = self.after = now
        self._rows = rows
        self._touched: list[RuleRow] = []

    @classmethod
    async def now(cls, session: AsyncSession) -> Ruling:
        """The rules as they are; they stay so under Lock.PLAN_SEQUENCE."""
        rows = {row.id: row for row in await repository.ordered(session)}
        rules = list(map(repository.rule_of, rows.values()))
        return cls(rows, Policy(rules, await repository.origins_for(session, rules)))

    @property
    def sets(self) -> frozenset[str]:
        """The instrument sets that enabled rules of now name to allow or deny something."""
        deciding = (rule for rule in self.before.rules if rule.enabled and not rule.prioritizes)
        return frozenset().union(*(rule.condition.sets for rule in deciding))

    async def put_back(
        self, session: AsyncSession, then: Sequence[Rule] | None, outcome: Outcome, *, widen: bool
    ) -> None:
        """Let the rules be those of `then`; None where these are not known."""
        now = self.before.rules
        if then is None:
            detail = "what the rules were as of that plan was not kept"
            outcome.keep("rules", _NAME, "not_kept", detail)
            return
        if tuple(then) == now:
            return
        origins = await repository.origins_for(session, [*now, *then])
        try:
            for rule in then:
                held = await set_rows.contents(session, rule.condition.sets)
                changes.names_known(rule, held, origins)
        except InvalidRequestError as error:
            outcome.keep("rules", _NAME, "refused", str(error))
            return
        after = Policy(then, origins)
        if not widen:
            consumers = await consumer_rows.all_of(session)
            more = await asyncio.to_thread(_widened, consumers, self.before, after)
            if more:
                told = ", ".join(more[:_TOLD]) + (" and others" if len(more) > _TOLD else "")
                detail = f"by them these consumers may receive more than now: {told}"
                outcome.keep("rules", _NAME, "would_widen", detail)
                return
        self._touched = await store(session, self._rows, now, then)
        self.after = after
        outcome.put("rules", _NAME, _listed(now), _listed(then))

    async def hold_from(self, session: AsyncSession, plan: int) -> list[Change]:
        """Note the plan from which the rules hold; gives the events of them."""
        now, then = self.before.rules, self.after.rules
        if now == then:
            return []
        for row in self._touched:
            row.plan = plan
        await repository.add_version(session, then, plan)
        gone = [rule.name for rule in now if all(rule.id != each.id for each in then)]
        told = told_of(EventType.RULE_DELETED, (), gone, then, plan) if gone else []
        told += told_of(EventType.RULE_CHANGED, self._touched, (), then, plan)
        return [*told, *told_of(EventType.RULES_ORDERED, (), (), then, plan)]


def _widened(consumers: Sequence[Consumer], now: Policy, then: Policy) -> list[str]:
    """The names of consumers of which it is not certain that they may receive no more than now.

    What is within another filter is left as it is by an AND with that; where the normal form does
    not show it, it counts as more.
    """
    more = []
    for consumer in consumers:
        # Not by whether it is suspended: that may end at any time.
        entitled = msgspec.convert(consumer.entitlements, Entitlements)
        old, new = (policy.within(consumer, entitled).events for policy in (then, now))
        if old != new and old & new != old:
            more.append(consumer.name)
    return more


def _listed(rules: Sequence[Rule]) -> dict[str, list[str]]:
    return {
        "enabled": [rule.name for rule in rules if rule.enabled],
        "disabled": [rule.name for rule in rules if not rule.enabled],
    }
