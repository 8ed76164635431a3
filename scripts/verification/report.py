"""What a check found: counts of every kind of violation, with samples that a person can follow."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

MOST_SAMPLES: Final = 5
"""Samples kept of one kind of violation."""


class Violation(StrEnum):
    """What can be wrong with a stream; counted in events unless said otherwise."""

    MISSING = "missing"
    """Accepted, and due here, but not here."""
    DUPLICATES = "duplicates"
    """Here more than once."""
    OUT_OF_ORDER = "out_of_order"
    """Of an instrument, here behind an event that was accepted after it."""
    UNEXPECTED = "unexpected"
    """Here, but never accepted, or not due here."""
    ALTERED = "altered"
    """Here with another content, or other columns, than it was published with."""
    SEQUENCE_GAPS = "sequence_gaps"
    """Sequences of an instrument that no event has."""
    SEQUENCE_REPEATS = "sequence_repeats"
    """Events with the sequence of an earlier event of the instrument."""
    SEQUENCE_REVERSALS = "sequence_reversals"
    """Events with a lower sequence, or epoch, than an earlier event of the instrument."""
    WRONG_PARTITION = "wrong_partition"
    """Events in another partition than the instrument's first one."""
    DELIVERY_GAPS = "delivery_gaps"
    """Delivery sequences that no event has."""
    DELIVERY_REPEATS = "delivery_repeats"
    """Events under a delivery sequence that an earlier one had."""
    WRONG_COUNT = "wrong_count"
    """Frames that hold another number of events than they say."""
    PLAN_REVERSALS = "plan_reversals"
    """Frames that name an older plan than a frame before them."""
    HEARTBEAT_LIES = "heartbeat_lies"
    """Numbers announced as the next that the event after them does not carry, or that one before
    them had carried already."""
    UNEXPLAINED_EPOCHS = "unexplained_epochs"
    """Epochs that changed without a message before them that says so and gives a reason."""


@dataclass(slots=True)
class StreamReport:
    """What was found in one stream: the log, or a view.

    Attributes:
        expected: events that had to be here.
        delivered: distinct events that had to be here and are.
        redelivered: messages that the client got again under their own id; no violation.
        latency_ns: per delivered event, from publishing to receiving; empty for the log.
    """

    name: str
    expected: int = 0
    delivered: int = 0
    redelivered: int = 0
    violations: dict[Violation, int] = field(default_factory=dict)
    samples: dict[Violation, list[str]] = field(default_factory=dict)
    latency_ns: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def count(self, violation: Violation) -> int:
        """How often a violation was found."""
        return self.violations.get(violation, 0)

    def add(self, violation: Violation, count: int, samples: list[str]) -> None:
        """Count a violation; nothing happens for a count of 0."""
        if count:
            self.violations[violation] = self.count(violation) + count
            kept = self.samples.setdefault(violation, [])
            kept.extend(samples[: MOST_SAMPLES - len(kept)])

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.violations

    def figures(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return {
            "name": self.name,
            "expected": self.expected,
            "delivered": self.delivered,
            "redelivered_messages": self.redelivered,
            "violations": {str(name): count for name, count in self.violations.items()},
            "samples": {str(name): list(texts) for name, texts in self.samples.items()},
        }


@dataclass(slots=True)
class Report:
    """What was found in a run.

    Attributes:
        accepted: events that publishers were told are stored.
        sequenced: the log; `sequenced.delivered` events of this run are in it.
        views: by name.
    """

    accepted: int
    sequenced: StreamReport
    views: dict[str, StreamReport]

    @property
    def streams(self) -> list[StreamReport]:
        """The log and all views."""
        return [self.sequenced, *self.views.values()]

    @property
    def ok(self) -> bool:
        """Whether nothing was found anywhere."""
        return all(stream.ok for stream in self.streams)

    def text(self) -> str:
        """A few lines for people: one a stream, then samples of what is wrong."""
        lines = [f"{self.accepted} events accepted"]
        for stream in self.streams:
            found = ", ".join(f"{count} {name}" for name, count in stream.violations.items())
            lines.append(
                f"{stream.name}: {stream.delivered} of {stream.expected}; {found or 'all in order'}"
            )
            lines += [
                f"    {violation}: {text}"
                for violation, texts in stream.samples.items()
                for text in texts
            ]
        return "\n".join(lines)

    def figures(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return {
            "ok": self.ok,
            "accepted": self.accepted,
            "streams": [stream.figures() for stream in self.streams],
        }
