"""Epochs: when the sequences of a partition must start anew, and what is said of it."""

from typing import NamedTuple

LOST = (
    "the end of the log is gone: retention removed it before a snapshot covered it, so the"
    " sequences cannot be continued"
)


class NewEpoch(NamedTuple):
    """Sequences start anew in `epoch`, because of `reason`."""

    epoch: int
    reason: str


def new_epoch(
    epoch: int,
    *,
    lost: bool,
    floor: int,
    floor_reason: str,
    partitions: int,
    recovered_partitions: int | None,
) -> NewEpoch | None:
    """Whether the state recovered for a partition is to be continued (None), or starts anew.

    Args:
        epoch: of the recovered state.
        lost: the state lacks the end of the log.
        floor, floor_reason: the topology's least epoch, and why it was raised.
        partitions: how many the log has by the topology.
        recovered_partitions: how many it had when the state was written; None when not known.

    >>> new_epoch(1, lost=False, floor=2, floor_reason="8 partitions", partitions=8,
    ...           recovered_partitions=4)
    NewEpoch(epoch=2, reason='8 partitions')
    """
    if epoch < floor:
        return NewEpoch(floor, floor_reason)
    if lost:
        return NewEpoch(epoch + 1, LOST)
    if recovered_partitions not in (None, partitions):
        return NewEpoch(
            epoch + 1,
            f"the number of partitions changed from {recovered_partitions} to {partitions}, which"
            " moves instruments between partitions",
        )
    return None
