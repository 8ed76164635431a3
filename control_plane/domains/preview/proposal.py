"""From a proposed change to the views that each subscription has now, and would have.

The checks are those of the requests that would make the change, so what they refuse is refused
here, too, and `/create/0/filter` is where. Nothing is stored.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec import UNSET
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.consumers import repository as consumer_rows
from control_plane.domains.consumers.models import Consumer
from control_plane.domains.instrument_sets import repository as set_rows
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.plans.differences import names_any
from control_plane.domains.preview.comparison import Pair, Sets, Tables
from control_plane.domains.preview.schemas import Proposal, SubscriptionChange
from control_plane.domains.reference_tables import repository as table_rows
from control_plane.domains.rules import changes as rule_changes
from control_plane.domains.rules import repository as rule_rows
from control_plane.domains.rules.following import bounds_changed
from control_plane.domains.rules.policy import Policy, Rule
from control_plane.domains.subscriptions import backlog, beginnings, changes
from control_plane.domains.subscriptions import repository as subscription_rows
from control_plane.domains.subscriptions.conflated import left_of
from control_plane.domains.subscriptions.followed import Dependencies, dependencies
from control_plane.domains.subscriptions.models import ENDED, Subscription
from control_plane.domains.subscriptions.references import declared_spec, refers, taken_over
from control_plane.domains.subscriptions.schemas import SubscriptionCreate, SubscriptionUpdate
from control_plane.domains.subscriptions.served import require_served
from control_plane.domains.subscriptions.view_check import (
    checked_transformation,
    entitled_spec,
    named_tables,
    require_receiving,
    require_sets,
)
from control_plane.domains.transformations import repository as transformation_rows
from control_plane.errors import (
    ConflictError,
    FieldProblem,
    ForbiddenError,
    InvalidRequestError,
    at_pointer,
)
from marketdata.entitlements import Bounds, Entitlements
from marketdata.plans import View, ViewSpec, sets_of, tables_of, view_of
from marketdata.transformations import Transformation

MOST_SUBSCRIPTIONS = 100
"""So many subscriptions are told of at most."""

MOST_ROWS = 1_000
"""So many subscriptions are looked at that a change of entitlements or sets may affect."""

What = Literal["create", "change", "delete"]


@dataclass(frozen=True, slots=True)
class Affected:
    """A subscription with its views; `id` is None for one that would be made."""

    id: str | None
    consumer: str
    consumer_name: str
    name: str
    what: What
    pair: Pair


@dataclass(frozen=True, slots=True)
class Proposed:
    """What a change comes to.

    Attributes:
        plan: the newest one.
        cut: more subscriptions are affected than `affected` holds.
        sets_before, sets_after: at least the instrument sets that the views name.
        tables: the reference tables that the views name, as they are now.
        not_before: the caller may not see samples of events from before.
        delay_seconds: nor of events that are not so old yet.
    """

    plan: int
    affected: list[Affected]
    cut: bool
    sets_before: Sets
    sets_after: Sets
    tables: Tables
    not_before: datetime | None
    delay_seconds: int


@dataclass(slots=True)
class _Effective:
    """What would hold with the change, beside what is stored."""

    policy: Policy
    before: Policy
    entitlements: dict[str, Entitlements] = field(default_factory=dict)
    sets: dict[str, list[str]] = field(default_factory=dict)
    transformations: dict[str, Transformation] = field(default_factory=dict)
    lanes: Collection[str] = ()
    only: str | None = None
    waiting: Dependencies | None = None

    async def dependencies(self, session: AsyncSession) -> Dependencies:
        """Which workflows wait for which, with what was looked at of the change before."""
        if self.waiting is None:
            self.waiting = await dependencies(session, only=self.only)
        return self.waiting

    def entitled(self, consumer: Consumer) -> Entitlements:
        """What a consumer is entitled to."""
        return self.entitlements.get(consumer.id, consumer.allowed)

    def allowed(self, consumer: Consumer) -> Bounds:
        """What a consumer may receive."""
        return self.policy.within(consumer, self.entitled(consumer))


async def propose(
    session: AsyncSession, data: Proposal, *, lanes: Collection[str], only: str | None
) -> Proposed:
    """What a proposal comes to.

    `lanes` are those that functions have which have been seen running.

    `only` is the id of the one consumer of whose subscriptions the caller may know.

    Raises:
        InvalidRequestError, NotFoundError, ConflictError: a request for the change would be
            refused so.
        ForbiddenError: it changes what only the platform team changes.
    """
    _require_own(data, only)
    _require_once(data)
    before = await rule_rows.policy(session)
    changed = _Effective(before, before, lanes=lanes, only=only)
    for number, version in enumerate(data.transformations):
        with at_pointer(f"/transformations/{number}"):
            tables = await table_rows.specs(session, named_tables(version.transformation))
            checked = await asyncio.to_thread(
                checked_transformation, version.transformation, tables
            )
        following = await transformation_rows.next_version(session, version.name)
        changed.transformations[f"{version.name}@{following}"] = checked
    held = await set_rows.contents(session, list(data.instrument_sets))
    for name, set_change in data.instrument_sets.items():
        with at_pointer(f"/instrument_sets/{name}"):
            changed.sets[name] = sorted(set_change.applied_to(held.get(name, ())))
    for key, bounds in data.entitlements.items():
        consumer = await consumer_rows.find(session, key)
        allowed = bounds.applied_to(msgspec.convert(consumer.entitlements, Entitlements))
        entitling = allowed.instrument_sets or ()
        _require_there(
            key, entitling, {*await set_rows.contents(session, entitling), *changed.sets}
        )
        if not consumer.suspended:
            changed.entitlements[consumer.id] = allowed
    await _set_rules(session, data, changed)
    affected = [
        *[
            await _created(session, data, number, changed, only)
            for number in range(len(data.create))
        ],
        *[
            await _changed(session, data, number, changed, only)
            for number in range(len(data.change))
        ],
        *[await _deleted(session, key, only) for key in data.delete],
    ]
    others, more = await _others(session, {each.id for each in affected}, changed)
    affected += others
    newest = await plan_rows.newest(session)
    return Proposed(
        plan=newest.number if newest else 0,
        affected=affected[:MOST_SUBSCRIPTIONS],
        cut=more or len(affected) > MOST_SUBSCRIPTIONS,
        not_before=await _not_before(session, only),
        delay_seconds=await _delay_seconds(session, only),
        tables=await _tables(session, affected),
        **await _sets(session, affected, changed),
    )


async def _set_rules(session: AsyncSession, data: Proposal, changed: _Effective) -> None:
    """Let the proposed rules hold."""
    if data.rules is UNSET:
        return
    rules: Sequence[Rule] = changed.before.rules
    for number, asked in enumerate(data.rules.create):
        with at_pointer(f"/rules/create/{number}"):
            rules = rule_changes.made(rules, asked, f"proposed-{number}")
            await _require_known(session, rule_changes.find(rules, asked.name), changed)
    for key, change in data.rules.change.items():
        with at_pointer(f"/rules/change/{key}"):
            known = rule_changes.find(rules, key).id
            rules = rule_changes.changed(rules, key, change)
            await _require_known(session, rule_changes.find(rules, known), changed)
    for key in data.rules.delete:
        rules = rule_changes.without(rules, key)
    if data.rules.order is not UNSET:
        with at_pointer("/rules/order"):
            rules = rule_changes.ordered(rules, data.rules.order)
    origins = await rule_rows.origins_for(session, rules)
    changed.policy = Policy(rules, origins)


async def _require_known(session: AsyncSession, rule: Rule, changed: _Effective) -> None:
    """Refuse a rule that names a set or a region of origin that is not there."""
    held = await set_rows.contents(session, rule.condition.sets)
    origins = await rule_rows.origins_for(session, [rule])
    rule_changes.names_known(rule, {*held, *changed.sets}, origins)


async def _created(
    session: AsyncSession, data: Proposal, number: int, changed: _Effective, only: str | None
) -> Affected:
    asked = data.create[number]
    consumer = await consumer_rows.find(session, asked.consumer, only=only)
    require_receiving(consumer)
    with at_pointer(f"/create/{number}"):
        backlog.check(asked.on_backlog)
        beginnings.check(asked.start, datetime.now(UTC))
        after = await _view(session, asked, consumer, changed)
    return Affected(None, consumer.id, consumer.name, asked.name, "create", Pair(None, after))


async def _changed(
    session: AsyncSession, data: Proposal, number: int, changed: _Effective, only: str | None
) -> Affected:
    change = data.change[number]
    row = await _live(session, change.subscription, only)
    with at_pointer(f"/change/{number}"):
        asked = _asked(row, change)
        after = await _view(session, asked, row.consumer, changed, row.conflate_ms)
    return _affected(row, "change", after)


async def _deleted(session: AsyncSession, key: str, only: str | None) -> Affected:
    return _affected(await _live(session, key, only), "delete", None)


async def _others(
    session: AsyncSession, named: Collection[str | None], changed: _Effective
) -> tuple[list[Affected], bool]:
    """Subscriptions that other entitlements or sets change; whether there may be more."""
    ruled = await bounds_changed(session, changed.before, changed.policy)
    rows = await subscription_rows.live_among(
        session,
        consumers=[*changed.entitlements, *ruled],
        views=await plan_rows.live_views_naming(session, changed.sets),
        limit=MOST_ROWS + 1,
    )
    affected = []
    for row in rows[:MOST_ROWS]:
        spec = msgspec.convert(row.spec, ViewSpec)
        after = view_of(left_of(spec, changed.allowed(row.consumer), row.conflate_ms).spec)
        other = after.id != row.view_id or names_any(after, changed.sets)
        if row.id not in named and other:
            had = msgspec.convert(row.view.spec, ViewSpec)
            require_served(f"{row.name!r} ({row.id})", after.delivery, had.delivery)
            affected.append(_affected(row, "change", after))
    return affected, len(rows) > MOST_ROWS


async def _view(
    session: AsyncSession,
    asked: SubscriptionCreate,
    consumer: Consumer,
    changed: _Effective,
    conflate_ms: int | None = None,
) -> View:
    """The view that a consumer would get for what it asks for.

    Args:
        conflate_ms: at which intervals it is conflated because of its backlog; None for not at all.
    """
    if refers(asked):
        taken = changed.transformations.get(str(asked.shared_transformation))
        if taken is None:
            asked, _ = await taken_over(session, asked)
        else:
            asked = msgspec.structs.replace(asked, transformation=taken)
    spec = await declared_spec(session, asked)
    known = {*await set_rows.contents(session, sets_of([spec])), *changed.sets}
    require_sets(asked, spec, known)
    entitled = changed.entitled(consumer)
    left = entitled_spec(
        asked, spec, consumer, changed.policy, entitled, changed.lanes, conflate_ms
    )
    if spec.delivery.follows:
        (await changed.dependencies(session)).require_none(consumer.workflow, spec.delivery)
    return view_of(left.spec)


def _asked(row: Subscription, change: SubscriptionChange) -> SubscriptionCreate:
    """What would be asked for: what was, with what is named in its place."""
    named = {name: getattr(change, name) for name in changes.VIEW_MEMBERS}
    return changes.asked_after(changes.asked(row), SubscriptionUpdate(**named))


async def _live(session: AsyncSession, key: str, only: str | None) -> Subscription:
    row = await subscription_rows.find(session, key, only=only)
    if row.state in ENDED:
        raise ConflictError(f"The subscription {key!r} has ended and can no longer be changed.")
    return row


def _affected(row: Subscription, what: What, after: View | None) -> Affected:
    before = view_of(msgspec.convert(row.view.spec, ViewSpec))
    pair = Pair(before, after)
    return Affected(row.id, row.consumer_id, row.consumer.name, row.name, what, pair)


async def _sets(
    session: AsyncSession, affected: Collection[Affected], changed: _Effective
) -> dict[str, Sets]:
    """What the sets that views name hold now, and with the change."""
    views = (view for each in affected for view in (each.pair.before, each.pair.after))
    before = await set_rows.contents(session, sets_of(view for view in views if view is not None))
    return {"sets_before": before, "sets_after": before | changed.sets}


async def _tables(session: AsyncSession, affected: Collection[Affected]) -> Tables:
    """The reference tables that views name."""
    views = (view for each in affected for view in (each.pair.before, each.pair.after))
    return await table_rows.tables(session, tables_of(view for view in views if view is not None))


async def _not_before(session: AsyncSession, only: str | None) -> datetime | None:
    """From when on a consumer may see events: what sets entitle it to holds for what comes then."""
    if only is None:
        return None
    consumer = await consumer_rows.find(session, only)
    allowed = (await rule_rows.policy(session)).allowed(consumer)
    newest = await set_rows.newest_versions(session, allowed.events.sets)
    return max((version.created_at for version in newest.values()), default=None)


async def _delay_seconds(session: AsyncSession, only: str | None) -> int:
    """How old events are at least that a consumer may see."""
    if only is None:
        return 0
    return (await consumer_rows.find(session, only)).allowed.minimum_delay_seconds or 0


def _require_own(data: Proposal, only: str | None) -> None:
    """Refuse what only the platform team changes."""
    if only is None:
        return
    given = [
        name
        for name in ("entitlements", "instrument_sets", "rules", "transformations")
        if getattr(data, name) not in (UNSET, {}, [])
    ]
    if given:
        raise ForbiddenError(f"Only the platform team changes {', '.join(given)}.")


def _require_there(consumer: str, named: Collection[str], known: Collection[str]) -> None:
    """Refuse entitlements by instrument sets that are not there."""
    missing = sorted(set(named) - set(known))
    if missing:
        detail = f"there is no instrument set {missing[0]!r}"
        pointer = f"/entitlements/{consumer}/instrument_sets"
        raise InvalidRequestError(f"entitlements: {detail}.", [FieldProblem(pointer, detail)])


def _require_once(data: Proposal) -> None:
    """Refuse what is named twice."""
    named = {
        "/change": [*(change.subscription for change in data.change), *data.delete],
        "/transformations": [version.name for version in data.transformations],
    }
    problems = [
        FieldProblem(pointer, f"{name!r} is named {count} times", hint="name it once")
        for pointer, names in named.items()
        for name, count in Counter(names).items()
        if count > 1
    ]
    if problems:
        raise InvalidRequestError("Something is named twice.", problems)
