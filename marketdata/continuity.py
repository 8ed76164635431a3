"""Proving that nothing was lost, doubled or swapped on the way to a consumer. Pure.

Two independent checks:

- `DeliveryContinuity`: the delivery sequences of a view's frames are contiguous per partition, so a
  consumer of a filtered view can prove it lost nothing.
- `InstrumentContinuity`: an instrument's sequences rise strictly within an epoch, and have no holes
  where every event is promised (`contiguous`).

What comes first is the baseline: a subscription may start anywhere. A breach moves the expectation
on, so each check finds it once. Frames that keep the contract cost a few vector operations; only
instruments with a breach are walked through.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_HOLES_KEPT: Final = 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the sequences of one key say.

    Attributes:
        partition: of the topic.
        key: the instrument, or `view:<id>` for delivery sequences.
        epoch: of the instrument's or the view's counter.
        first, last: the sequences it is about, both included.
    """

    partition: int
    key: str
    epoch: int
    first: int
    last: int

    is_breach = True


class Gap(Finding):
    """Sequences `first`…`last` were skipped: events are missing, or late."""


class Duplicate(Finding):
    """Sequences `first`…`last` came before."""


class Reversal(Finding):
    """Sequences `first`…`last` came after later ones."""


class EpochChange(Finding):
    """The key's counter started anew at `first` in a new `epoch`; not a breach."""

    is_breach = False


class _Holes:
    """Sequences that were skipped and may come late: disjoint closed ranges, bounded in number."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, first: int, last: int) -> None:
        """Remember a range above all others."""
        self._firsts.append(first)
        self._lasts.append(last)
        if len(self._firsts) > _HOLES_KEPT:
            del self._firsts[0], self._lasts[0]

    def fill(self, first: int, last: int) -> Iterator[tuple[bool, int, int]]:
        """Split first…last into ranges that (True) fill a hole and that (False) came before."""
        while first <= last:
            i = bisect_right(self._firsts, first) - 1
            if i >= 0 and first <= self._lasts[i]:
                end = min(last, self._lasts[i])
                self._cut(i, first, end)
                yield True, first, end
            else:
                end = last
                if i + 1 < len(self._firsts):
                    end = min(last, self._firsts[i + 1] - 1)
                yield False, first, end
            first = end + 1

    def _cut(self, i: int, first: int, last: int) -> None:
        hole_first, hole_last = self._firsts[i], self._lasts[i]
        rest = [(a, b) for a, b in ((hole_first, first - 1), (last + 1, hole_last)) if a <= b]
        self._firsts[i : i + 1] = [a for a, _ in rest]
        self._lasts[i : i + 1] = [b for _, b in rest]


class DeliveryContinuity:
    """Delivery sequences of one topic: contiguous per (view, partition)."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, int], int] = {}
        self._epochs: dict[tuple[str, int], int] = {}
        self._holes: dict[tuple[str, int], _Holes] = {}

    def check(
        self, view: str, partition: int, first: int, count: int, epoch: int = 0
    ) -> list[Finding]:
        """Check a frame of `count` events whose first has delivery sequence `first`.

        A rise of `epoch` (the property `delivery_epoch`) starts the count anew.

        >>> continuity = DeliveryContinuity()
        >>> continuity.check("v", 0, 1, 10), continuity.check("v", 0, 11, 10)
        ([], [])
        >>> continuity.check("v", 0, 26, 10)
        [Gap(partition=0, key='view:v', epoch=0, first=21, last=25)]
        """
        key, last = (view, partition), first + count - 1
        findings: list[Finding] = []
        if epoch > self._epochs.setdefault(key, epoch):
            self._epochs[key] = epoch
            self._next[key] = 1
            self._holes.pop(key, None)
            findings.append(EpochChange(partition, f"view:{view}", epoch, 1, 1))
        expected = self._next.setdefault(key, first)
        if epoch < self._epochs[key]:
            findings.append(Duplicate(partition, f"view:{view}", epoch, first, last))
            return findings
        if first < expected:
            behind = min(last, expected - 1)
            for late, a, b in self._holes.setdefault(key, _Holes()).fill(first, behind):
                kind = Reversal if late else Duplicate
                findings.append(kind(partition, f"view:{view}", epoch, a, b))
        elif first > expected:
            self._holes.setdefault(key, _Holes()).add(expected, first - 1)
            findings.append(Gap(partition, f"view:{view}", epoch, expected, first - 1))
        self._next[key] = max(expected, last + 1)
        return findings

    def forget(self, partition: int | None = None) -> None:
        """Take the next frame of a partition (None: of every one) as a new baseline."""
        for key in [key for key in self._next if partition in (None, key[1])]:
            del self._next[key]
            self._epochs.pop(key, None)
            self._holes.pop(key, None)


class InstrumentContinuity:
    """Sequences of the instruments of one partition.

    Args:
        partition: for the findings.
        contiguous: every event is promised, so a hole is a `Gap`.

    Without `contiguous` a late sequence cannot be told from a repeated one, except when it repeats
    the latest: that is a `Duplicate`, any other a `Reversal`.
    """

    def __init__(self, partition: int, *, contiguous: bool) -> None:
        self._partition = partition
        self._contiguous = contiguous
        self._ids: dict[str, int] = {}
        self._last: npt.NDArray[np.uint64] = np.zeros(64, dtype=np.uint64)
        self._epoch: npt.NDArray[np.uint32] = np.zeros(64, dtype=np.uint32)
        self._known: npt.NDArray[np.bool_] = np.zeros(64, dtype=np.bool_)
        self._holes: dict[int, _Holes] = {}

    def forget(self) -> None:
        """Take the next event of every instrument as a new baseline."""
        self._known[:] = False
        self._holes.clear()

    def check(
        self,
        instruments: pa.DictionaryArray,
        sequences: npt.NDArray[np.uint64],
        epochs: npt.NDArray[np.uint32],
    ) -> list[Finding]:
        """Check the events of a frame, in their order.

        Args:
            instruments: dictionary of strings, no nulls.
            sequences, epochs: of the same length.
        """
        if not len(sequences):
            return []
        names = instruments.dictionary.to_pylist()
        ids = self._ids_of(names)[instruments.indices.to_numpy(zero_copy_only=False)]
        order = np.argsort(ids, kind="stable")
        ids, sequences, epochs = ids[order], sequences[order], epochs[order]
        starts = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
        ends = np.append(starts[1:], len(ids))

        first_ids = ids[starts]
        before, before_epoch = np.roll(sequences, 1), np.roll(epochs, 1)
        before[starts], before_epoch[starts] = self._last[first_ids], self._epoch[first_ids]
        known = np.ones(len(ids), dtype=np.bool_)
        known[starts] = self._known[first_ids]

        rises = sequences == before + np.uint64(1) if self._contiguous else sequences > before
        sound = ~known | ((epochs == before_epoch) & rises)
        if not sound.all():
            odd = np.unique(np.searchsorted(starts, np.flatnonzero(~sound), side="right") - 1)
            walked = [
                (int(order[i]), finding)
                for group in odd.tolist()
                for i, finding in self._walk(
                    int(ids[starts[group]]), sequences, epochs, int(starts[group]), int(ends[group])
                )
            ]
        else:
            odd, walked = np.empty(0, dtype=np.int64), []
        smooth = np.ones(len(starts), dtype=np.bool_)
        smooth[odd] = False
        lasts = ends[smooth] - 1
        self._last[ids[lasts]] = sequences[lasts]
        self._epoch[ids[lasts]] = epochs[lasts]
        self._known[ids[lasts]] = True
        return [finding for _, finding in sorted(walked, key=lambda found: found[0])]

    def _ids_of(self, names: list[str]) -> npt.NDArray[np.int64]:
        table = self._ids
        ids = np.fromiter(
            (table.setdefault(name, len(table)) for name in names), np.int64, len(names)
        )
        while len(table) > len(self._last):
            self._last = np.concatenate((self._last, np.zeros_like(self._last)))
            self._epoch = np.concatenate((self._epoch, np.zeros_like(self._epoch)))
            self._known = np.concatenate((self._known, np.zeros_like(self._known)))
        return ids

    def _walk(
        self,
        instrument: int,
        sequences: npt.NDArray[np.uint64],
        epochs: npt.NDArray[np.uint32],
        start: int,
        end: int,
    ) -> Iterator[tuple[int, Finding]]:
        """Go through the events of an instrument that breaches; yields (place, finding)."""
        name = next(name for name, number in self._ids.items() if number == instrument)
        known = bool(self._known[instrument])
        last, epoch = int(self._last[instrument]), int(self._epoch[instrument])
        partition = self._partition
        pairs = zip(sequences[start:end].tolist(), epochs[start:end].tolist(), strict=True)
        for place, (sequence, event_epoch) in enumerate(pairs, start):
            if not known or event_epoch > epoch:
                if known:
                    yield place, EpochChange(partition, name, event_epoch, sequence, sequence)
                    self._holes.pop(instrument, None)
                known, last, epoch = True, sequence, event_epoch
            elif event_epoch < epoch:
                yield place, Reversal(partition, name, event_epoch, sequence, sequence)
            elif sequence > last:
                if self._contiguous and sequence > last + 1:
                    self._holes.setdefault(instrument, _Holes()).add(last + 1, sequence - 1)
                    yield place, Gap(partition, name, epoch, last + 1, sequence - 1)
                last = sequence
            elif self._contiguous:
                holes = self._holes.setdefault(instrument, _Holes())
                late = next(holes.fill(sequence, sequence))[0]
                kind = Reversal if late else Duplicate
                yield place, kind(partition, name, epoch, sequence, sequence)
            else:
                kind = Duplicate if sequence == last else Reversal
                yield place, kind(partition, name, epoch, sequence, sequence)
        self._last[instrument], self._epoch[instrument] = last, epoch
        self._known[instrument] = True


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
        return sum(n for name, n in self.counts.items() if name != EpochChange.__name__)

    def check(
        self,
        partition: int,
        batch: pa.RecordBatch,
        *,
        view: str | None = None,
        delivery_sequence: int | None = None,
        delivery_epoch: int = 0,
    ) -> list[Finding]:
        """Check a frame; columns that its view does not carry are not checked.

        Args:
            view, delivery_sequence: from the frame's properties; None outside `delivery`.
            delivery_epoch: from the frame's properties.
        """
        findings: list[Finding] = []
        if view is not None and delivery_sequence is not None:
            findings = self._delivery.check(
                view, partition, delivery_sequence, batch.num_rows, delivery_epoch
            )
            batch = _without_repeated(batch, delivery_sequence, findings)
        findings += self._check_instruments(partition, batch)
        self.counts.update(type(finding).__name__ for finding in findings)
        return findings

    def forget(self, partition: int | None = None) -> None:
        """Take the next frame of a partition (None: of every one) as a new baseline."""
        self._delivery.forget(partition)
        for number, instruments in self._instruments.items():
            if partition in (None, number):
                instruments.forget()

    def _check_instruments(self, partition: int, batch: pa.RecordBatch) -> list[Finding]:
        names = batch.schema.names
        if "instrument" not in names or "sequence" not in names or "epoch" not in names:
            return []
        instruments = batch.column("instrument")
        columns = (instruments, batch.column("sequence"), batch.column("epoch"))
        if any(column.null_count for column in columns):
            return []
        if not pa.types.is_dictionary(instruments.type):
            instruments = instruments.dictionary_encode()
        checker = self._instruments.get(partition)
        if checker is None:
            checker = self._instruments[partition] = InstrumentContinuity(
                partition, contiguous=self._contiguous
            )
        return checker.check(
            instruments,
            columns[1].cast(pa.uint64()).to_numpy(zero_copy_only=False),
            columns[2].cast(pa.uint32()).to_numpy(zero_copy_only=False),
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
