"""The dead letters of the sequencer: each once, in the order of the inputs.

A frame that breaks the contract is recognised again at any time. A frame that was refused for its
order is not, because the state has gone on; the log therefore names it (`refused`), and a snapshot
waits until its letter is stored.
"""

from collections import deque
from collections.abc import Iterable

from functions.runtime.deadletters import dead_letter
from functions.runtime.function import FrameFunction
from functions.runtime.inputs import Input
from functions.runtime.outputs import Output
from marketdata.topics import partition_topic


class DeadLetters:
    """The dead letters of one partition."""

    def __init__(self, function: FrameFunction, partition: int) -> None:
        topics = function.settings.topics
        self._function = function
        self._partition = partition
        self._source_topic = partition_topic(topics.ingest, partition)
        self._output = Output(partition_topic(topics.deadletter, partition), "sequencer")
        self._refused: set[int] = set()
        self._unconfirmed: deque[int] = deque()

    def recover(self) -> None:
        """A broken output is opened again with the next letter."""
        if self._output.broken:
            self._output.close()

    def restart(self, refused: Iterable[int]) -> None:
        """Begin anew with the inputs that the log calls refused.

        Raises:
            pulsar.PulsarException: the broker is away; recovery tries again.
        """
        self._refused = set(refused)
        self._unconfirmed = deque(sorted(self._refused))
        if self._refused:
            self._output.open(self._function.client)
            self._settle(self._output.position)

    def was_refused(self, item: Input) -> bool:
        """Whether the log says that an input at or before its position was refused."""
        return item.position in self._refused

    def settled(self, position: int) -> bool:
        """Whether the letters of all refused inputs up to a position are stored."""
        return not (self._unconfirmed and self._unconfirmed[0] <= position)

    def confirmed(self, output: Output, position: int) -> None:
        """The letters up to a position are stored."""
        if output is self._output:
            self._settle(position)

    def refuse(self, item: Input, reason: str) -> None:
        """Send the letter of a frame whose order its source's policy does not allow."""
        self._unconfirmed.append(item.position)
        self.send(item, "out_of_order", reason)

    def send(self, item: Input, code: str, reason: str) -> None:
        """Send a letter; the broker drops it where it is stored, and only there (decision 62).

        Raises:
            pulsar.PulsarException: the broker is away; recovery does it again.
        """
        if self._output.broken:
            self._output.open(self._function.client)
        data, properties = dead_letter(
            item,
            function=self._function.name,
            source_topic=self._source_topic,
            code=code,
            reason=reason,
        )
        self._function.send(self._output, self._partition, (item,), data, properties)
        counters = self._function.reporter.counters
        counters["dead_letters"] += 1
        counters[f"dead_letters_{code}"] += 1
        self._function.log.warning(
            "%s: dead-lettered input %d of partition %d: %s",
            self._function.name,
            item.position,
            self._partition,
            properties["reason"],
        )

    def _settle(self, position: int) -> None:
        while self._unconfirmed and self._unconfirmed[0] <= position:
            self._unconfirmed.popleft()
