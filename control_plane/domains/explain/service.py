"""Explains deliveries: the log and the view's topic are read, nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pulsar
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.broker import Broker
from control_plane.database import Database
from control_plane.domains.explain.events import (
    Absent,
    LoggedEvent,
    Sought,
    ViewMessage,
    ViewTrace,
    find_event,
    trace,
)
from control_plane.domains.explain.ruling import Sets, parts, priority, ruling
from control_plane.domains.explain.ruling import passes as condition_passes
from control_plane.domains.explain.schemas import (
    DeliveryOut,
    EventOut,
    ExplanationOut,
    FilterOut,
    SetOut,
)
from control_plane.domains.explain.search import Budget, OutOfBounds, Stored
from control_plane.domains.explain.verdict import Span, judge
from control_plane.domains.instrument_sets import repository as set_rows
from control_plane.domains.instrument_sets.models import InstrumentSetVersion
from control_plane.domains.ordering.intake import moment
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.reference_tables import repository as table_rows
from control_plane.domains.rules import repository as rule_rows
from control_plane.domains.rules.policy import Selected
from control_plane.domains.subscriptions import repository as subscription_rows
from control_plane.domains.subscriptions.closing import stopped_at
from control_plane.errors import BrokerUnavailableError, NotFoundError
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin
from control_plane.pulsar_values import StoredEntries
from control_plane.topic_reads import TopicReads
from marketdata.filters import Filter
from marketdata.history import HistoryTimeout
from marketdata.partitioning import partition_of
from marketdata.plans import View, ViewSpec, decode_plan, tables_of, view_of
from marketdata.positions import Position
from marketdata.reference import ReferenceTable
from marketdata.topics import SEQUENCED_EVENTS, partition_topic


@dataclass(frozen=True, slots=True)
class _Subject:
    """What the database knows of a subscription."""

    id: str
    view: View
    filter: Filter
    span: Span
    begins: Mapping[int, Position]
    versions: Mapping[str, InstrumentSetVersion]
    plan: int | None
    rules: tuple[tuple[int, Selected], ...]

    @property
    def sets(self) -> dict[str, list[str]]:
        return {name: version.instruments for name, version in self.versions.items()}


class ExplainService:
    """Says why a subscription got an event or did not."""

    def __init__(
        self, database: Database, broker: Broker, admin: PulsarAdmin, *, timeout_seconds: float
    ) -> None:
        self._database = database
        self._admin = admin
        self._reads = TopicReads(broker, "The topics", timeout_seconds=timeout_seconds)

    def close(self) -> None:
        """End the threads that read topics."""
        self._reads.close()

    async def explain(self, subscription: str, sought: Sought) -> ExplanationOut:
        """Why a subscription got an event or did not.

        Raises:
            NotFoundError: there is no such subscription, or the log does not hold the event.
            BrokerUnavailableError: the topics cannot be read.
        """
        async with self._database.transaction() as session:
            subject = await _subject(session, subscription)
        event, found = await self._read(subject.view, sought)
        passes = condition_passes(subject.filter, event.row, subject.sets)
        then = passes
        if found.message is not None and subject.filter.sets:
            async with self._database.transaction() as session:
                sets = await _sets_of_plan(session, found.message.plan)
            then = condition_passes(subject.filter, event.row, sets)
        sequenced_at = moment(event.number("ts_sequenced"))
        verdict, reason = judge(
            sequenced_at=sequenced_at,
            place=event.position.pack(),
            passes=then,
            passes_now=passes,
            span=replace(subject.span, begins=subject.begins.get(event.partition)),
            trace=found,
            broken=await self._broken(subject, event),
        )
        rules = ruling(subject.rules, event.row, subject.sets)
        if verdict == "filtered" and rules and rules[-1].matches and rules[-1].effect == "deny":
            reason = f"The routing rule {rules[-1].name!r} keeps the event from the consumer."
        return ExplanationOut(
            subscription=subject.id,
            view=subject.view.id,
            verdict=verdict,
            reason=reason,
            event=_event_out(event, sought.instrument),
            plan=subject.plan,
            filter=FilterOut(
                canonical=subject.filter.canonical,
                passes=passes,
                parts=None if passes is None else parts(subject.filter, event.row, subject.sets),
            ),
            rules=rules,
            priority=priority(subject.view, subject.rules),
            sets=_sets_out(subject, sought.instrument),
            delivery=_delivery_out(subject.view, event.partition, found.message),
        )

    async def _broken(self, subject: _Subject, event: LoggedEvent) -> list[str]:
        """The rules that keep an event from a view; with reference tables as they are now."""
        view, named = subject.view, tables_of([subject.view])
        tables: dict[str, ReferenceTable] = {}
        if named:
            async with self._database.transaction() as session:
                tables = await table_rows.tables(session, named)
        if len(tables) < len(named):
            return []  # deleted since the subscription was closed
        joined = view.transformation.joined(event.row, tables)
        checked = view.transformation.check(joined, view.conditions or None)
        rules = view.transformation.all_rules
        return [name for name in checked.broken if rules[name].severity != "mark"]

    async def _read(self, view: View, sought: Sought) -> tuple[LoggedEvent, ViewTrace]:
        log, delivered = await self._stored(view, sought.instrument)

        def read(client: pulsar.Client, seconds: float) -> tuple[LoggedEvent, ViewTrace] | Absent:
            budget = Budget(timeout_s=seconds)
            event = find_event(client, log, sought, budget)
            if isinstance(event, Absent):
                return event
            return event, trace(client, view, delivered, event, budget)

        try:
            found = await self._reads.read(read)
        except (OutOfBounds, HistoryTimeout) as error:
            hint = f"it was not found within the bounds of a request; {error}"
            raise NotFoundError("event", str(sought), hint=hint) from error
        if isinstance(found, Absent):
            raise NotFoundError("event", str(sought), hint=found.reason)
        return found

    async def _stored(self, view: View, instrument: str) -> tuple[Stored, Stored]:
        """What the instrument's partition of the log and that of the view hold now."""
        try:
            partitions = await self._admin.partitions(SEQUENCED_EVENTS)
            partition = partition_of(instrument, partitions)
            log, delivered = (
                partition_topic(topic, partition) for topic in (SEQUENCED_EVENTS, view.topic)
            )
            stored = Stored(log, await self._admin.stored_entries(log))
            try:
                return stored, Stored(delivered, await self._admin.stored_entries(delivered))
            except AdminNotFound:  # nobody has subscribed to the view or written to it yet
                return stored, Stored(delivered, StoredEntries())
        except AdminError as error:
            raise BrokerUnavailableError("The log cannot be found.") from error


async def _subject(session: AsyncSession, key: str) -> _Subject:
    row = await subscription_rows.find(session, key)
    view = view_of(msgspec.convert(row.view.spec, ViewSpec))
    condition = Filter.from_json(view.predicate)
    policy = await rule_rows.policy(session)
    places = {rule.id: place for place, rule in enumerate(policy.rules, start=1)}
    rules = tuple((places[each.rule.id], each) for each in policy.of(row.consumer))
    named = condition.sets.union(*(each.condition.sets for _, each in rules))
    published = await plan_rows.newest_published(session)
    retired = row.view.retired_in_plan
    runs = row.plan <= published and (retired is None or retired > published)
    found = row.found
    begins = found.begins if found and found.view == row.view_id else ()
    return _Subject(
        id=row.id,
        view=view,
        filter=condition,
        span=Span(
            earliest=row.start != "latest",
            first_of_view=not await subscription_rows.has_older(session, row),
            created_at=row.created_at,
            activated_at=row.activated_at,
            closed_at=await stopped_at(session, row),
        ),
        begins={each.partition: Position(each.ledger, each.entry) for each in begins},
        versions=await set_rows.newest_versions(session, named),
        rules=rules,
        plan=published if runs else None,
    )


async def _sets_of_plan(session: AsyncSession, number: int) -> Sets:
    return decode_plan((await plan_rows.find(session, number)).document).sets


def _event_out(event: LoggedEvent, instrument: str) -> EventOut:
    return EventOut(
        instrument=instrument,
        kind=event.kind,
        sequence=event.number("sequence"),
        epoch=event.number("epoch"),
        partition=event.partition,
        position=_told(event.position),
        ts_event=_nanoseconds(event.number("ts_event")),
        ts_sequenced=_nanoseconds(event.number("ts_sequenced")),
    )


def _sets_out(subject: _Subject, instrument: str) -> list[SetOut]:
    told = []
    for name in sorted(subject.filter.sets):
        newest = subject.versions.get(name)
        if newest is None:
            told.append(SetOut(name, None, None, None, None))
        else:
            held = newest.instruments
            told.append(SetOut(name, newest.version, newest.plan, len(held), instrument in held))
    return told


def _delivery_out(view: View, partition: int, message: ViewMessage | None) -> DeliveryOut | None:
    if message is None:
        return None
    return DeliveryOut(
        topic=partition_topic(view.topic, partition),
        position=_told(message.position),
        published_at=message.published_at,
        plan=message.plan,
        delivery_epoch=message.delivery_epoch,
        delivery_sequence=message.delivery_sequence,
    )


def _told(position: Position) -> str:
    return ":".join(map(str, position))


def _nanoseconds(time_ns: int) -> str:
    return f"{np.datetime64(time_ns, 'ns')}Z"
