"""What a record of a run is made of: columns that grow, and one small record a frame."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Columns = dict[str, npt.NDArray[Any]]

NOT_DELIVERED: Final = -1
"""Stands for the epoch or the source of a row whose view leaves it out."""


NO_PLAN: Final = -1
"""Stands for the plan of a control frame, which need not name one."""


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """What a delivered frame said about itself; `rows` is what it held.

    `control` is the kind of a control frame (`heartbeat` or `epoch`), empty for events; `reason` is
    what an epoch frame gives.
    """

    partition: int
    delivery_epoch: int
    delivery_sequence: int
    count: int
    rows: int
    plan: int
    control: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """An epoch frame of the log: which epoch it opens, behind how many events of its partition."""

    partition: int
    behind: int
    epoch: int
    reason: str


class Chunks:
    """Columns that grow by chunks."""

    def __init__(self, dtypes: Mapping[str, npt.DTypeLike]) -> None:
        self._dtypes = dict(dtypes)
        self._chunks: list[Columns] = []

    def append(self, columns: Columns) -> None:
        """Add rows; every column must be there."""
        self._chunks.append(columns)

    def columns(self) -> Columns:
        """All rows so far."""
        chunks = list(self._chunks)
        return {
            name: np.concatenate([np.zeros(0, dtype), *(chunk[name] for chunk in chunks)]).astype(
                dtype, copy=False
            )
            for name, dtype in self._dtypes.items()
        }


@dataclass(slots=True)
class ReceivedView:
    """What came from one view."""

    rows: Chunks = field(
        default_factory=lambda: Chunks(
            {
                "partition": np.int32,
                "instrument": np.int64,
                "sequence": np.int64,
                "epoch": np.int64,
                "source": np.int64,
                "fingerprint": np.uint64,
                "received_ns": np.int64,
            }
        )
    )
    frames: list[FrameRecord] = field(default_factory=list)
    carried: dict[int, FrameRecord] = field(default_factory=dict)
    events: int = 0
    last_received_ns: int = 0
