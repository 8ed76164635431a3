"""Heartbeats: what the next event of each instrument will be numbered, told in idle time."""

import numpy as np
import pyarrow as pa

from functions.operators.sequence import InstrumentSequences
from marketdata.arrays import array_of
from marketdata.control_frames import NEXT_SEQUENCES
from marketdata.frames import MAX_ROWS


class ToldSequences:
    """Which numbers the heartbeats of a partition have told, so that each is told once.

    A new one has told nothing: after a recovery the first heartbeats tell everything, because it
    is not known what the last owner still told.

    >>> sequences, told = InstrumentSequences(), ToldSequences()
    >>> _ = sequences.assign(pa.record_batch(
    ...     {"instrument": pa.array(["A", "B", "A"]).cast(pa.dictionary(pa.int16(), pa.utf8()))}))
    >>> told.take(sequences).to_pydict()
    {'instrument': ['A', 'B'], 'sequence': [3, 2], 'epoch': [1, 1]}
    >>> told.take(sequences).num_rows
    0
    """

    def __init__(self) -> None:
        self._told = np.zeros(0, dtype=np.uint64)

    def take(self, sequences: InstrumentSequences, *, max_rows: int = MAX_ROWS) -> pa.RecordBatch:
        """A batch of `NEXT_SEQUENCES`: the instruments with events that were not told yet.

        Those beyond `max_rows` are left to the next heartbeat.
        """
        last = sequences.last_numbers
        told = np.zeros(len(last), dtype=np.uint64)
        told[: len(self._told)] = self._told
        numbers = np.flatnonzero(last != told)[:max_rows]
        told[numbers] = last[numbers]
        self._told = told
        names = sequences.instruments.names
        return pa.RecordBatch.from_arrays(
            [
                pa.array([names[number] for number in numbers], pa.utf8()),
                array_of(last[numbers] + np.uint64(1), pa.uint64()),
                array_of(np.full(len(numbers), sequences.epoch, dtype=np.uint32), pa.uint32()),
            ],
            schema=NEXT_SEQUENCES,
        )
