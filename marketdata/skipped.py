"""What conflation and sampling leave out, as messages tell it and consumers read it. Pure."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

SKIPPED_PROPERTY: Final = "skipped"
"""Message property: the events skipped right before those of the message, as `Skipped.encode`."""

BEHIND_PROPERTY: Final = "skipped_behind"
"""Message property: the same of events behind those of the message."""

ONE_OF_PROPERTY: Final = "one_of"
"""Message property of views that get 1 of N: of each instrument the multiples of this number."""

CONFLATED_PROPERTY: Final = "conflated"
"""Message property: there on every message of a view that is conflated, heartbeats too."""

INTERVAL_PROPERTY: Final = "interval_begin_ms"
INTERVAL_LENGTH_PROPERTY: Final = "interval_ms"
"""Message properties of conflated events: the interval that they are of, by the time of publishing
in the log; milliseconds, since the epoch, UTC."""


class Skipped(NamedTuple):
    """Ranges of an instrument's sequences in which events of a view were skipped.

    Where the view has a filter, sequences of the range may be of events that it never had.

    Attributes:
        instrument: of each range.
        first, last: sequences of the first and the last skipped event of each range.
        events: how many were skipped in it.
    """

    instrument: tuple[str, ...] = ()
    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()
    events: tuple[int, ...] = ()

    def encode(self) -> str:
        """As JSON: the columns by name.

        >>> Skipped(("A",), (3,), (5,), (3,)).encode()
        '{"instrument":["A"],"first":[3],"last":[5],"events":[3]}'
        """
        return msgspec.json.encode(self._asdict()).decode()

    @classmethod
    def decode(cls, text: str) -> "Skipped":
        """What `encode` made.

        Raises:
            msgspec.ValidationError, msgspec.DecodeError: it is something else.
        """
        columns = msgspec.json.decode(text, type=_Columns)
        return cls(columns.instrument, columns.first, columns.last, columns.events)

    @classmethod
    def told_by(cls, properties: Mapping[str, str]) -> "Skipped":
        """All that a message tells, before its events and behind them."""
        before, behind = (
            cls.decode(properties[name]) if name in properties else cls()
            for name in (SKIPPED_PROPERTY, BEHIND_PROPERTY)
        )
        return cls(
            before.instrument + behind.instrument,
            before.first + behind.first,
            before.last + behind.last,
            before.events + behind.events,
        )


class _Columns(msgspec.Struct):
    instrument: tuple[str, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    events: tuple[int, ...]


class Ranges(NamedTuple):
    """Ranges of sequences, by rising first one.

    Attributes:
        instruments: dictionary of strings.
        firsts, lasts: sequences.
        epochs: of the sequences.
    """

    instruments: pa.DictionaryArray
    firsts: npt.NDArray[np.uint64]
    lasts: npt.NDArray[np.uint64]
    epochs: npt.NDArray[np.uint32]


def ranges_of(
    instruments: pa.DictionaryArray,
    sequences: npt.NDArray[np.uint64],
    epochs: npt.NDArray[np.uint32],
    properties: Mapping[str, str],
) -> Ranges:
    """What a message accounts for: its events, and what it tells as skipped.

    Args:
        instruments, sequences, epochs: of its events, at least one; all of one epoch where
            something was skipped.
        properties: of the message.
    """
    firsts = sequences
    told = Skipped.told_by(properties)
    if told.instrument:
        names = [instruments.cast(pa.utf8()), pa.array(told.instrument, pa.utf8())]
        firsts = np.concatenate([sequences, np.array(told.first, np.uint64)])
        lasts = np.concatenate([sequences, np.array(told.last, np.uint64)])
        order = np.argsort(firsts, kind="stable")
        instruments = pa.concat_arrays(names).take(pa.array(order)).dictionary_encode()
        firsts, sequences = firsts[order], lasts[order]
        epochs = np.full(len(order), epochs[0], np.uint32)
    if ONE_OF_PROPERTY in properties:
        firsts = firsts - np.uint64(int(properties[ONE_OF_PROPERTY]) - 1)
    return Ranges(instruments, firsts, sequences, epochs)
