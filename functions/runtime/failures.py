"""What the distributor could not deliver, until its dead letters are stored (decision 47).

An input fails for a view, or for all. Each failure is told in a letter once by this instance; one
that comes later, when an input is applied again, has a letter of its own. Letters are numbered by
their own count under a name that is new with each owner: the broker's memory, which drops what was
sent twice, then says nothing of inputs, and no newer letter hides an older failure.
"""

from collections import defaultdict
from itertools import count
from typing import NamedTuple
from uuid import uuid4

from functions.runtime.deadletters import dead_letter
from functions.runtime.function import FrameFunction
from functions.runtime.inputs import Input
from functions.runtime.outputs import Output
from marketdata.topics import partition_topic

BROKE_RULE = "broke_rule"


class Failure(NamedTuple):
    """Why an input did not reach a view; without a view, why it reached none."""

    reason: str
    code: str = "not_rendered"
    view: str | None = None

    @property
    def key(self) -> tuple[str | None, str | None]:
        """What is told once of an input: each rule that it broke, else that the view failed."""
        return self.view, self.reason if self.code == BROKE_RULE else None


class _Letter(NamedTuple):
    item: Input
    views: frozenset[str | None]
    data: bytes
    properties: dict[str, str]


class Failures:
    """The failures of one partition; used by the worker's thread only."""

    def __init__(self, function: FrameFunction, partition: int) -> None:
        topics = function.settings.topics
        self._function = function
        self._partition = partition
        self._source_topic = partition_topic(topics.sequenced, partition)
        name = f"{function.name}-{uuid4().hex}"
        # The functions of several lanes may have one topic, and must not take it from each other.
        self._output = Output(partition_topic(topics.deadletter, partition), name, shared=True)
        self._numbers = count(1)
        self._untold: defaultdict[Input, list[Failure]] = defaultdict(list)
        # By number, in order: sent, and not known to be stored.
        self._under_way: dict[int, _Letter] = {}

    def note(self, item: Input, failure: Failure) -> bool:
        """Remember a failure until its letter is stored; False when it was noted before."""
        if failure.key in item.failures:
            return False
        item.failures |= {failure.key}
        self._untold[item].append(failure)
        return True

    def views(self) -> set[str | None]:
        """The views that a failure is remembered for; None among them stands for all."""
        untold = {failure.view for failures in self._untold.values() for failure in failures}
        return untold.union(*(letter.views for letter in self._under_way.values()))

    def send(self) -> None:
        """Send what is not told yet, one letter an input; first what was lost on its way.

        Raises:
            pulsar.PulsarException: the broker is away; do it again.
        """
        if self._output.broken and (self._untold or self._under_way):
            self._output.open(self._function.client)
            # The broker drops what it has.
            for number, letter in self._under_way.items():
                self._send(number, letter)
        for item in sorted(self._untold, key=lambda item: item.position):
            self._tell(item, self._untold.pop(item))

    def close(self) -> None:
        """Close the output; what is not told is forgotten."""
        self._output.close()

    def confirmed(self, output: Output, number: int) -> None:
        """A letter is stored."""
        if output is self._output:
            self._under_way.pop(number, None)

    def _tell(self, item: Input, failures: list[Failure]) -> None:
        function = self._function
        data, properties = dead_letter(
            item,
            function=function.name,
            source_topic=self._source_topic,
            code=failures[0].code,
            reason="; ".join(failure.reason for failure in failures),
        )
        letter = _Letter(item, frozenset(failure.view for failure in failures), data, properties)
        number = next(self._numbers)
        self._under_way[number] = letter
        function.reporter.counters["dead_letters"] += 1
        function.log.warning(
            "%s: dead-lettered input %d of partition %d: %s",
            function.name,
            item.position,
            self._partition,
            properties["reason"],
        )
        self._send(number, letter)

    def _send(self, number: int, letter: _Letter) -> None:
        self._function.send(
            self._output,
            self._partition,
            (letter.item,),
            letter.data,
            letter.properties,
            position=number,
        )
