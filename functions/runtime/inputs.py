"""Input messages of one partition, from receipt until every output made of them is confirmed.

Promise: an input stays in `PartitionInputs` until all its outputs are stored, so whatever has to
be done again after a lost producer can be done from memory and in order. A crash of the process
loses nothing either, because an input is acknowledged only when it leaves here.

The broker does not keep the order where a partition changes hands: for a second it may hand the new
consumer what follows the inputs it had handed the old one, and then all that is not acknowledged.
Whoever took the later ones first could never take the earlier ones. So an input is taken only
behind the one right before it, or when a redelivery has begun with it.
"""

from collections import deque
from collections.abc import Hashable, Iterator
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from marketdata.positions import BATCH_BITS, NO_POSITION, Position, follows

if TYPE_CHECKING:
    from functions.runtime.outputs import Output


class Input:
    """One message of an input topic.

    Attributes:
        position: its place in the partition, packed (`marketdata.positions`).
        data: the payload; size_bytes: its length, also when it has been let go.
        properties: the message's properties.
        time_ms: when its writer wrote it, as the log has it: milliseconds since the epoch, UTC.
        message_ids: what the consumer acknowledges; several when it was delivered again meanwhile.
        alone: its entry holds no other message, so positions up to the next entry are free.
        waiting: outputs that have been sent something made of it and have not confirmed, with the
            position of the last message sent.
        held: the function still needs it for what it will send later.
        applied: whether the function has processed it at least once.
        takes_room: it counts among the inputs that may be in flight.
        done: nothing more is to be made of it; it only waits for those before it.
        failures: what has been noted of it (`functions.runtime.failures`).
    """

    __slots__ = (
        "alone",
        "applied",
        "data",
        "done",
        "failures",
        "held",
        "message_ids",
        "position",
        "properties",
        "size_bytes",
        "takes_room",
        "time_ms",
        "waiting",
    )

    def __init__(
        self, message_id: Any, data: bytes, properties: dict[str, str], time_ms: int = 0
    ) -> None:
        self.message_ids = [message_id]
        self.data = data
        self.size_bytes = len(data)
        self.properties = properties
        self.time_ms = time_ms
        # No valid frame stands behind the last index: thousands of frames do not fit an entry.
        index = min(message_id.batch_index(), (1 << BATCH_BITS) - 1)
        self.position = Position(message_id.ledger_id(), message_id.entry_id(), index).pack()
        self.alone = message_id.batch_index() < 0
        self.waiting: dict[Output, int] = {}
        self.held = False
        self.applied = False
        self.takes_room = True
        self.done = False
        self.failures: frozenset[Hashable] = frozenset()

    @property
    def is_confirmed(self) -> bool:
        """Whether all that will ever be made of it is stored."""
        return self.applied and not self.waiting and not self.held


class Offer(Enum):
    """What became of an input that was offered."""

    TAKEN = auto()
    KNOWN = auto()
    """It is here, or was confirmed."""
    DOUBTFUL = auto()
    """Earlier ones may be missing: it is not taken, and all that is not acknowledged is to be
    delivered again."""


class PartitionInputs:
    """The unconfirmed inputs of one partition, in log order."""

    def __init__(self) -> None:
        self._pending: deque[Input] = deque()
        self._confirmed_through = NO_POSITION
        self._doubtful: int | None = None
        self._newest_in_doubt: int | None = None
        self._in_doubt = False

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[Input]:
        return iter(self._pending)

    @property
    def confirmed_through(self) -> int:
        """Position up to which every input received here has been confirmed."""
        return self._confirmed_through

    @property
    def in_doubt(self) -> bool:
        """Whether a redelivery is waited for."""
        return self._in_doubt

    @property
    def unasked(self) -> bool:
        """Whether something in doubt has come since the last question."""
        return self._newest_in_doubt is not None

    def forget(self) -> list[Input]:
        """Give up what is not confirmed: it is to come again in a redelivery, which is asked for.

        Returns:
            What was given up.
        """
        given_up = list(self._pending)
        if given_up:
            self._pending.clear()
            self._in_doubt = True
            self._newest_in_doubt = max(given_up[-1].position, self._newest_in_doubt or NO_POSITION)
        return given_up

    def asked_again(self) -> int | None:
        """A redelivery is asked for (again): it begins at or before the newest input in doubt.

        What was in doubt before the last question is forgotten: the partition may have been read
        elsewhere meanwhile, so what comes at or before it need not be a beginning any more.

        Returns:
            The position of that one; None where nothing came since the last question.
        """
        self._doubtful, self._newest_in_doubt = self._newest_in_doubt, None
        return self._doubtful

    def offer(self, item: Input) -> Offer:
        """Take an input in, if it is new and surely the next one.

        The broker delivers again what was not acknowledged, for example after a reconnect. One that
        is here is acknowledged under both ids once it is confirmed; one that was confirmed before
        (`item.position <= confirmed_through`) is the caller's to acknowledge.
        """
        last = self._pending[-1].position if self._pending else self._confirmed_through
        if item.position <= last:
            for known in reversed(self._pending):
                if known.position == item.position:
                    known.message_ids += item.message_ids
                    break
            return Offer.KNOWN
        # What comes at or before the one in doubt comes with the redelivery, which begins with the
        # first that is not acknowledged.
        redelivered = self._doubtful is not None and item.position <= self._doubtful
        if redelivered or follows(item.position, last):
            self._doubtful = self._newest_in_doubt = None
            self._in_doubt = False
            self._pending.append(item)
            return Offer.TAKEN
        self._in_doubt = True
        self._newest_in_doubt = item.position
        return Offer.DOUBTFUL

    def take_confirmed(self) -> Iterator[Input]:
        """Remove and yield, in order, the inputs whose outputs are all confirmed."""
        while self._pending and self._pending[0].is_confirmed:
            item = self._pending.popleft()
            self._confirmed_through = item.position
            yield item
