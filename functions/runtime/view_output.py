"""The output of a view's partition: an `Output` that also counts deliveries without holes."""

import pulsar

from functions.runtime.outputs import Output, newest_stored, position_property
from marketdata.conflation import SINCE_PROPERTY
from marketdata.plans import View
from marketdata.positions import NO_POSITION
from marketdata.topics import partition_topic
from marketdata.view_schemas import topic_schema


class ViewOutput(Output):
    """One partition of a view's topic.

    Attributes:
        next_delivery: delivery sequence of the next event; the first is 1.
        delivery_epoch: the position from which the count runs, so that it rises whenever the count
            could not be continued and starts at 1 again, because retention had removed every
            message it could be read from; None before the first message.
        restarted: the count could not be continued, and its readers have not been told yet.
        since: the position behind which a window of events began that is stored in part; None
            where all that is stored is whole.
    """

    def __init__(self, view: View, partition: int) -> None:
        super().__init__(
            partition_topic(view.topic, partition),
            "distributor",
            together=view.delivery.as_entries,
            schema=topic_schema(view),
        )
        self.next_delivery = 1
        self.delivery_epoch: int | None = None
        self.restarted = False
        self.since: int | None = None

    def open(self, client: pulsar.Client) -> None:
        """Take the partition over; continue position and count from its newest message."""
        super().open(client)
        try:
            newest = newest_stored(client, self)
        except BaseException:
            self.broken = True
            raise
        self.restarted = newest is None and self.position != NO_POSITION
        if newest is not None:
            properties = newest.properties()
            self.position = max(self.position, position_property(newest))
            self.next_delivery = int(properties["delivery_sequence"]) + int(properties["count"])
            self.delivery_epoch = int(properties["delivery_epoch"])
            since = properties.get(SINCE_PROPERTY)
            self.since = None if since is None else int(since)
        else:
            # Also when nothing was ever stored: what was sent before and lost is sent again.
            self.next_delivery = 1
            self.delivery_epoch = None
