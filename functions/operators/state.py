"""All that the sequencer knows of a partition: a function of its log.

The numbers given, the order of the sources, and which rows of inputs at or before the newest
frame's position are not in the log yet. A snapshot is a list of batches; snapshot and frames
behind it give the same as all frames.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from functions.operators.journal import Places, apply_journal
from functions.operators.sequence import InstrumentSequences
from functions.operators.source_order import SourceOrder
from marketdata.arrays import values_of
from marketdata.control_frames import is_control

PLACES_SCHEMA = pa.schema([("position", pa.int64()), ("row", pa.uint16())])
"""Of a snapshot: the rows that wait."""


class PartitionState:
    """The state of one partition after a frame of its log.

    Attributes:
        sequences: the last sequence of every instrument.
        order: what is known of the sources' numbers.
        held: rows that wait, by the position of their input.
    """

    def __init__(self, epoch: int = 1) -> None:
        self.sequences = InstrumentSequences(epoch)
        self.order = SourceOrder(self.sequences.instruments)
        self.held: Places = {}

    def absorb(self, batch: pa.RecordBatch, properties: Mapping[str, str], position: int) -> None:
        """Go on behind a frame of the log; frames come in log order."""
        apply_journal(self.held, properties)
        if is_control(dict(properties)) or not batch.num_rows:
            return
        grouped = self.sequences.group(batch)
        self.sequences.absorb(
            batch.column("instrument"), values_of(batch.column("sequence"), np.uint64)
        )
        self.sequences.epoch = batch.column("epoch")[-1].as_py()
        self.order.observe(self.order.compare(batch, grouped), position)

    def snapshot(self) -> list[pa.RecordBatch]:
        """The state as batches."""
        rows = [(position, row) for position in sorted(self.held) for row in self.held[position]]
        held = pa.RecordBatch.from_arrays(
            [
                pa.array([position for position, _ in rows], pa.int64()),
                pa.array([row for _, row in rows], pa.uint16()),
            ],
            schema=PLACES_SCHEMA,
        )
        return [self.sequences.snapshot(), *self.order.snapshot(), held]

    @classmethod
    def from_snapshot(cls, batches: Sequence[pa.RecordBatch]) -> "PartitionState":
        """The state that `snapshot` described.

        Raises:
            KeyError, TypeError, ValueError: the batches are no such state.
        """
        sequences, pairs, gaps, held = batches
        state = cls()
        state.sequences = InstrumentSequences.from_snapshot(sequences)
        state.order = SourceOrder.from_snapshot(state.sequences.instruments, pairs, gaps)
        for position, row in zip(*(column.to_pylist() for column in held.columns), strict=True):
            state.held.setdefault(position, set()).add(row)
        return state
