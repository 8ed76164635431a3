"""The tables of subscriptions, with their state machine as constraints, moves and history."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, cast

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from control_plane.database import Base
from control_plane.domains.consumers.models import Consumer
from control_plane.domains.plans.models import ViewRow
from control_plane.domains.subscriptions.beginnings import Found
from control_plane.domains.subscriptions.health import STATES
from control_plane.domains.transformations.models import SharedTransformation
from control_plane.pulsar_values import MessagePosition

UNIQUE_NAME = "uq_subscriptions_consumer_name_live"


class State(StrEnum):
    """pending → active ⇄ paused → draining → closed; what may follow what is `NEXT`."""

    PENDING = "pending"
    ACTIVE = "active"
    PAUSED = "paused"
    DRAINING = "draining"
    CLOSED = "closed"


ACTING = (
    "coalesce(coalesce(nullif(current_setting('dds.acting', true), ''), '{}')::jsonb"
    " ->> 'actor', 'database')"
)
"""Who acts in a transaction, as SQL."""

IS_OPEN = "subscriptions.state <> 'closed'"
"""Those rows that are not closed, as SQL."""
LIMITED = "(on_backlog ->> 'policy' <> 'hold' OR conflated_since IS NOT NULL)"
"""Those rows of whose backlog something is done, or was, as SQL."""
PAUSED = "(paused_at IS NOT NULL OR blocked)"
"""Those rows that the broker is told of, or was, as SQL."""

CHANGED = "data ? 'before'"
"""Those entries of the history that say what was before, as SQL."""

LIVE = (State.PENDING, State.ACTIVE, State.PAUSED)
"""What plans are made for."""
ROUTED = (State.ACTIVE, State.PAUSED)
"""What the broker has a topic and a Pulsar subscription for."""
READ = (*ROUTED, State.DRAINING)
"""Whose consumer reads, or may again."""
OPEN = (*LIVE, State.DRAINING)
"""What is not closed."""
ENDED = (State.DRAINING, State.CLOSED)
"""What nothing new comes for, and what can no longer be changed."""

NEXT: Final[Mapping[State, frozenset[State]]] = {
    State.PENDING: frozenset({State.ACTIVE, State.PAUSED, *ENDED}),
    # Pending again when the view becomes another one.
    State.ACTIVE: frozenset({State.PENDING, State.PAUSED, *ENDED}),
    State.PAUSED: frozenset({State.PENDING, State.ACTIVE, *ENDED}),
    State.DRAINING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}
"""What a state may become. PostgreSQL refuses whatever else somebody writes (migration 0030)."""


NextStart = Literal["latest", "earliest"] | tuple[MessagePosition, ...]
"""Where a Pulsar subscription begins; in partitions without a position with the oldest message."""


def pulsar_name(consumer_id: str, subscription_id: str) -> str:
    """The name of a Pulsar subscription.

    It begins with the consumer's id, all of one length, so that a broker rule on the prefix
    cannot match another consumer.
    """
    return f"{consumer_id}-{subscription_id}"


class Subscription(Base):
    """One subscription of a consumer to a view."""

    __tablename__ = "subscriptions"
    __table_args__ = (
        Index(
            UNIQUE_NAME,
            "consumer_id",
            "name",
            unique=True,
            postgresql_where=text("state NOT IN ('draining', 'closed')"),
        ),
        Index("ix_subscriptions_view_live", "view_id", postgresql_where=text("state <> 'closed'")),
        Index(
            "ix_subscriptions_transformation_live",
            "transformation_id",
            postgresql_where=text("state <> 'closed'"),
        ),
        # In the order of lists: of what is live, of one state, of one consumer.
        Index(
            "ix_subscriptions_created_live",
            "created_at",
            "id",
            postgresql_where=text("state <> 'closed'"),
        ),
        Index("ix_subscriptions_state", "state", "created_at", "id"),
        Index("ix_subscriptions_consumer", "consumer_id", "created_at", "id"),
        # Both for a label with a value and for one with any.
        Index("ix_subscriptions_labels", "labels", postgresql_using="gin"),
        Index("ix_subscriptions_name", "name", "id"),
        Index("ix_subscriptions_pending", "plan", postgresql_where=text("state = 'pending'")),
        Index("ix_subscriptions_limited", "view_id", "id", postgresql_where=text(LIMITED)),
        Index("ix_subscriptions_paused", "id", postgresql_where=text(PAUSED)),
        Index(
            "ix_subscriptions_cursor_left",
            "closed_in_plan",
            postgresql_where=text("state = 'closed' AND cursor_removed_at IS NULL"),
        ),
        CheckConstraint("id ~ '^s[0-9a-f]{16}$'", name="id_form"),
        CheckConstraint("name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'", name="name_form"),
        CheckConstraint("\"group\" ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'", name="group_form"),
        CheckConstraint(
            "state IN ('pending', 'active', 'paused', 'draining', 'closed')", name="state_known"
        ),
        CheckConstraint("\"start\" IN ('latest', 'earliest', 'place')", name="start_known"),
        CheckConstraint(
            "(\"start\" = 'place') = (start_place IS NOT NULL)", name="start_place_complete"
        ),
        CheckConstraint("(state = 'closed') = (closed_at IS NOT NULL)", name="closed_complete"),
        CheckConstraint(
            "(state IN ('draining', 'closed')) = (closed_in_plan IS NOT NULL)",
            name="ended_complete",
        ),
        CheckConstraint(
            "state NOT IN ('active', 'draining') OR activated_at IS NOT NULL",
            name="active_complete",
        ),
        CheckConstraint(
            "state NOT IN ('active', 'draining') OR paused_at IS NULL", name="active_not_paused"
        ),
        CheckConstraint("state <> 'paused' OR paused_at IS NOT NULL", name="paused_complete"),
        CheckConstraint("cursor_removed_at IS NULL OR state = 'closed'", name="cursor_after_close"),
        CheckConstraint(
            "(conflated_since IS NULL) = (conflate_ms IS NULL)", name="conflated_complete"
        ),
        CheckConstraint("version >= 1", name="version_positive"),
        CheckConstraint("jsonb_typeof(labels) = 'object'", name="labels_object"),
        CheckConstraint("jsonb_typeof(spec) = 'object'", name="spec_object"),
        CheckConstraint("jsonb_typeof(thresholds) = 'object'", name="thresholds_object"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    consumer_id: Mapped[str] = mapped_column(ForeignKey(Consumer.id, ondelete="RESTRICT"))
    view_id: Mapped[str] = mapped_column(ForeignKey(ViewRow.id, ondelete="RESTRICT"))
    name: Mapped[str] = mapped_column(Text)
    # What its members are called together; NULL: as the subscription.
    group: Mapped[str | None] = mapped_column(Text)
    # The filter as it was written, and the view that was asked for. `view` is what is delivered in
    # its place (`conflated.left_of`).
    filter: Mapped[str] = mapped_column(Text, server_default="")
    spec: Mapped[dict[str, Any]] = mapped_column(JSONB)
    # The shared transformation that was referred to; what it holds stands in `spec`.
    transformation_id: Mapped[str | None] = mapped_column(
        ForeignKey(SharedTransformation.id, ondelete="RESTRICT")
    )
    # Where it begins on its first view: a word, or `place`, which is a `Found`.
    start: Mapped[str] = mapped_column(Text)
    start_place: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    on_backlog: Mapped[dict[str, Any]] = mapped_column(
        JSONB, server_default=text("""'{"policy": "hold"}'::jsonb""")
    )
    # From when it is said to lag or to have stalled, where that is not as the service has it.
    thresholds: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    state: Mapped[str] = mapped_column(Text, server_default=State.PENDING.value)
    labels: Mapped[dict[str, str]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    # The plan from which it has its view, and, where it came from another one, that number again,
    # or a lower one where it came back: what its topic holds of lower plans is not for it.
    plan: Mapped[int] = mapped_column(BigInteger)
    from_plan: Mapped[int] = mapped_column(BigInteger, server_default="0")
    # The first plan without it, where it is drained; else the newest when it was closed, or later.
    closed_in_plan: Mapped[int | None] = mapped_column(BigInteger)
    version: Mapped[int] = mapped_column(Integer, server_default="1")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    activated_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    closed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    cursor_removed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    # Since when nothing may be read, whatever the state, and whether the broker was told so.
    paused_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    blocked: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    # When it last resumed, until its backlog is within its limits again.
    resumed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    # Since when it is conflated because of its backlog, and at which intervals.
    conflated_since: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    conflate_ms: Mapped[int | None] = mapped_column(Integer)

    consumer: Mapped[Consumer] = relationship(lazy="raise")
    view: Mapped[ViewRow] = relationship(lazy="raise")
    shared_transformation: Mapped[SharedTransformation | None] = relationship(lazy="raise")
    draining: Mapped[list[Move]] = relationship(
        lazy="raise",
        viewonly=True,
        primaryjoin="and_(Move.subscription_id == Subscription.id, Move.ended_at.is_(None))",
        order_by="Move.id",
    )

    def become(self, state: State) -> None:
        """Change the state to another one, or leave it.

        Raises:
            ValueError: it cannot become that.
        """
        if state != self.state and state not in NEXT[State(self.state)]:
            raise ValueError(f"subscription {self.id} is {self.state} and cannot become {state}")
        self.state = state.value

    @property
    def subscription_name(self) -> str:
        """The name of the Pulsar subscription."""
        return pulsar_name(self.consumer_id, self.id)

    @property
    def group_name(self) -> str:
        """What its members are called together."""
        return self.group or self.name

    @property
    def grant(self) -> tuple[str, str]:
        """What its consumer may read: the topic of the view, which has to be loaded, and its id."""
        return self.view.topic, self.consumer_id

    @property
    def found(self) -> Found | None:
        """What was found for a start that is neither latest nor earliest."""
        return None if self.start_place is None else msgspec.convert(self.start_place, Found)

    @property
    def next_start(self) -> NextStart:
        """Where a new Pulsar subscription begins; on a later view with what comes from then on."""
        if self.activated_at:
            return "latest"
        found = self.found
        if found is None:
            return cast(Literal["latest", "earliest"], self.start)
        # On another view than was looked at: rather too early than too late.
        ours = found.view == self.view_id
        return tuple(begin.position for begin in found.begins) if ours else "earliest"


class Move(Base):
    """A subscription's way from one view to another, or to none where it is drained.

    Immutable but for its end.
    """

    __tablename__ = "subscription_moves"
    __table_args__ = (
        Index(
            "uq_subscription_moves_open",
            "subscription_id",
            "view_id",
            unique=True,
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index("ix_subscription_moves_view", "view_id", postgresql_where=text("ended_at IS NULL")),
        Index("ix_subscription_moves_going", "view_id", postgresql_where=text("goes_on")),
        Index(
            "ix_subscription_moves_untold",
            "drain_until",
            postgresql_where=text("tells_unread AND ended_at IS NULL"),
        ),
        CheckConstraint("plan >= 1", name="plan_positive"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    subscription_id: Mapped[str] = mapped_column(ForeignKey(Subscription.id, ondelete="RESTRICT"))
    # The view that was left, and the Pulsar subscription on its topic.
    view_id: Mapped[str] = mapped_column(ForeignKey(ViewRow.id, ondelete="RESTRICT"))
    subscription_name: Mapped[str] = mapped_column(Text)
    # From this plan on the subscription has its next view; it had this one from `from_plan` on.
    plan: Mapped[int] = mapped_column(BigInteger)
    from_plan: Mapped[int] = mapped_column(BigInteger, server_default="0")
    # Whether the consumer may see what others get on the topic from then on: its entitlements allow
    # it, as they do when it was the subscription that changed.
    allowed: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    # Whether the view stays in the plans, for this subscription too: its lane has not come to where
    # the next view, of another lane, begins. Then `plan` becomes the first without it.
    goes_on: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    # Whether it has to be told what was not read here, before the Pulsar subscription is removed.
    tells_unread: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    correlation_id: Mapped[str] = mapped_column(Text, server_default="")
    moved_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    drain_until: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    # When the Pulsar subscription was removed, or the subscription came back to the view.
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    view: Mapped[ViewRow] = relationship(lazy="raise")
    subscription: Mapped[Subscription] = relationship(lazy="raise")

    @property
    def grant(self) -> tuple[str, str]:
        """What its consumer may still read; view and subscription have to be loaded."""
        return self.view.topic, self.subscription.consumer_id


class HistoryEntry(Base):
    """What happened to a subscription: who did what when, and its state and plan after it."""

    __tablename__ = "subscription_history"
    __table_args__ = (
        Index("ix_subscription_history_of", "subscription_id", "id"),
        Index("ix_subscription_history_changed", "at", postgresql_where=text(CHANGED)),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    subscription_id: Mapped[str] = mapped_column(ForeignKey(Subscription.id, ondelete="RESTRICT"))
    at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    type: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    plan: Mapped[int] = mapped_column(BigInteger)
    # As `control_plane.acting` told it at the beginning of the transaction.
    actor: Mapped[str] = mapped_column(Text, server_default=text(ACTING))
    correlation_id: Mapped[str] = mapped_column(Text, server_default="")
    data: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))


class HealthRow(Base):
    """How a subscription was read when it was looked at; kept for a while."""

    __tablename__ = "subscription_health"
    __table_args__ = (
        Index("ix_subscription_health_of", "subscription_id", "at"),
        CheckConstraint(f"state IN {STATES}", name="state_known"),
    )

    # In the order of time: one control plane writes, and the oldest go first.
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    subscription_id: Mapped[str] = mapped_column(ForeignKey(Subscription.id, ondelete="RESTRICT"))
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    state: Mapped[str] = mapped_column(Text)
    members: Mapped[int] = mapped_column(Integer)
    backlog_messages: Mapped[int] = mapped_column(BigInteger)
    backlog_bytes: Mapped[int] = mapped_column(BigInteger)
    backlog_age_seconds: Mapped[float | None] = mapped_column(Double)
    rate: Mapped[float] = mapped_column(Double)
    redelivery_rate: Mapped[float] = mapped_column(Double)
    last_acknowledged_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
