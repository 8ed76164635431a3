"""What a consumer has seen, in numbers."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(slots=True)
class ConsumerStatistics:
    """What a consumer has seen.

    Attributes:
        events, frames: handed out with filled ones; redelivered ones are not counted again.
        gaps, duplicates, reversals, epoch_changes: findings by class.
        filled_events, filled_frames: read again and handed out where there was a gap.
        gaps_not_filled: ranges that could not be read again although filling is on.
        redelivered_frames: handed out again because they had not been acknowledged.
        dropped_frames: delivered again by the broker after they had been acknowledged.
        rewinds: times the cursor was moved back behind this consumer.
        handovers: times another member of the group had read on in between.
        heartbeats, epochs: control frames by kind.
        last_heartbeat_at: when the latest heartbeat came here, UTC; None before the first.
        idle_s: since when neither an event nor a heartbeat has come.
    """

    events: int = 0
    frames: int = 0
    gaps: int = 0
    duplicates: int = 0
    reversals: int = 0
    epoch_changes: int = 0
    filled_events: int = 0
    filled_frames: int = 0
    gaps_not_filled: int = 0
    redelivered_frames: int = 0
    dropped_frames: int = 0
    rewinds: int = 0
    handovers: int = 0
    heartbeats: int = 0
    epochs: int = 0
    last_heartbeat_at: datetime | None = None
    idle_s: float = 0.0
