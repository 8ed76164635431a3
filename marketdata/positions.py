"""Positions of messages in a log as one rising 63-bit number.

The number is used as the Pulsar sequence id of whatever is made from that message, so that the
broker's deduplication and `Producer.last_sequence_id()` speak about inputs. Layout, from the top:
27 bits ledger id, 23 bits entry id, 12 bits index in a producer's batch, and a lowest bit that is
set. That is room for 134 million ledgers, 8 million entries a ledger (which rolls over after
50,000, but not within its first ten minutes) and batches of 4,096 messages, Pulsar's default being
1,000. With the lowest bit clear the number is a place of its own just before the message, for an
announcement that must precede whatever is made from it (`place_before`).
"""

from typing import Final, NamedTuple

from marketdata.errors import PositionOverflow

LEDGER_BITS: Final = 27
ENTRY_BITS: Final = 23
BATCH_BITS: Final = 12

NO_POSITION: Final = -1
"""Before every message; also what Pulsar gives as the last sequence id of a new producer."""


class Position(NamedTuple):
    """A message's place in one partition of a topic; compares in log order."""

    ledger_id: int
    entry_id: int
    batch_index: int = 0

    def pack(self) -> int:
        """The position as a number that rises along the log.

        Raises:
            PositionOverflow: a part is beyond its bits; sizes are explained in the module.
        """
        ledger, entry, index = self.ledger_id, self.entry_id, max(self.batch_index, 0)
        if (
            not 0 <= ledger < 1 << LEDGER_BITS
            or not 0 <= entry < 1 << ENTRY_BITS
            or not 0 <= index < 1 << BATCH_BITS
        ):
            raise PositionOverflow(
                f"position {ledger}:{entry}:{index} does not fit {LEDGER_BITS}+{ENTRY_BITS}+"
                f"{BATCH_BITS} bits; keep producers' batches at or below {1 << BATCH_BITS} messages"
                " and managedLedgerMaxEntriesPerLedger below "
                f"{1 << ENTRY_BITS}"
            )
        return ((ledger << ENTRY_BITS | entry) << BATCH_BITS | index) << 1 | 1


def place_before(number: int) -> int:
    """The place just before a packed position: behind every earlier message, before this one.

    >>> Position(7, 3, 0).pack() < place_before(Position(7, 3, 1).pack()) < Position(7, 3, 1).pack()
    True
    """
    return number & ~1


def containing(number: int) -> Position:
    """The message that a place in the log is of: it may be that of a piece before the last.

    A frame of the log that is delivered in pieces gives them the places before its own, of which
    each is two below the next; nobody sends so many messages in one batch that they reach there.

    >>> containing(Position(7, 3).pack() - 2 * 5)
    Position(ledger_id=7, entry_id=3, batch_index=0)
    """
    ledger, entry, index = unpack(number)
    if index < 1 << (BATCH_BITS - 1):
        return Position(ledger, entry, index)
    entry = (entry + 1) & ((1 << ENTRY_BITS) - 1)
    return Position(ledger if entry else ledger + 1, entry)


def follows(number: int, last: int) -> bool:
    """Whether no message can stand between two packed positions, the later one first.

    Where a ledger ends is not known, so the first message of a ledger follows none.

    >>> follows(Position(7, 3, 0).pack(), Position(7, 2, 5).pack())
    True
    """
    if last == NO_POSITION:
        return False
    here, before = unpack(number), unpack(last)
    if here.ledger_id != before.ledger_id:
        return False
    if here.entry_id == before.entry_id:
        return here.batch_index == before.batch_index + 1
    return here.entry_id == before.entry_id + 1 and here.batch_index == 0


def unpack(number: int) -> Position:
    """The position that a non-negative packed number stands for, or stands just before.

    >>> unpack(Position(7, 3, 1).pack())
    Position(ledger_id=7, entry_id=3, batch_index=1)
    """
    return Position(
        number >> (ENTRY_BITS + BATCH_BITS + 1),
        (number >> (BATCH_BITS + 1)) & ((1 << ENTRY_BITS) - 1),
        (number >> 1) & ((1 << BATCH_BITS) - 1),
    )
