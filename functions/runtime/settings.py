"""The configuration of a function: its `userConfig`, checked on first use."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from marketdata import topics
from marketdata.frames import MAX_ROWS
from marketdata.lanes import DEFAULT_LANE, LANE_PATTERN
from marketdata.ordering import SourcePolicy


class Topics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Full names of the topics a function reads and writes."""

    ingest: str = topics.INGEST_EVENTS
    sequenced: str = topics.SEQUENCED_EVENTS
    deadletter: str = ""
    plans: str = topics.PLANS
    reference: str = topics.REFERENCE
    status: str = topics.STATUS
    confirmed: str = topics.CONFIRMED
    state: str = topics.SEQUENCER_STATE
    ordering: str = topics.ORDERING
    resend: str = topics.RESEND


class EpochFloor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The least epoch of every partition, and why it was raised last."""

    floor: int = 1
    reason: str = "the epoch floor was raised in the topology"


class FunctionSettings(msgspec.Struct, frozen=True):
    """What the topology gives a function in its `userConfig`.

    Attributes:
        topics: names of topics.
        partitions: of `ingest` and `sequenced`.
        operators: the operators this function runs, in order.
        max_rows: most events that small frames are merged into.
        free_messages_per_second: an instance that sends more has its inputs gather meanwhile, up to
            `gather_max_s`, so that fewer and larger messages leave (`marketdata.pace`).
        gather_max_s: the longest that inputs gather.
        snapshot_interval_s: pace of the sequencer's snapshots.
        heartbeat_interval_s: a partition in which nothing came for so long gets a tick, and a view
            that got no row for so long a heartbeat.
        heartbeat_max_interval_s: heartbeats of a view that stays quiet come ever more rarely, up to
            this distance.
        custom_timeout_s: how long the events of a view wait for its custom transformation, and with
            them all others.
        epoch: the least epoch of the sequences.
        lane: which views a distributor serves (`marketdata.lanes`).
        elsewhere: the lanes that other distributors serve.
        sources: policies by a source's name or pattern, or `default`.
        bundle_digest: of the code; reported as the instance's version.
    """

    topics: Topics
    partitions: int
    operators: tuple[str, ...] = ()
    max_rows: int = MAX_ROWS
    free_messages_per_second: Annotated[float, Meta(gt=0)] = 200.0
    gather_max_s: Annotated[float, Meta(ge=0)] = 0.1
    snapshot_interval_s: float = 5.0
    heartbeat_interval_s: float = 1.0
    heartbeat_max_interval_s: float = 30.0
    custom_timeout_s: float = 5.0
    epoch: EpochFloor = EpochFloor()
    lane: Annotated[str, Meta(pattern=f"^$|{LANE_PATTERN}")] = DEFAULT_LANE
    elsewhere: tuple[str, ...] = ()
    sources: dict[str, SourcePolicy] = {}
    bundle_digest: str = ""

    @classmethod
    def from_user_config(cls, config: Any) -> "FunctionSettings":
        """Check and convert.

        Raises:
            msgspec.ValidationError: naming the field and what is wrong with it.
        """
        return msgspec.convert(dict(config), cls, strict=False)
