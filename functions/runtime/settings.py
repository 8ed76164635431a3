"""The configuration of a function: its `userConfig`, checked on first use."""

from typing import Any

import msgspec

from marketdata import topics
from marketdata.frames import MAX_ROWS
from marketdata.ordering import SourcePolicy


class Topics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Full names of the topics a function reads and writes."""

    ingest: str = topics.INGEST_EVENTS
    sequenced: str = topics.SEQUENCED_EVENTS
    deadletter: str = ""
    plans: str = topics.PLANS
    status: str = topics.STATUS
    state: str = topics.SEQUENCER_STATE
    ordering: str = topics.ORDERING
    resend: str = topics.RESEND


class FunctionSettings(msgspec.Struct, frozen=True):
    """What the topology gives a function in its `userConfig`.

    Attributes:
        topics: names of topics.
        partitions: of `ingest` and `sequenced`.
        operators: the operators this function runs, in order.
        max_rows: most events that small frames are merged into.
        snapshot_interval_s: pace of the sequencer's snapshots.
        sources: policies by a source's name or pattern, or `default`.
        bundle_digest: of the code; reported as the instance's version.
    """

    topics: Topics
    partitions: int
    operators: tuple[str, ...] = ()
    max_rows: int = MAX_ROWS
    snapshot_interval_s: float = 5.0
    sources: dict[str, SourcePolicy] = {}
    bundle_digest: str = ""

    @classmethod
    def from_user_config(cls, config: Any) -> "FunctionSettings":
        """Check and convert.

        Raises:
            msgspec.ValidationError: naming the field and what is wrong with it.
        """
        return msgspec.convert(dict(config), cls, strict=False)
