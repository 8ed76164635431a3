"""The sequencer: validates events, gives each the next number of its instrument, writes the log.

Delivery guarantee: each accepted input frame is in `sequenced` exactly once, in the order of its
partition; small frames of one kind that have piled up leave as one. What breaks the contract goes
to the dead-letter topic with its reason, once. What is odd in the order of a source is treated as
its policy says and told on `control/ordering`, once.
"""

from typing import ClassVar

from functions.runtime.function import FrameFunction, PartitionStage
from functions.sequencing import SequencerStage


class SequencerFunction(FrameFunction):
    """Deployed as `marketdata/functions/sequencer`."""

    name: ClassVar[str] = "sequencer"

    def setup(self) -> None:
        """Nothing is shared between partitions."""

    def before_turn(self) -> None:
        """No plans here."""

    def stage(self, partition: int) -> PartitionStage:
        """The sequencing of one partition."""
        return SequencerStage(self, partition)
