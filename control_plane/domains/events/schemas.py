"""Events as they travel: the `data` of a server-sent event."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta


class EventType(StrEnum):
    """What has changed. `data` beside each; `name` in it is that of what has changed."""

    CONSUMER_CREATED = "consumer.created"
    """name"""
    CONSUMER_CHANGED = "consumer.changed"
    """name, changed (fields), plan (from which it holds; null when none was made)"""
    CONSUMER_SUSPENDED = "consumer.suspended"
    """as consumer.changed"""
    CONSUMER_RESUMED = "consumer.resumed"
    """as consumer.changed"""
    CONSUMER_DELETED = "consumer.deleted"
    """name"""
    SUBSCRIPTION_CREATED = "subscription.created"
    """name, state, plan"""
    SUBSCRIPTION_ACTIVE = "subscription.active"
    """name, state, plan"""
    SUBSCRIPTION_MOVED = "subscription.moved"
    """name, state, plan: it has another topic from that plan on; reason: entitlements, rules,
    changed, backlog, rollback"""
    SUBSCRIPTION_CONFLATED = "subscription.conflated"
    """name, state, plan, every_ms, beyond (the size of its backlog by each limit)"""
    SUBSCRIPTION_UNCONFLATED = "subscription.unconflated"
    """name, state, plan, reason: backlog, or as of subscription.moved what ended it"""
    SUBSCRIPTION_PAUSED = "subscription.paused"
    """name, state, plan, reason: asked, or backlog with `beyond` (its size by each limit)"""
    SUBSCRIPTION_DROPPED = "subscription.backlog_dropped"
    """name, state, plan, messages (how many, all partitions), beyond (its size by each limit)"""
    SUBSCRIPTION_RESUMED = "subscription.resumed"
    """name, state, plan"""
    SUBSCRIPTION_CHANGED = "subscription.changed"
    """name, state, plan"""
    SUBSCRIPTION_HEALTH = "subscription.health"
    """name, state, plan, health (healthy, lagging, stalled, gone), before (likewise), reason"""
    SUBSCRIPTION_DRAINING = "subscription.draining"
    """name, state, plan (the first without it), until (when it is closed)"""
    SUBSCRIPTION_CLOSED = "subscription.closed"
    """name, state, plan (the one without it)"""
    GROUP_JOINED = "group.joined"
    """name (of the group), members (who came; names), size (members now)"""
    GROUP_LEFT = "group.left"
    """name, members (who is gone), size"""
    GROUP_REBALANCED = "group.rebalanced"
    """name, moved (partition, from, to; null for nobody), size"""
    SET_CREATED = "instrument_set.created"
    """name, id, version, instruments (how many), plan"""
    SET_CHANGED = "instrument_set.changed"
    """as instrument_set.created"""
    SET_DELETED = "instrument_set.deleted"
    """name, id"""
    RULE_CREATED = "rule.created"
    """name, id, effect, priority (of what prioritizes), enabled, position, plan (from which it
    holds)"""
    RULE_CHANGED = "rule.changed"
    """as rule.created"""
    RULE_DELETED = "rule.deleted"
    """name, plan"""
    RULES_ORDERED = "rules.ordered"
    """rules (their names in order), plan"""
    PUBLISHER_CREATED = "publisher.created"
    """name"""
    PUBLISHER_CHANGED = "publisher.changed"
    """name, changed (fields)"""
    PUBLISHER_DELETED = "publisher.deleted"
    """name"""
    TABLE_CREATED = "reference_table.created"
    """name, id, version, rows (how many), plan"""
    TABLE_CHANGED = "reference_table.changed"
    """as reference_table.created"""
    TABLE_DELETED = "reference_table.deleted"
    """name, id"""
    PLAN_CREATED = "plan.created"
    """plan, views (how many)"""
    PLAN_PUBLISHED = "plan.published"
    """plan, views (how many)"""
    PLAN_APPLIED = "plan.applied"
    """plan, instances (how many run it or a later one: all)"""
    FUNCTION_CHANGED = "function.changed"
    """name, state (running, drifted, down, not deployed), before (likewise), detail"""
    FUNCTION_REPAIRED = "function.repaired"
    """name, action, differs (attributes of the config)"""
    FUNCTION_NOT_REPAIRED = "function.not_repaired"
    """name, action, reason: it did not become healthy, and has its config from before again"""
    PLAN_ROLLED_BACK = "plan.rolled_back"
    """plan (from which it holds), to (the earlier plan), before (the newest one before), put_back
    (how many of each kind), kept (how many for each reason)"""
    OPERATION_DONE = "operation.done"
    """name (of what it was done to), id, kind"""
    OPERATION_FAILED = "operation.failed"
    """as operation.done"""
    LOGIN_FAILED = "login.failed"
    """times (requests without a token that holds since the last such event), reasons (each with how
    often)"""
    ACCESS_REFUSED = "access.refused"
    """times (requests that the caller's role does not allow), callers (at most 10, each with how
    often)"""
    CERTIFICATE_EXPIRING = "certificate.expiring"
    """name (what it is for: http, trust), expires_at, days (within so many)"""
    TOKEN_EXPIRING = "token.expiring"  # noqa: S105  (no password)
    """name (of the subject, who has no later one), role, id, expires_at"""
    SUBSCRIPTION_UNUSUAL = "subscription.unusual"
    """name, reason: rate with `rate` and `usual`, or redelivery with `rate` and `redelivery_rate`;
    all in messages a second"""
    GAPS_OPENED = "gaps.opened"
    """source, gaps (how many were found together), missing (events), examples (at most 10)"""
    GAPS_CLOSED = "gaps.closed"
    """as gaps.opened; missing is what did not come"""


LOST = "events.lost"
"""Told to a reader that goes on at a place which is no longer there."""


class EventOut(msgspec.Struct):
    """One thing that has changed."""

    number: Annotated[int, Meta(description="Its place in the order of events; its `id`.")]
    type: Annotated[
        str, Meta(description="Its `event`.", examples=[EventType.SUBSCRIPTION_ACTIVE.value])
    ]
    at: datetime
    consumer: Annotated[str | None, Meta(description="Id of the consumer, if it is about one.")]
    subscription: Annotated[str | None, Meta(description="Id, if it is about one.")]
    request_id: Annotated[str, Meta(description="The request that caused it; '' for none.")]
    data: dict[str, Any]


class LostOut(msgspec.Struct):
    """Events that a reader asked for and that are not there: list anew what is of interest."""

    asked: Annotated[int, Meta(description="The reader's `Last-Event-ID`.")]
    next: Annotated[int, Meta(description="Number of the first event that can still come.")]
