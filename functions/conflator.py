"""The conflator: serves the views whose events wait for the end of an interval.

Delivery guarantee: each event that a view's filter lets pass is in the view's topic exactly once,
or in a range that one message there tells as skipped, in the order of its partition
(`marketdata.conflation`). Intervals go by the time that stands in the log, so what a view gets is a
function of the log. An interval's events are held here, one for each instrument and kind; the log
is acknowledged up to before the first input of which something is held, and after a crash, or when
an output is lost, read again from there. Outputs have what they have by the positions in them.

A view that goes is sent what is held for it. A custom transformation, and what cannot be rendered,
fails for the events of an interval: their dead letter holds them as one frame.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import numpy as np
import pyarrow as pa

from functions.distributor import (
    DistributorFunction,
    DistributorStage,
    Piece,
    is_epoch,
    view_failure,
)
from functions.operators.group import FrameGroup
from functions.operators.render import check, render
from functions.operators.route import Routed, Router
from functions.runtime.event_messages import event_messages
from functions.runtime.function import PartitionStage
from functions.runtime.inputs import Input
from functions.runtime.outputs import Message, MessageTooLarge, NotYetReadable
from functions.runtime.view_output import ViewOutput
from marketdata.conflation import (
    SINCE_PROPERTY,
    Entry,
    Pace,
    Part,
    Window,
    pace_of,
)
from marketdata.frames import encode_frame, frame_properties
from marketdata.plans import View
from marketdata.positions import NO_POSITION, place_before
from marketdata.skipped import (
    BEHIND_PROPERTY,
    INTERVAL_LENGTH_PROPERTY,
    INTERVAL_PROPERTY,
    SKIPPED_PROPERTY,
)
from marketdata.splitting import Rows, split_rows
from marketdata.view_events import taken


class ConflatorFunction(DistributorFunction):
    """Deployed as `marketdata/functions/conflator`."""

    name: ClassVar[str] = "conflator"
    applies_again: ClassVar[bool] = False
    reads_again: ClassVar[bool] = True

    def stage(self, partition: int) -> PartitionStage:
        """The conflation of one partition."""
        return ConflatorStage(self, partition)

    def apply_again(self) -> None:
        """Inputs are not kept: a view that another instance has begun has them read again."""


@dataclass(slots=True)
class _Open:
    """A view's window.

    Attributes:
        most_rows: most events that are stored together.
        first: the input of its first event; it is not acknowledged before the window is stored.
        since: the position behind which the window began: right before its first event.
        through: place of the newest event that it has taken in.
        router: of the plan that routed that one.
    """

    view: View
    pace: Pace
    window: Window
    most_rows: int
    first: Input
    since: int
    through: int
    router: Router


class ConflatorStage(DistributorStage):
    """One partition: the windows of its views, and their outputs."""

    _function: ConflatorFunction

    def __init__(self, function: ConflatorFunction, partition: int) -> None:
        super().__init__(function, partition)
        self._open: dict[str, _Open] = {}
        self._router: Router | None = None
        self._paces: dict[str, Pace] = {}
        self._intervals_ms: list[int] = []
        self._passed = NO_POSITION

    def apply(self, items: Sequence[Input]) -> None:
        """Take the inputs in, and send what is over."""
        self._begin_views()
        super().apply(items)
        for item in items:
            item.data = b""
        if items:
            self._passed = items[-1].position

    def tidy(self) -> None:
        """As the distributor, once the views that are gone have got what is held for them."""
        if self._open.keys() <= self._function.router.views.keys():
            super().tidy()

    def close(self) -> None:
        """Close all outputs."""
        self._views.close()
        self._failures.close()

    def _begin_views(self) -> None:
        """See to it that views which are new here lack nothing of what was passed before.

        Raises:
            NotYetReadable: another instance has begun one; all is to be read again.
        """
        router = self._function.router
        if router is self._router:
            return
        if self._passed != NO_POSITION:
            new = [view for view_id, view in router.views.items() if view_id not in self._paces]
            self._views.open(new)
            for view in new:
                if NO_POSITION < self._views.output(view).position < self._passed:
                    raise NotYetReadable(
                        f"view {view.id} was begun elsewhere: what is not acknowledged is read"
                        " again for it"
                    )
        partitions = self._function.settings.partitions
        self._paces = {
            view.id: pace_of(view.delivery, partitions) for view in router.views.values()
        }
        self._intervals_ms = sorted({pace.every_ms for pace in self._paces.values()})
        self._router = router

    def _take(self, items: Sequence[Input]) -> None:
        """Inputs of the same intervals at once; before them what is over is sent."""

        def moment(item: Input) -> tuple[bool | int, ...]:
            return is_epoch(item), *(item.time_ms // every_ms for every_ms in self._intervals_ms)

        for _, run in groupby(items, key=moment):
            same = list(run)
            self._close_windows(same[0])
            super()._take(same)

    def _waiting(self) -> Collection[str]:
        return self._open.keys()

    def _close_windows(self, item: Input) -> None:
        """Send what is over when an input comes."""
        views, epoch = self._function.router.views, is_epoch(item)
        for each in list(self._open.values()):
            over = item.time_ms // each.pace.every_ms != each.window.number
            if over or epoch or each.view.id not in views:
                self._close_window(each, item)

    def _pieces(
        self, group: FrameGroup[Input], batch: pa.RecordBatch, routed: Iterable[Routed]
    ) -> Iterator[Piece]:
        """What each view has not taken in yet of the batch."""
        cut: list[tuple[View, list[Input], Rows, int]] = []
        for view, selected in routed:
            rows = np.arange(batch.num_rows) if selected is None else selected
            places = self._places(group, view, rows)
            rows, places = (each[places > self._decided(view)] for each in (rows, places))
            if len(rows):
                cut.append((view, group.items, rows, int(places[-1])))
        pieces = split_rows(batch, [rows for _, _, rows, _ in cut])
        for (view, items, rows, place), piece in zip(cut, pieces, strict=True):
            yield Piece(view, items, piece, place, rows)

    def _deliver(self, group: FrameGroup[Input], piece: Piece) -> bool:
        """Have a view's window take rows in that keep its rules."""
        try:
            checked = check(piece.view, self._joined(piece.view, piece.rows))
            self._note_broken(group, piece, checked)
            rows, numbers = piece.rows, piece.numbers
            assert numbers is not None, "`_pieces` names rows"  # noqa: S101
            if checked.rows is not None:
                rows, numbers = taken(rows, checked.rows), numbers[checked.rows]
            if len(numbers):
                self._hold(group, piece.view, rows, numbers)
        except Exception as error:  # noqa: BLE001 - whatever a view does, others go on
            return self._isolate_view(group, piece.view.id, error)
        return True

    def _hold(
        self, group: FrameGroup[Input], view: View, rows: pa.RecordBatch, numbers: Rows
    ) -> None:
        found, router = self._open.get(view.id), self._function.router
        places = self._places(group, view, numbers)
        if found is None:
            first, _ = next(group.parts(numbers))
            pace, since = self._paces[view.id], int(places[0]) - 1
            window = Window(pace, first.time_ms // pace.every_ms)
            most = router.max_rows[view.id]
            found = _Open(view, pace, window, most, first, since, since, router)
            self._open[view.id] = found
            first.held = True
        found.window.add(group.kind, rows, places)
        found.through, found.router = int(places[-1]), router

    def _decided(self, view: View) -> int:
        """The place up to which nothing more is taken in for a view."""
        found = self._open.get(view.id)
        if found is not None:
            return found.through
        output = self._views.output(view)
        return output.position if output.since is None else output.since

    def _places(self, group: FrameGroup[Input], view: View, rows: Rows) -> Rows:
        return group.places(rows, max_message_rows=self._function.router.max_rows[view.id])

    def _close_window(self, each: _Open, item: Input) -> None:
        """Send a view what its window has left.

        Args:
            item: the input that shows that it is over; it waits, too, so that not too much is under
                way.
        """
        output = self._views.output(each.view)
        for entry in each.window.take(output.position, most_rows=each.most_rows):
            self._send_entry(each, entry, output, item)
        self._counters["events_skipped"] += each.window.skipped
        output.since = None
        del self._open[each.view.id]
        first = each.first
        first.held = any(other.first is first for other in self._open.values())
        self._views.had_rows(each.view)

    def _send_entry(self, each: _Open, entry: Entry, output: ViewOutput, item: Input) -> None:
        if output.restarted:
            self._views.announce_restart(each.view, output, (), place_before(entry.place))
        messages: list[Message] = []
        number = output.next_delivery
        for part in entry.parts:
            try:
                made = self._messages(each, part, output, entry, number)
            except Exception as error:  # noqa: BLE001 - whatever a view does, others go on
                self._letter(each, part, error)
                continue
            messages += made
            number += sum(int(message.properties["count"]) for message in made)
        if not messages:
            return
        try:
            self._function.send_together(
                output, self._partition, (each.first, item), messages, position=entry.place
            )
        except MessageTooLarge as error:
            for part in entry.parts:
                self._letter(each, part, error)
            return
        self._counters["events_out"] += number - output.next_delivery
        self._counters["frames_out"] += 1
        output.next_delivery = number

    def _messages(
        self, each: _Open, part: Part, output: ViewOutput, entry: Entry, number: int
    ) -> list[Message]:
        """The message of some events, or one for each where the view has it so."""
        view = each.view
        joined = view.transformation.joined(part.rows, each.router.tables)
        rows, data = render(view, joined.events, self._call_custom, check(view, joined))
        if not data:
            return []
        properties = frame_properties(rows, part.kind)
        properties.update(self._views.delivery_properties(view, output, entry.place))
        properties["delivery_sequence"] = str(number)
        # Not the one in force: to who has left the view by it, it says that nothing more is his.
        properties["plan"] = str(each.router.plan.number)
        properties[INTERVAL_PROPERTY] = str(each.window.number * each.pace.every_ms)
        properties[INTERVAL_LENGTH_PROPERTY] = str(each.pace.every_ms)
        if not entry.complete:
            properties[SINCE_PROPERTY] = str(each.since)
        time_ms = int(properties["ts_event_last"]) // 1_000_000
        messages = [Message(data[0], properties, None, time_ms)]
        if view.delivery.by_event:
            messages = event_messages(data, rows, properties)
        if part.skipped.events:
            messages[0].properties[SKIPPED_PROPERTY] = part.skipped.encode()
        if part.behind.events:
            messages[-1].properties[BEHIND_PROPERTY] = part.behind.encode()
        return messages

    def _letter(self, each: _Open, part: Part, error: Exception) -> None:
        """Keep events that cannot be sent: of their inputs only they are left."""
        told = copy(each.first)
        told.data = encode_frame(part.rows).to_pybytes()
        told.failures = frozenset()
        self._fail(told, view_failure(each.view.id, error))
        self._failures.send()
