"""The names of the topics, in one place.

The topology (`topology/*.yaml`) declares them; functions get theirs through their config, so
these constants are the defaults of clients and of the control plane.
"""

from typing import Final

TENANT: Final = "marketdata"

INGEST_EVENTS: Final = f"persistent://{TENANT}/ingest/events"
SEQUENCED_EVENTS: Final = f"persistent://{TENANT}/sequenced/events"
DEADLETTER_SEQUENCER: Final = f"persistent://{TENANT}/deadletter/sequencer"
DEADLETTER_DISTRIBUTOR: Final = f"persistent://{TENANT}/deadletter/distributor"
DEADLETTER_CONFLATOR: Final = f"persistent://{TENANT}/deadletter/conflator"
PLANS: Final = f"persistent://{TENANT}/control/plans"
REFERENCE: Final = f"persistent://{TENANT}/control/reference"
STATUS: Final = f"persistent://{TENANT}/control/status"
CONFIRMED: Final = f"persistent://{TENANT}/control/confirmed"
ORDERING: Final = f"persistent://{TENANT}/control/ordering"
RESEND: Final = f"persistent://{TENANT}/control/resend"
AUDIT: Final = f"persistent://{TENANT}/audit/entries"
SEQUENCER_STATE: Final = f"persistent://{TENANT}/control/sequencer-state"


def delivery_topic(view_id: str) -> str:
    """The topic of a view."""
    return f"persistent://{TENANT}/delivery/view-{view_id}"


def partition_topic(topic: str, partition: int) -> str:
    """The name of one partition of a partitioned topic."""
    return f"{topic}-partition-{partition}"


def partition_index(topic: str) -> int:
    """The partition number in a topic's name; 0 for a topic without partitions."""
    _, separator, index = topic.rpartition("-partition-")
    return int(index) if separator and index.isdigit() else 0
