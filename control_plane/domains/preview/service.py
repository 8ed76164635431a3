"""Tries a proposed change on the last minutes of the log; nothing is stored or taken from anybody.

Each preview is bounded in minutes, events, bytes and time, runs in a thread of its own, and only
few run at a time: whoever comes then is told to come later.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime

import pulsar

from control_plane.broker import Broker
from control_plane.database import Database
from control_plane.domains.explain.search import Stored
from control_plane.domains.plans.differences import parts_of
from control_plane.domains.preview.comparison import Comparison, Effect, Pair, Sample
from control_plane.domains.preview.proposal import Affected, Proposed, propose
from control_plane.domains.preview.schemas import (
    ChangeOut,
    EffectOut,
    InstrumentCount,
    PartitionOut,
    PreviewOut,
    Proposal,
    SampleOut,
    SubscriptionPreview,
    WindowOut,
)
from control_plane.domains.preview.window import Bounds, PartitionRead, Window
from control_plane.errors import BrokerUnavailableError, TooManyPreviewsError
from control_plane.pulsar_admin import AdminError, PulsarAdmin
from control_plane.topic_reads import MAX_READERS, TopicReads
from marketdata.plans import View
from marketdata.topics import SEQUENCED_EVENTS, partition_topic

MAX_BYTES = 256 * 1024 * 1024


class PreviewService:
    """Says what a change would do.

    Args:
        lanes: those that functions have which have been seen running.
        seconds: that the log is read for at most.
    """

    def __init__(
        self,
        database: Database,
        broker: Broker,
        admin: PulsarAdmin,
        *,
        lanes: Callable[[], Collection[str]],
        seconds: float,
    ) -> None:
        self._database = database
        self._admin = admin
        self._lanes = lanes
        self._reads = TopicReads(broker, "The log", timeout_seconds=seconds)
        self._under_way: list[str] = []

    def close(self) -> None:
        """End the threads that read the log."""
        self._reads.close()

    async def preview(self, data: Proposal, *, caller: str, only: str | None) -> PreviewOut:
        """What a proposed change would do.

        `only` is the id of the one consumer of whose subscriptions the caller may know.

        Raises:
            InvalidRequestError, NotFoundError, ConflictError: a request for the change would be
                refused so.
            ForbiddenError: it changes what only the platform team changes.
            TooManyPreviewsError: enough are under way, or the caller's own.
            BrokerUnavailableError: the log cannot be read.
        """
        with self._admitted(caller):
            async with self._database.transaction() as session:
                proposed = await propose(session, data, lanes=self._lanes(), only=only)
            end_ms = time.time_ns() // 1_000_000 - proposed.delay_seconds * 1000
            stored = await self._stored()

            def read(client: pulsar.Client, seconds: float) -> PreviewOut:
                bounds = Bounds(
                    begin_ms=max(
                        end_ms - data.minutes * 60_000, _milliseconds(proposed.not_before)
                    ),
                    end_ms=end_ms if proposed.delay_seconds else None,
                    events=data.max_events,
                    size=MAX_BYTES,
                    seconds=seconds,
                )
                return _tried(Window(client, stored, bounds), bounds, end_ms, data, proposed)

            return await self._reads.read(read)

    async def _stored(self) -> list[Stored]:
        """What the partitions of the log hold now."""
        try:
            partitions = await self._admin.partitions(SEQUENCED_EVENTS)
            topics = [partition_topic(SEQUENCED_EVENTS, number) for number in range(partitions)]
            held = await asyncio.gather(*map(self._admin.stored_entries, topics))
        except AdminError as error:
            raise BrokerUnavailableError("The log cannot be found.") from error
        return list(map(Stored, topics, held))

    @contextlib.contextmanager
    def _admitted(self, caller: str) -> Iterator[None]:
        if caller in self._under_way:
            raise TooManyPreviewsError("A preview of yours is under way; wait for it.")
        if len(self._under_way) >= MAX_READERS:
            raise TooManyPreviewsError("Other previews are under way.")
        self._under_way.append(caller)
        try:
            yield
        finally:
            self._under_way.remove(caller)


def _tried(
    window: Window, bounds: Bounds, end_ms: int, data: Proposal, proposed: Proposed
) -> PreviewOut:
    """Blocks; pulsar.PulsarException when the log cannot be read."""
    pairs = {_name(each.pair): each.pair for each in proposed.affected}
    comparison = Comparison(
        pairs, proposed.sets_before, proposed.sets_after, proposed.tables, samples=data.samples
    )
    for batch, kind in window.frames():
        comparison.add(batch, kind)
    return PreviewOut(
        plan=proposed.plan,
        window=WindowOut(
            begin=_moment(bounds.begin_ms),
            end=_moment(end_ms),
            events=sum(read.events for read in window.read),
            cut=any(read.cut for read in window.read),
            shortened=bounds.begin_ms > end_ms - data.minutes * 60_000,
            partitions=list(map(_partition_out, window.read)),
        ),
        subscriptions=[_out(each, comparison, data.top) for each in proposed.affected],
        subscriptions_cut=proposed.cut,
    )


def _name(pair: Pair) -> str:
    """Subscriptions with equal views are compared once."""
    return "/".join(view.id if view else "" for view in (pair.before, pair.after))


def _out(affected: Affected, comparison: Comparison, top: int) -> SubscriptionPreview:
    before, after = affected.pair.before, affected.pair.after
    outcome = comparison.outcomes[_name(affected.pair)]

    def told(effect: Effect) -> EffectOut:
        return EffectOut(
            events=effect.events,
            by_kind=dict(effect.by_kind),
            top_instruments=[InstrumentCount(*each) for each in comparison.top(effect, top)],
            samples=list(map(_sample_out, effect.samples)),
        )

    changed = told(outcome.change)
    return SubscriptionPreview(
        subscription=affected.id,
        consumer=affected.consumer,
        consumer_name=affected.consumer_name,
        name=affected.name,
        what=affected.what,
        view_before=before.id if before else None,
        view_after=after.id if after else None,
        parts=parts_of(before, after),
        delivered_before=outcome.before,
        delivered_after=outcome.after,
        appear=told(outcome.appear),
        vanish=told(outcome.vanish),
        change=ChangeOut(
            events=changed.events,
            by_kind=changed.by_kind,
            top_instruments=changed.top_instruments,
            samples=changed.samples,
            columns=dict(outcome.change.columns),
        ),
        not_run=_custom((before, after)),
        conflated=any(view is not None and view.delivery.conflates for view in (before, after)),
        failed=outcome.failed,
    )


def _custom(views: Sequence[View | None]) -> str | None:
    """The custom transformation of views."""
    customs = (view.transformation.custom for view in views if view is not None)
    return next((custom.name for custom in customs if custom), None)


def _sample_out(sample: Sample) -> SampleOut:
    return SampleOut(sample.instrument, sample.epoch, sample.sequence, sample.before, sample.after)


def _partition_out(read: PartitionRead) -> PartitionOut:
    return PartitionOut(
        partition=read.partition,
        until=None if read.until_ms is None else _moment(read.until_ms),
        frames=read.frames,
        events=read.events,
        bytes=read.size,
        unreadable=read.unreadable,
        cut=read.cut,
    )


def _moment(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)


def _milliseconds(moment: datetime | None) -> int:
    """Of a time, not earlier; 0 for none."""
    return 0 if moment is None else int(moment.timestamp() * 1000) + 1
