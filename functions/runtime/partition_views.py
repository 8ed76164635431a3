"""The views of one partition: their outputs, and what is sent to them besides events.

An output opens with the first row for it, or in the background for the first heartbeat. Every view
learns of a new epoch by a message of its own. A view that got no rows for a while gets a heartbeat
that names its next delivery, placed at the newest input: it had no rows of any input up to there.
"""

import time
from collections.abc import Collection, Sequence
from concurrent.futures import wait
from itertools import islice
from typing import TYPE_CHECKING, Final

from functions.operators.quiet import QuietPace
from functions.runtime.inputs import Input
from functions.runtime.view_openings import ViewOpenings
from functions.runtime.view_output import ViewOutput
from marketdata.control_frames import EPOCH, HEARTBEAT
from marketdata.formats import format_of_view
from marketdata.plans import View
from marketdata.skipped import CONFLATED_PROPERTY, ONE_OF_PROPERTY

if TYPE_CHECKING:
    from functions.distributor import DistributorFunction

OPENERS: Final = 16
"""How many outputs are opened at once."""

HEARTBEATS_A_TURN: Final = 256
"""So many quiet views are told in one turn, which takes some milliseconds; others wait."""

RESTARTED: Final = (
    "retention had removed every message that the count of deliveries could be read from; it starts"
    " at 1 again"
)


class PartitionViews:
    """Outputs of the views in one partition; used by the worker's thread only."""

    def __init__(self, function: "DistributorFunction", partition: int) -> None:
        settings = function.settings
        self._function = function
        self._partition = partition
        self._counters = function.reporter.counters
        self._outputs: dict[str, ViewOutput] = {}
        self._openings = ViewOpenings(function.openers, function.client, OPENERS)
        self._quiet = QuietPace(settings.heartbeat_interval_s, settings.heartbeat_max_interval_s)
        self._now_s = 0.0

    def begin_turn(self) -> None:
        """Look at the clock: what is sent until the next turn counts as sent now."""
        self._now_s = time.monotonic()

    def output(self, view: View) -> ViewOutput:
        """The output of a view that has been opened."""
        return self._outputs[view.id]

    def open(self, views: Sequence[View]) -> None:
        """Open those outputs that are not open.

        Raises:
            pulsar.PulsarException, NotYetReadable: of any of them; the others are open.
        """
        closed = []
        for view in views:
            output = self._outputs.get(view.id)
            if output is None or output.broken:
                output = self._openings.take(view.id) or output or self._new_output(view)
                self._outputs[view.id] = output
            if output.broken:
                closed.append(output)
        client = self._function.client
        openings = [self._function.openers.submit(output.open, client) for output in closed]
        # All of them end before one's failure is told: an opening that went on behind the
        # worker's back would void what the worker sends meanwhile, and nobody would send it again.
        wait(openings)
        for opening in openings:
            opening.result()

    def close(self) -> None:
        """Close all outputs."""
        self._openings.close()
        for output in self._outputs.values():
            output.close()

    def close_gone(self) -> None:
        """Close the outputs of views that are gone and have nothing under way."""
        views = self._function.router.views
        for view_id in [view_id for view_id in self._outputs if view_id not in views]:
            if not self._function.awaits(self._partition, self._outputs[view_id]):
                self._outputs.pop(view_id).close()

    def had_rows(self, view: View) -> None:
        """A view has been sent rows in this turn."""
        self._quiet.rows(view.id, self._now_s)

    def delivery_properties(self, view: View, output: ViewOutput, position: int) -> dict[str, str]:
        """What every message of a view says, whether it carries events or none."""
        if output.delivery_epoch is None:
            output.delivery_epoch = position
        sample = view.delivery.sample
        return {
            **({CONFLATED_PROPERTY: "1"} if view.delivery.conflates else {}),
            **({ONE_OF_PROPERTY: str(sample.one_of)} if sample else {}),
            "format": view.format,
            "plan": str(self._function.router.plan.number),
            "view": view.id,
            "delivery_sequence": str(output.next_delivery),
            "delivery_epoch": str(output.delivery_epoch),
            "position": str(position),
        }

    def announce_epoch(self, item: Input) -> None:
        """Pass an epoch frame on to every view, also to those that had no rows yet."""
        views = list(self._function.router.views.values())
        self.open(views)
        told = {name: item.properties[name] for name in ("epoch", "reason")}
        for view in views:
            output = self._outputs[view.id]
            if output.position < item.position:
                self._tell(view, output, (item,), item.position, kind=EPOCH, **told)
                output.restarted = False
                self._counters["epochs"] += 1

    def announce_restart(
        self, view: View, output: ViewOutput, items: Sequence[Input], position: int
    ) -> None:
        """Say that the count of deliveries starts anew."""
        self._tell(view, output, items, position, kind=EPOCH, reason=RESTARTED)
        output.restarted = False
        self._counters["epochs"] += 1

    def tell_quiet(self, item: Input, *, but: Collection[str | None] = ()) -> None:
        """Send heartbeats to the views whose time has come; begin to open what is not open.

        Args:
            item: the newest input, whatever it is; a view that had rows of it is not quiet.
            but: ids of views that are not told now.
        """
        for view_id in self._openings.settle(self._outputs):
            self._quiet.told(view_id, self._now_s)
        views = self._function.router.views
        quiet = []
        for view_id in self._quiet.due(views, self._now_s):
            if view_id in but:
                continue
            output = self._outputs.get(view_id)
            if output is None or output.broken:
                self._openings.begin(view_id, self._new_output(views[view_id]))
            elif output.position < item.position:
                quiet.append((views[view_id], output))
        for view, output in islice(quiet, HEARTBEATS_A_TURN):
            self._quiet.told(view.id, self._now_s)
            if output.restarted:
                self.announce_restart(view, output, (item,), item.position)
            else:
                self._tell(view, output, (item,), item.position, kind=HEARTBEAT)
                self._counters["heartbeats"] += 1

    def _tell(
        self,
        view: View,
        output: ViewOutput,
        items: Sequence[Input],
        position: int,
        **properties: str,
    ) -> None:
        """Send a view a message without events."""
        properties = {"count": "0", **properties}
        properties.update(self.delivery_properties(view, output, position))
        data = format_of_view(view.format).no_events()
        self._function.send(
            output, self._partition, items, data, properties, position=position, paced=False
        )

    def _new_output(self, view: View) -> ViewOutput:
        return ViewOutput(view, self._partition)
