"""The distributor: routes the log's frames to views, transforms and converts them.

Delivery guarantee: each event that a view's filter lets pass is in the view's topic exactly once,
in the order of its partition. A view's output depends only on the view, never on the plan's number,
so what is done again after a crash comes out the same. An input is acknowledged when every view has
confirmed it. A frame that a view's filter fails on, or that it cannot render, goes to the dead
letters with the view's name; other views get it all the same. A view that gets no rows gets
heartbeats, and every view an epoch frame when sequences start anew.

A custom transformation that keeps failing is cut off for its view (`runtime/custom_calls.py`): what
it was to work on goes to the dead letters, too, until a trial goes well.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa

from functions.operators.broken_rules import keeps, reason
from functions.operators.group import FrameGroup, MixedGroup, merged
from functions.operators.render import check, render
from functions.operators.route import Routed, Router, Rows
from functions.runtime.custom_calls import CustomCalls, CutOff
from functions.runtime.deadletters import trace_properties
from functions.runtime.event_messages import event_messages
from functions.runtime.failures import BROKE_RULE, Failure, Failures
from functions.runtime.function import FrameFunction, PartitionStage
from functions.runtime.inputs import Input
from functions.runtime.outputs import MessageTooLarge, Output
from functions.runtime.partition_views import OPENERS, PartitionViews
from functions.runtime.plans import PlanFollower
from functions.runtime.reference_tables import ReferenceTables, TableNotThere
from marketdata.arrays import array_of
from marketdata.control_frames import EPOCH, HEARTBEAT
from marketdata.custom import Answer, CustomFailed, custom_transformations
from marketdata.errors import DistributionError, InvalidFrame, described
from marketdata.formats import formats
from marketdata.frames import MAX_FRAME_BYTES, frame_kind, frame_properties, read_frame
from marketdata.plans import EMPTY_PLAN, Plan, View
from marketdata.positions import NO_POSITION, place_before
from marketdata.reference import Joined
from marketdata.rules import Checked
from marketdata.splitting import split_rows

MAX_GROUP_BYTES = 2 * MAX_FRAME_BYTES
"""Most bytes that piled up frames are merged into before they are dealt out to the views."""


class DistributorFunction(FrameFunction):
    """Deployed as `marketdata/functions/distributor`."""

    name: ClassVar[str] = "distributor"
    applies_again: ClassVar[bool] = True

    def setup(self) -> None:
        """Follow the plans; nothing is routed before the newest one is known."""
        self.openers = ThreadPoolExecutor(OPENERS, thread_name_prefix="open")
        self.custom = CustomCalls(self.settings.custom_timeout_s, self.reporter)
        self.tables = ReferenceTables(self.client, self.settings.topics.reference)
        self.router = Router(EMPTY_PLAN)
        self._next_router = self.router
        self._plans = PlanFollower(
            self.client, self.settings.topics.plans, self.log, self._plan_changed
        )
        while not self._plans.wait_until_current(timeout_s=5.0):
            if not self._plans.waits:
                self.reporter.error(f"waiting for plans on {self.settings.topics.plans}")
            self.reporter.report()
        self.before_turn()

    def stage(self, partition: int) -> PartitionStage:
        """The distribution of one partition."""
        return DistributorStage(self, partition)

    def before_turn(self) -> None:
        """Switch to the newest plan: between frames, for all partitions at once."""
        router = self._next_router
        if router is self.router:
            return
        self.router = router
        self.custom.keep(router.views)
        plan = router.plan
        status = self.reporter.status
        status.plan, status.plan_digest = plan.number, plan.digest
        self.log.info(
            "distributor: plan %d with %d views (correlation id %s)",
            plan.number,
            len(plan.views),
            plan.correlation_id,
        )
        missing = {view.format for view in plan.views} - formats().keys()
        if missing:
            names = ", ".join(sorted(missing))
            self.reporter.error(
                f"plan {plan.number}: formats not installed here: {names}; the frames of views in"
                " them become dead letters. Install them where the functions run"
            )
        missing = {
            view.transformation.custom.name for view in plan.views if view.transformation.custom
        } - custom_transformations().keys()
        if missing:
            names = ", ".join(sorted(missing))
            self.reporter.error(
                f"plan {plan.number}: custom transformations not installed here: {names}; the"
                " frames of views with them become dead letters. Install them where the functions"
                " run"
            )
        self.reporter.report()
        # A new view is due to have what is not acknowledged yet, too: whoever may have taken over
        # meanwhile has begun it there.
        self.apply_again()

    def may_acknowledge(self) -> bool:
        """Not by a plan that may have been replaced: an input has to be in its new views, too."""
        return self._next_router is self.router and self._plans.is_current()

    def catch_up(self) -> None:
        """Switch to the newest plan on the topic now.

        Raises:
            pulsar.PulsarException, NotYetReadable: it cannot be read, or waits.
        """
        self._plans.catch_up()
        self.before_turn()

    def _plan_changed(self, plan: Plan) -> bool:
        """Make a plan ready; False while its reference tables are not there."""
        try:
            tables = self.tables.of(plan)
        except TableNotThere as error:
            # Nothing is acknowledged meanwhile: what the plan adds may be due to have it.
            self.reporter.error(f"plan {plan.number} waits: {error}")
            return False
        try:
            self._next_router = Router(plan, self._next_router, tables)
        except (DistributionError, ValueError, TypeError, KeyError) as error:
            self.log.exception("distributor: plan %d cannot be run; keeping the last", plan.number)
            self.reporter.error(f"plan {plan.number} cannot be run: {error}")
            return True
        self.wake()
        return True


class _Piece(NamedTuple):
    """A message for a view: the inputs it is made of, their rows for the view, its position.

    `numbers` are those of the rows in the merged batch; None for all.
    """

    view: View
    items: list[Input]
    rows: pa.RecordBatch
    place: int
    numbers: Rows | None


class DistributorStage(PartitionStage):
    """One partition: an output for each view that has had rows here, and the dead letters."""

    def __init__(self, function: DistributorFunction, partition: int) -> None:
        self._function = function
        self._partition = partition
        self._counters = function.reporter.counters
        self._views = PartitionViews(function, partition)
        self._failures = Failures(function, partition)
        # View -> up to where what broke its rules has been counted and kept.
        self._noted: dict[str, int] = {}

    def recover(self) -> None:
        """Route by the newest plan, as the last owner did; outputs open when rows reach them."""
        self._function.catch_up()

    def apply(self, items: Sequence[Input]) -> None:
        """Send to every view what it lacks of the inputs."""
        # What failed is told before anything that follows it, or nothing follows it.
        self._failures.send()
        self._views.begin_turn()
        telling = [item for item in items if item.properties.get("kind") != HEARTBEAT]
        for is_epoch, run in groupby(telling, key=_is_epoch):
            if is_epoch:
                self._failures.send()
                for item in run:
                    self._views.announce_epoch(item)
                continue
            for group in self._groups(run):
                self._distribute(group)
        # A heartbeat would make a failed input look delivered when done again.
        failing = self._failures.views()
        if items and None not in failing:
            self._views.tell_quiet(items[-1], but=failing)
        self._failures.send()

    def confirmed(self, output: Output, message_id: Any, position: int) -> None:  # noqa: ARG002
        """A failure is remembered until its letter is stored: it need not show itself again."""
        self._failures.confirmed(output, position)

    def tidy(self) -> None:
        """Close the outputs of views that are gone and have nothing under way."""
        self._views.close_gone()
        views = self._function.router.views
        self._noted = {view: place for view, place in self._noted.items() if view in views}

    def _groups(self, items: Iterable[Input]) -> Iterator[FrameGroup[Input]]:
        """The inputs for the views that take kinds apart, then for those that do not."""
        frames = list(self._readable(items))
        self._counters["events_in"] += sum(batch.num_rows for _, _, batch in frames)
        most = self._function.settings.max_rows
        for together, made in ((False, FrameGroup[Input]), (True, MixedGroup[Input])):
            if self._function.router.has_views(together=together):
                yield from merged(frames, made, max_rows=most, max_bytes=MAX_GROUP_BYTES)

    def _readable(self, items: Iterable[Input]) -> Iterator[tuple[Input, str, pa.RecordBatch]]:
        for item in items:
            try:
                batch = read_frame(item.data)
                yield item, frame_kind(batch, mixed=True), batch
            except InvalidFrame as error:
                self._failures.note(item, Failure(str(error)))

    def _distribute(self, group: FrameGroup[Input]) -> None:
        """Send every view its rows; only what lies with the inputs makes dead letters of them.

        What goes wrong with outputs is no input's fault: an instance that is being ended cannot
        open any more, and must not take that for a frame that cannot be routed.
        """
        failed: dict[str, Exception] = {}
        try:
            batch = group.batch()
            routed = group.routed(batch, self._function.router, failed)
        except Exception as error:  # noqa: BLE001 - no input may stop the ones behind it
            self._isolate(group, Failure(f"not routed: {described(error)}"))
            return
        for view_id, raised in failed.items():
            if not self._isolate_view(group, view_id, raised):
                return
        self._views.open([view for view, _ in routed])
        if not self._check_again(group, batch, routed):
            return
        pieces = self._pieces(group, batch, routed)
        while True:
            try:
                piece = next(pieces, None)
            except Exception as error:  # noqa: BLE001
                self._isolate(group, Failure(f"not split: {described(error)}"))
                return
            if piece is None:
                break
            if not self._deliver(group, piece):
                return
        self._function.reporter.observe_latency(batch.column("ts_publish")[-1].value)

    def _deliver(self, group: FrameGroup[Input], piece: _Piece) -> bool:
        """Send a view its rows; False when every view has been served input by input instead."""
        try:
            joined = self._joined(piece.view, piece.rows)
            checked = check(piece.view, joined)
            self._note_broken(group, piece, checked)
            rendered = render(piece.view, joined.events, self._call_custom, checked)
        except CutOff as error:
            # It was not tried, so there is no input at fault to look for.
            for item in piece.items:
                self._fail(item, _view_failure(piece.view.id, error))
            return True
        except Exception as error:  # noqa: BLE001 - whatever a view does, others go on
            return self._isolate_view(group, piece.view.id, error)
        if not rendered.messages:
            return True
        try:
            self._send(piece._replace(rows=rendered.rows), group.kind, rendered.messages)
        except MessageTooLarge as error:
            return self._isolate_view(group, piece.view.id, error)
        return True

    def _note_broken(self, group: FrameGroup[Input], piece: _Piece, checked: Checked) -> None:
        """Count the events that broke rules, once, and keep those that are to be kept."""
        view, rules = piece.view, piece.view.transformation.all_rules
        if not rules or piece.place <= self._noted.get(view.id, NO_POSITION):
            return
        self._noted[view.id] = piece.place
        for name, rows in checked.broken.items():
            self._counters[f"rule_{name}_of_{view.id}"] += len(rows)
            if rules[name].severity != "dead-letter":
                continue
            numbers = rows if piece.numbers is None else piece.numbers[rows]
            for item, part in group.parts(numbers):
                events = piece.rows.take(array_of(rows[part], pa.int64()))
                told = f"view {view.id}: {reason(name, rules[name], events)}"
                self._failures.note(item, Failure(told, BROKE_RULE, view.id))

    def _check_again(
        self, group: FrameGroup[Input], batch: pa.RecordBatch, routed: Iterable[Routed]
    ) -> bool:
        """Find what is to be kept of inputs that views have already: its letter may be missing.

        False when every view has been served input by input instead.
        """
        for view, selected in routed:
            behind = self._noted.get(view.id, NO_POSITION)
            most = self._function.router.max_rows[view.id]
            begun = self._views.output(view).position >= group.begins_at(most)
            if not begun or not keeps(view.transformation):
                continue
            runs = group.runs_after(behind, selected, max_rows=most, max_message_rows=most)
            try:
                for items, numbers, place in runs:
                    rows = batch if numbers is None else next(split_rows(batch, [numbers]))
                    piece = _Piece(view, items, rows, place, numbers)
                    self._note_broken(group, piece, check(view, self._joined(view, rows)))
            except Exception as error:  # noqa: BLE001 - whatever a view does, others go on
                if not self._isolate_view(group, view.id, error):
                    return False
        return True

    def _joined(self, view: View, rows: pa.RecordBatch) -> Joined:
        """The rows with what the tables of the plan in force say of them."""
        return view.transformation.joined(rows, self._function.router.tables)

    def _call_custom(self, view: View, rows: pa.RecordBatch) -> Answer:
        return self._function.custom(view, rows)

    def _isolate_view(self, group: FrameGroup[Input], view_id: str, error: Exception) -> bool:
        self._isolate(group, _view_failure(view_id, error))
        return len(group.items) == 1

    def _pieces(
        self, group: FrameGroup[Input], batch: pa.RecordBatch, routed: Iterable[Routed]
    ) -> Iterator[_Piece]:
        """What each view lacks of the batch, a message each."""
        cut: list[tuple[View, list[Input], Rows, int]] = []
        fitting = MAX_FRAME_BYTES // max(1, batch.nbytes // batch.num_rows)
        for view, selected in routed:
            for items, rows, place in group.runs_after(
                self._views.output(view).position,
                selected,
                max_rows=fitting,
                max_message_rows=self._function.router.max_rows[view.id],
            ):
                if rows is None:
                    yield _Piece(view, items, batch, place, None)
                else:
                    cut.append((view, items, rows, place))
        pieces = split_rows(batch, [rows for _, _, rows, _ in cut])
        for (view, items, rows, place), piece in zip(cut, pieces, strict=True):
            yield _Piece(view, items, piece, place, rows)

    def _isolate(self, group: FrameGroup[Input], failure: Failure) -> None:
        """Find the input at fault: one by one the others still arrive.

        Outputs skip what they have been sent already, so nothing is sent twice.
        """
        if len(group.items) == 1:
            self._fail(group.items[0], failure)
            return
        for single in group.singles():
            self._distribute(single)

    def _fail(self, item: Input, failure: Failure) -> None:
        if self._failures.note(item, failure):
            self._counters["render_failures"] += 1

    def _send(self, piece: _Piece, kind: str, messages: list[bytes]) -> None:
        view, items, rows, place, _ = piece
        output = self._views.output(view)
        if output.restarted:
            self._views.announce_restart(view, output, (), place_before(place))
        properties = frame_properties(rows, kind)
        properties.update(self._views.delivery_properties(view, output, place))
        properties.update(trace_properties(items[-1]))
        if view.delivery.by_event:
            self._function.send_together(
                output,
                self._partition,
                items,
                event_messages(messages, rows, properties),
                position=place,
            )
        else:
            (data,) = messages
            self._function.send(
                output,
                self._partition,
                items,
                data,
                properties,
                position=place,
                event_timestamp_ms=int(properties["ts_event_last"]) // 1_000_000,
            )
        output.next_delivery += rows.num_rows
        self._views.had_rows(view)
        self._counters["events_out"] += rows.num_rows
        self._counters["frames_out"] += 1


def _view_failure(view_id: str, error: Exception) -> Failure:
    code = error.code if isinstance(error, CustomFailed) else "not_rendered"
    return Failure(f"view {view_id}: {described(error)}", code, view_id)


def _is_epoch(item: Input) -> bool:
    return item.properties.get("kind") == EPOCH
