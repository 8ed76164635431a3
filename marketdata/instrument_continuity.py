"""Instrument sequences: they rise within an epoch, without holes where all is promised. Pure.

Frames that keep the contract cost a few vector operations; only instruments with a breach are
walked through.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.delivery_continuity import HOLES_KEPT
from marketdata.findings import Duplicate, EpochChange, Finding, Gap, Reversal
from marketdata.holes import Holes


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
        self._names: list[str] = []
        self._last: npt.NDArray[np.uint64] = np.zeros(64, dtype=np.uint64)
        self._epoch: npt.NDArray[np.uint32] = np.zeros(64, dtype=np.uint32)
        self._known: npt.NDArray[np.bool_] = np.zeros(64, dtype=np.bool_)
        self._holes: dict[int, Holes] = {}

    def forget(self) -> None:
        """Take the next event of every instrument as a new baseline."""
        self._known[:] = False
        self._holes.clear()

    def check(
        self,
        instruments: pa.DictionaryArray,
        sequences: npt.NDArray[np.uint64],
        epochs: npt.NDArray[np.uint32],
        firsts: npt.NDArray[np.uint64] | None = None,
    ) -> list[Finding]:
        """Check the events of a frame, in their order.

        Args:
            instruments: dictionary of strings, no nulls.
            sequences, epochs: of the same length.
            firsts: of the same length, where what is checked are ranges that end with `sequences`.
        """
        if not len(sequences):
            return []
        firsts = sequences if firsts is None else firsts
        names = instruments.dictionary.to_pylist()
        ids = self._ids_of(names)[instruments.indices.to_numpy(zero_copy_only=False)]
        order = np.argsort(ids, kind="stable")
        ids, sequences, epochs = ids[order], sequences[order], epochs[order]
        firsts = firsts[order]
        starts = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
        ends = np.append(starts[1:], len(ids))

        first_ids = ids[starts]
        before, before_epoch = np.roll(sequences, 1), np.roll(epochs, 1)
        before[starts], before_epoch[starts] = self._last[first_ids], self._epoch[first_ids]
        known = np.ones(len(ids), dtype=np.bool_)
        known[starts] = self._known[first_ids]

        rises = firsts == before + np.uint64(1) if self._contiguous else firsts > before
        sound = ~known | ((epochs == before_epoch) & rises)
        if not sound.all():
            odd = np.unique(np.searchsorted(starts, np.flatnonzero(~sound), side="right") - 1)
            walked = [
                (int(order[i]), finding)
                for group in odd.tolist()
                for i, finding in self._walk(
                    int(ids[starts[group]]),
                    zip(
                        firsts[starts[group] : ends[group]].tolist(),
                        sequences[starts[group] : ends[group]].tolist(),
                        epochs[starts[group] : ends[group]].tolist(),
                        strict=True,
                    ),
                    int(starts[group]),
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

    def expect(
        self,
        instruments: pa.StringArray,
        sequences: npt.NDArray[np.uint64],
        epochs: npt.NDArray[np.uint32],
    ) -> list[Finding]:
        """Check what a heartbeat says that comes next; only where every event is promised.

        What the heartbeat knows and this check does not becomes the baseline of that instrument.

        Args:
            instruments: each once, no nulls.
            sequences, epochs: of the next event of each.
        """
        ids = self._ids_of(instruments.to_pylist())
        known, last, epoch = self._known[ids], self._last[ids], self._epoch[ids]
        came = np.maximum(sequences, 1) - np.uint64(1)
        changed = known & (epochs > epoch)
        missing = known & (epochs == epoch) & (came > last)
        findings: list[Finding] = []
        for row in np.flatnonzero(changed | missing).tolist():
            instrument, name, following = (
                int(ids[row]),
                instruments[row].as_py(),
                int(came[row]) + 1,
            )
            if changed[row]:
                self._holes.pop(instrument, None)
                findings.append(
                    EpochChange(self._partition, name, int(epochs[row]), following, following)
                )
            else:
                first = int(last[row]) + 1
                self._holes.setdefault(instrument, Holes(HOLES_KEPT)).add(first, following - 1)
                findings.append(Gap(self._partition, name, int(epoch[row]), first, following - 1))
        news = ~known | changed | missing
        self._last[ids[news]], self._epoch[ids[news]] = came[news], epochs[news]
        self._known[ids] = True
        return findings

    def _ids_of(self, names: list[str]) -> npt.NDArray[np.int64]:
        table = self._ids
        ids = np.fromiter(
            (table.setdefault(name, len(table)) for name in names), np.int64, len(names)
        )
        self._names.extend(islice(table, len(self._names), None))
        while len(table) > len(self._last):
            self._last = np.concatenate((self._last, np.zeros_like(self._last)))
            self._epoch = np.concatenate((self._epoch, np.zeros_like(self._epoch)))
            self._known = np.concatenate((self._known, np.zeros_like(self._known)))
        return ids

    def _walk(
        self, instrument: int, ranges: Iterable[tuple[int, int, int]], start: int
    ) -> Iterator[tuple[int, Finding]]:
        """Go through the events of an instrument that breaches; yields (place, finding).

        Args:
            ranges: first and last sequence of each, and its epoch.
            start: place of the first one.
        """
        name = self._names[instrument]
        known = bool(self._known[instrument])
        last, epoch = int(self._last[instrument]), int(self._epoch[instrument])
        partition = self._partition
        for place, (first, sequence, event_epoch) in enumerate(ranges, start):
            if not known or event_epoch > epoch:
                if known:
                    yield place, EpochChange(partition, name, event_epoch, first, first)
                    self._holes.pop(instrument, None)
                known, last, epoch = True, sequence, event_epoch
            elif event_epoch < epoch:
                yield place, Reversal(partition, name, event_epoch, first, sequence)
            elif first > last:
                if self._contiguous and first > last + 1:
                    self._holes.setdefault(instrument, Holes(HOLES_KEPT)).add(last + 1, first - 1)
                    yield place, Gap(partition, name, epoch, last + 1, first - 1)
                last = sequence
            elif self._contiguous:
                holes = self._holes.setdefault(instrument, Holes(HOLES_KEPT))
                for late, a, b in holes.fill(first, min(sequence, last)):
                    kind = Reversal if late else Duplicate
                    yield place, kind(partition, name, epoch, a, b)
                last = max(last, sequence)
            else:
                kind = Duplicate if sequence == last else Reversal
                yield place, kind(partition, name, epoch, first, sequence)
        self._last[instrument], self._epoch[instrument] = last, epoch
        self._known[instrument] = True
