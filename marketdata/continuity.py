"""Proving that nothing was lost, doubled or swapped on the way to a consumer. Pure.

Two independent checks, each for what its topic promises:

- delivery sequences (`marketdata.delivery_continuity`): the frames of a view are contiguous per
  partition, so a consumer of a filtered view can prove it lost nothing;
- instrument sequences (`marketdata.instrument_continuity`): an instrument's sequences rise strictly
  within an epoch, and have no holes where every event is promised (`contiguous`).

What comes first is the baseline: a subscription may start anywhere. A breach moves the expectation
on, so each check finds it once. Heartbeats tell a loss at the end of a burst.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.arrays import values_of
from marketdata.control_frames import EPOCH
from marketdata.delivery_continuity import DeliveryContinuity
from marketdata.findings import (
    Duplicate,
    EpochChange,
    Finding,
    Gap,
    GapFilled,
    GapNotFilled,
    Reversal,
)
from marketdata.instrument_continuity import InstrumentContinuity
from marketdata.skipped import ranges_of

__all__ = [
    "Continuity",
    "DeliveryContinuity",
    "Duplicate",
    "EpochChange",
    "Finding",
    "Gap",
    "GapFilled",
    "GapNotFilled",
    "InstrumentContinuity",
    "Reversal",
]


class Continuity:
    """Both checks for the frames of one topic, with counts.

    Args:
        contiguous: every event of every instrument is promised (the `sequenced` topic, or a view
            without filter).

    Attributes:
        counts: findings by the name of their class.
    """

    def __init__(self, *, contiguous: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._contiguous = contiguous
        self._delivery = DeliveryContinuity()
        self._instruments: dict[int, InstrumentContinuity] = {}

    @property
    def breaches(self) -> int:
        """Gaps, duplicates and reversals found so far."""
        return sum(self.counts[kind.__name__] for kind in (Gap, Duplicate, Reversal))

    def check(
        self,
        partition: int,
        batch: pa.RecordBatch,
        *,
        view: str | None = None,
        delivery_sequence: int | None = None,
        delivery_epoch: int = 0,
        properties: Mapping[str, str] = MappingProxyType({}),
    ) -> list[Finding]:
        """Check a frame; columns that its view does not carry are not checked.

        Args:
            view, delivery_sequence: from the frame's properties; None outside `delivery`.
            delivery_epoch: from the frame's properties.
            properties: what the frame tells as skipped (`marketdata.skipped`) is no gap.
        """
        findings: list[Finding] = []
        if view is not None and delivery_sequence is not None:
            findings = self._delivery.check(
                view, partition, delivery_sequence, batch.num_rows, delivery_epoch
            )
            batch = _without_repeated(batch, delivery_sequence, findings)
        findings += self._check_instruments(partition, batch, properties)
        self.count(findings)
        return findings

    def check_control(
        self, partition: int, batch: pa.RecordBatch, properties: Mapping[str, str]
    ) -> list[Finding]:
        """Check what a control frame says (`marketdata.control_frames`).

        Args:
            batch: rows of `NEXT_SEQUENCES` on topics of instrument sequences, none elsewhere.
            properties: of the message.
        """
        findings: list[Finding] = []
        following = properties.get("delivery_sequence")
        if following is not None:
            findings = self._delivery.check(
                properties["view"],
                partition,
                int(following),
                0,
                int(properties.get("delivery_epoch", "0")),
            )
        elif self._contiguous and batch.num_rows:
            findings = self._instruments_of(partition).expect(*_upcoming(batch))
        if properties.get("kind") == EPOCH:
            findings = _announced(partition, properties, findings)
        self.count(findings)
        return findings

    def fill(
        self,
        partition: int,
        batch: pa.RecordBatch,
        *,
        view: str | None = None,
        delivery_sequence: int | None = None,
        delivery_epoch: int = 0,
        properties: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Events of a gap were read again: what comes of them after this is a `Duplicate`.

        Args:
            batch, view, delivery_sequence, delivery_epoch, properties: as for `check`.
        """
        if view is not None and delivery_sequence is not None:
            self._delivery.check(view, partition, delivery_sequence, batch.num_rows, delivery_epoch)
        if self._contiguous:
            self._check_instruments(partition, batch, properties)

    def count(self, findings: Iterable[Finding]) -> None:
        """Count findings that were made elsewhere."""
        self.counts.update(type(finding).__name__ for finding in findings)

    def forget(self, partition: int | None = None) -> None:
        """Take the next frame of a partition (None: of every one) as a new baseline."""
        self._delivery.forget(partition)
        for number, instruments in self._instruments.items():
            if partition in (None, number):
                instruments.forget()

    def _instruments_of(self, partition: int) -> InstrumentContinuity:
        checker = self._instruments.get(partition)
        if checker is None:
            checker = self._instruments[partition] = InstrumentContinuity(
                partition, contiguous=self._contiguous
            )
        return checker

    def _check_instruments(
        self, partition: int, batch: pa.RecordBatch, properties: Mapping[str, str]
    ) -> list[Finding]:
        names = batch.schema.names
        if "instrument" not in names or "sequence" not in names or "epoch" not in names:
            return []
        instruments = batch.column("instrument")
        columns = (instruments, batch.column("sequence"), batch.column("epoch"))
        if not batch.num_rows or any(column.null_count for column in columns):
            return []
        if not pa.types.is_dictionary(instruments.type):
            instruments = instruments.dictionary_encode()
        sequences = columns[1].cast(pa.uint64()).to_numpy(zero_copy_only=False)
        epochs = columns[2].cast(pa.uint32()).to_numpy(zero_copy_only=False)
        checker = self._instruments_of(partition)
        if not self._contiguous:
            return checker.check(instruments, sequences, epochs)
        ranges = ranges_of(instruments, sequences, epochs, properties)
        return checker.check(ranges.instruments, ranges.lasts, ranges.epochs, ranges.firsts)


def _announced(
    partition: int, properties: Mapping[str, str], findings: list[Finding]
) -> list[Finding]:
    """The findings of an epoch frame: its change with its reason, first of all."""
    reason = properties.get("reason", "")
    changes = [finding for finding in findings if isinstance(finding, EpochChange)]
    if not changes:
        epoch = int(properties.get("epoch", "0"))
        return [EpochChange(partition, "*", epoch, 1, 1, reason), *findings]
    return [replace(f, reason=reason) if isinstance(f, EpochChange) else f for f in findings]


def _upcoming(
    batch: pa.RecordBatch,
) -> tuple[pa.StringArray, npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """The columns of `NEXT_SEQUENCES`."""
    return (
        batch.column("instrument"),
        values_of(batch.column("sequence"), np.uint64),
        values_of(batch.column("epoch"), np.uint32),
    )


def _without_repeated(batch: pa.RecordBatch, first: int, findings: list[Finding]) -> pa.RecordBatch:
    """The events that did not come before: repeated ones say nothing new about instruments."""
    repeated = [finding for finding in findings if isinstance(finding, Duplicate)]
    if not repeated:
        return batch
    fresh = np.ones(batch.num_rows, dtype=np.bool_)
    for finding in repeated:
        fresh[finding.first - first : finding.last - first + 1] = False
    return batch.filter(pa.array(fresh))
