"""Reading a stretch of a topic's partition again, beside whatever subscriptions it has."""

import time
from collections.abc import Generator
from typing import Final

import pulsar

from marketdata.delivered_frames import position_of
from marketdata.errors import DistributionError
from marketdata.positions import Position
from marketdata.topics import partition_index

_PREFETCHED: Final = 64


class HistoryTimeout(DistributionError):
    """Reading again took longer than it may; ask for more time or for less."""


def read_stretch(
    client: pulsar.Client,
    topic: str,
    first: Position,
    last: Position,
    *,
    deadline: float,
    prefetch: int = _PREFETCHED,
    reader: str = "",
) -> Generator[tuple[Position, pulsar.Message]]:
    """The messages from `first` to `last`, both included as far as they are still there.

    Args:
        topic: one partition's own topic.
        deadline: on `time.monotonic()`.
        prefetch: so many messages may be under way before they are asked for.
        reader: how the name of the reader's cursor begins. A broker that asks who its clients are
            lets a consumer read a view only under names that begin with its id.

    Raises:
        HistoryTimeout: the deadline has passed.
        pulsar.PulsarException: the broker cannot be reached or refuses.
    """
    # The whole entry: positions tell neither whether it is a batch nor what the client calls it.
    start = pulsar.MessageId(partition_index(topic), first.ledger_id, first.entry_id, -1)
    opened = client.create_reader(
        topic,
        start,
        receiver_queue_size=prefetch,
        subscription_role_prefix=reader or None,
        start_message_id_inclusive=True,
    )
    try:
        while opened.has_message_available():
            left_ms = int((deadline - time.monotonic()) * 1000)
            if left_ms <= 0:
                raise HistoryTimeout(f"{topic} was not read to {last} in time")
            message = opened.read_next(left_ms)
            position = position_of(message.message_id())
            if position > last:
                return
            if position >= first:
                yield position, message
            # A message that is no batch's is alone in its entry.
            alone = message.message_id().batch_index() < 0
            if position == last or (alone and position[:2] == last[:2]):
                return
    finally:
        opened.close()
