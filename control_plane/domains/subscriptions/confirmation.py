"""What of a partition of the log a workflow has acknowledged, from cursors alone. Pure.

Nothing is decoded. First it is asked up to where the log has been passed by all functions that
serve the workflow's views: what these make of it stands in the topics by then. *Then* it is asked
where these topics end. Once every subscription of the workflow has acknowledged its topic up to
there, it has acknowledged whatever it was sent of the log up to that place, be it nothing.

    confirmation = Confirmation()
    confirmation.look(passed=(7, 41), cursors={("view-1", "reader"): place}, at_ns=now)
    confirmation.place  # (7, 41) once `reader` has come to where view-1 ended then
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from control_plane.domains.subscriptions.backlog import waiting_before
from control_plane.pulsar_values import CursorPlace
from marketdata.confirmed import Place

MOST_STAGES: Final = 64
"""So many are kept: subscriptions that are always a little behind confirm all the same."""

Cursor = tuple[str, str]
"""A topic, and the name of a Pulsar subscription on it."""


@dataclass(slots=True)
class _Stage:
    """A place in the log, and where each topic ended after that place had been passed."""

    at_ns: int
    place: Place
    ends: dict[str, Place]


class Confirmation:
    """One partition of the log, for one workflow.

    Attributes:
        place: up to where it is confirmed; None before the first. It never goes back.
        as_of_ns: what had been passed by then is confirmed; 0 before the first.
    """

    def __init__(self) -> None:
        self.place: Place | None = None
        self.as_of_ns = 0
        self._stages: list[_Stage] = []

    def look(
        self, passed: Place, cursors: Mapping[Cursor, CursorPlace | None], at_ns: int
    ) -> set[Cursor]:
        """Note how far the workflow is; gives the cursors that have more to acknowledge.

        Args:
            passed: up to where every function has passed the log that serves one of the views.
            cursors: the workflow's, at least one, as they were found *after* that; None for one
                that is not there, which nothing can be confirmed without.
            at_ns: when `passed` was asked for; nanoseconds since the epoch, UTC.
        """
        ends = {topic: place.newest for (topic, _), place in cursors.items() if place}
        self._add(_Stage(at_ns, passed, dict(ends)))
        topics = {topic for topic, _ in cursors}
        for stage in self._stages:
            # Who has joined since has to come to where its topic ends now: rather too far.
            stage.ends = {
                topic: end for topic, end in (ends | stage.ends).items() if topic in topics
            }
        done = [n for n, stage in enumerate(self._stages) if not _waiting(stage, cursors)]
        if done:
            place = max(self._stages[n].place for n in done)
            self._confirm(place, self._stages[done[-1]].at_ns)
            del self._stages[: done[-1] + 1]
        return _waiting(self._stages[-1], cursors) if self._stages else set()

    def pass_all(self, passed: Place, at_ns: int) -> None:
        """Confirm all that has been passed: nobody waits for it."""
        self._stages.clear()
        self._confirm(passed, at_ns)

    def wait(self) -> None:
        """Confirm nothing: there is nobody who could."""
        self._stages.clear()

    def _confirm(self, place: Place, at_ns: int) -> None:
        self.place = place if self.place is None else max(self.place, place)
        self.as_of_ns = max(self.as_of_ns, at_ns)

    def _add(self, stage: _Stage) -> None:
        """Keep the oldest, the newest, and between them what divides the time most evenly."""
        self._stages.append(stage)
        if len(self._stages) > MOST_STAGES:
            times = [each.at_ns for each in self._stages]
            inner = range(1, len(times) - 1)
            del self._stages[min(inner, key=lambda n: times[n + 1] - times[n - 1])]


def _waiting(stage: _Stage, cursors: Mapping[Cursor, CursorPlace | None]) -> set[Cursor]:
    """The cursors that have not come to where their topics ended."""
    return {
        cursor
        for cursor, place in cursors.items()
        if place is None or waiting_before(place, _behind(stage.ends[cursor[0]]))
    }


def _behind(place: Place) -> Place:
    return place[0], place[1] + 1
