"""What the sequences of a topic can say: findings, from a gap to what became of it.

Finding
├── Gap             sequences were skipped
├── Duplicate       sequences came before
├── Reversal        sequences came after later ones
├── EpochChange     a counter started anew (no breach)
├── GapFilled       skipped sequences were read again and handed out (no breach)
└── GapNotFilled    skipped sequences could not be had, and why
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the sequences of one key say.

    Attributes:
        partition: of the topic.
        key: the instrument, `view:<id>` for delivery sequences, `*` for all of the partition.
        epoch: of the instrument's or the view's counter.
        first, last: the sequences it is about, both included.
    """

    partition: int
    key: str
    epoch: int
    first: int
    last: int

    is_breach = True


class Gap(Finding):
    """Sequences `first`…`last` were skipped: events are missing, or late."""


class Duplicate(Finding):
    """Sequences `first`…`last` came before."""


class Reversal(Finding):
    """Sequences `first`…`last` came after later ones."""


class GapFilled(Finding):
    """Sequences `first`…`last` of a gap were read again; their frames stand before this one."""

    is_breach = False


@dataclass(frozen=True, slots=True)
class EpochChange(Finding):
    """The key's counter started anew at `first` in a new `epoch`; not a breach.

    Attributes:
        reason: why, where the change was announced by an epoch frame.
    """

    reason: str = ""

    is_breach = False


@dataclass(frozen=True, slots=True)
class GapNotFilled(Finding):
    """Sequences `first`…`last` of a gap could not be read again.

    Attributes:
        reason: what stood in the way.
    """

    reason: str = ""
