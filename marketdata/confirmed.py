"""What a workflow has confirmed of the log: all of it up to a place in each partition.

The control plane works it out and writes it to the compacted topic `control/confirmed`, under the
name of the workflow; functions whose lane follows the workflow let no later message through.
"""

from typing import Final

import msgspec

Place = tuple[int, int]
"""Ledger and entry of a message of the log."""


class Confirmed(msgspec.Struct, frozen=True):
    """What is confirmed; what was confirmed once stays so, whatever a later message says.

    Attributes:
        workflow: whose subscriptions have acknowledged it.
        places: by partition the last message of the log that is confirmed, with all before it.
        as_of_ns: what of the log was delivered by then is confirmed, in all partitions; nanoseconds
            since the epoch, UTC. 0: nothing has been seen to be.
        waits: why no more is confirmed; "" where all is well.
    """

    workflow: str
    places: dict[int, Place]
    as_of_ns: int = 0
    waits: str = ""


encode_confirmed: Final = msgspec.json.Encoder().encode
decode_confirmed: Final = msgspec.json.Decoder(Confirmed).decode


def later(before: Confirmed, told: Confirmed) -> Confirmed:
    """What is told with what was confirmed before."""
    places = merged(before.places, told.places)
    as_of_ns = max(before.as_of_ns, told.as_of_ns)
    return msgspec.structs.replace(told, places=places, as_of_ns=as_of_ns)


def merged(before: dict[int, Place], places: dict[int, Place]) -> dict[int, Place]:
    """The later place of each partition.

    >>> merged({0: (7, 3), 1: (7, 0)}, {0: (7, 2), 2: (8, 1)})
    {0: (7, 3), 1: (7, 0), 2: (8, 1)}
    """
    return before | {n: max(place, before.get(n, place)) for n, place in places.items()}
