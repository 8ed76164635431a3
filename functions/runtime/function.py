"""The frame function: what the sequencer and the distributor have in common.

The runtime's thread only hands messages over; one worker thread does everything else, so no
state is shared. For each input partition the worker keeps the promise of the delivery guarantee:

1. an input is acknowledged when every output made of it is confirmed, in log order;
2. when an output is lost (fenced by another owner, or failed), it is opened again, which tells
   what it holds, and the unconfirmed inputs are applied again from memory, in order;
3. a crash leaves unacknowledged inputs to the broker, which delivers them again;
4. an instance that stood still acknowledges nothing before it knows what it has missed.

Subclasses implement `PartitionStage`: how to open a partition's outputs and how to apply inputs.
"""

import math
import os
import queue
import random
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, NamedTuple

import pulsar

from functions.runtime.connection import own_client
from functions.runtime.delay import Delay
from functions.runtime.gate import Gate
from functions.runtime.inputs import Input, Offer, PartitionInputs
from functions.runtime.outputs import Message, NotYetReadable, Output
from functions.runtime.room import Room
from functions.runtime.settings import FunctionSettings
from functions.runtime.status import StatusReporter
from marketdata.lanes import delay_of, followed_by
from marketdata.pace import Pace
from marketdata.topics import partition_index

MAX_FRAMES_A_TURN = 64
MAX_STEPS_UNDER_WAY = 2
"""How many applications of inputs of one partition may await their confirmation.

While they do, inputs pile up and are then applied together: the longer the broker needs, the larger
the frames become. An input that comes alone never waits.
"""

GATHERING = 4.0
"""Where many messages leave, inputs gather for so many times as long as the turn has taken that
sent them: the less a machine has to spare, the longer, and the larger the next messages."""

FREE_AT_ONCE = 8
"""So many messages may leave after a pause without anything gathering behind them."""

ENOUGH_BYTES = 512 * 1024
ENOUGH_INPUTS = 32
"""Inputs gather where many messages have been sent (`marketdata.pace`), unless so much has: more
would make nothing cheaper."""

ASK_AGAIN_S = 2.0
"""How long to wait for a redelivery before it is asked for once more."""

RETRY_S = (0.05, 0.25)
"""Bounds of the random pause before a lost partition is taken over again."""

SWITCH_INTERVAL_S = 0.0005
"""Python's default of 5 ms would let a busy worker hold up the client's threads that long."""


class _Received(NamedTuple):
    partition: int
    item: Input
    consumer: pulsar.Consumer


class _Confirmed(NamedTuple):
    partition: int
    output: Output
    generation: int
    result: Any
    message_id: Any
    items: Sequence[Input]
    position: int


class _Wake(NamedTuple):
    """Nothing to do but look around: a new plan, for example."""


class PartitionStage(ABC):
    """What a function does with the inputs of one partition."""

    @abstractmethod
    def recover(self) -> None:
        """Open or reopen every broken output that must be open before inputs are applied.

        Raises:
            pulsar.PulsarException, NotYetReadable: try again later.
        """

    @abstractmethod
    def apply(self, items: Sequence[Input]) -> None:
        """Send what is made of the inputs (in log order) to the outputs that lack it."""

    @abstractmethod
    def confirmed(self, output: Output, message_id: Any, position: int) -> None:
        """An output has stored the message of a position."""

    @abstractmethod
    def tidy(self) -> None:
        """Called about once a second."""

    def close(self) -> None:  # noqa: B027 - only those that are replaced need it
        """Close all outputs; called where another stage takes over in this process."""

    def awaited(self) -> Collection[Output]:
        """Outputs that have something to confirm for which no input waits."""
        return ()

    def due_in_s(self, now_s: float) -> float | None:  # noqa: ARG002 - for those that hold back
        """Seconds until this partition wants an input, if only a tick, to go on; None never.

        Args:
            now_s: the time of `time.monotonic`.
        """
        return None


class _Partition:
    """One input partition on this instance."""

    def __init__(self, number: int, stage: PartitionStage, consumer: pulsar.Consumer) -> None:
        self.number = number
        self.stage = stage
        self.consumer = consumer
        self.inputs = PartitionInputs()
        self.backlog: list[Input] = []
        self.steps: deque[Sequence[Input]] = deque()
        self.ready = False
        self.again = False
        self.asked_at = -ASK_AGAIN_S
        self.retry_at = 0.0
        self.recovery_s = 0.0

    def may_step(self) -> bool:
        """Whether inputs wait, and so little awaits its confirmation that they may be applied."""
        while self.steps and not any(item.waiting for item in self.steps[0]):
            self.steps.popleft()
        return bool(self.backlog) and len(self.steps) < MAX_STEPS_UNDER_WAY


class FrameFunction(ABC):
    """Base class of the functions deployed into the broker."""

    name: ClassVar[str]
    applies_again: ClassVar[bool] = False
    """Whether `apply_again` is used, so that inputs are kept until they are acknowledged."""
    reads_again: ClassVar[bool] = False
    """Whether what is to be applied again comes from the broker and not from memory."""

    def __init__(self) -> None:
        # The runtime swallows what a constructor raises, so this one cannot fail.
        self._events: queue.SimpleQueue[_Received | _Confirmed | _Wake] = queue.SimpleQueue()
        self._room = Room()
        self._sent = 0
        self._partitions: dict[int, _Partition] = {}
        self._start_lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._configured = threading.Event()
        self._start_early(sys._getframe(1).f_locals.get("self"))  # noqa: SLF001

    def process(self, data: bytes, context: Any) -> None:
        """Called by the runtime for each message; blocks while too much is in flight.

        And until the message is as old as its lane wants it, or the workflow that its lane follows
        has confirmed it.
        """
        try:
            self._start(context)
            message = context.message
            self._configured.wait()
            partition = partition_index(message.topic_name())
            self._delay.hold(message.publish_timestamp())
            if not self._gate.hold(partition, message.message_id()):
                return
            event = _Received(
                partition,
                Input(
                    message.message_id(), data, message.properties(), message.publish_timestamp()
                ),
                next(iter(context.consumers.values())),
            )
        except Exception as error:
            # Raising would only put this message off, and those behind it would pass it.
            self._end(error)
            raise
        self._room.take(event.item.size_bytes)
        self._events.put(event)

    @abstractmethod
    def setup(self) -> None:
        """Prepare what all partitions share; `context`, `settings` and `reporter` are there."""

    @abstractmethod
    def stage(self, partition: int) -> PartitionStage:
        """The stage of one partition; opens nothing yet."""

    @abstractmethod
    def before_turn(self) -> None:
        """Called between frames: the place to switch plans."""

    def after_turn(self, received: Collection[int]) -> None:  # noqa: B027 - most need none
        """Called after inputs of the partitions `received` were applied, and when time is up."""

    def due_in_s(self) -> float:
        """Seconds until `after_turn` is to be called again, if nothing comes before."""
        return math.inf

    def may_acknowledge(self) -> bool:
        """Whether inputs that are stored in every output this instance knows may be given up."""
        return True

    def apply_again(self) -> None:
        """Apply all inputs that are not acknowledged once more; outputs take what they lack."""
        for partition in self._partitions.values():
            partition.again = True
            for item in partition.inputs:
                item.applied = False

    def wake(self) -> None:
        """Make the worker look around; callable from any thread."""
        self._events.put(_Wake())

    def send(
        self,
        output: Output,
        partition: int,
        items: Sequence[Input],
        data: bytes,
        properties: dict[str, str],
        *,
        position: int | None = None,
        event_timestamp_ms: int | None = None,
        paced: bool = True,
    ) -> None:
        """Send what was made of `items` to `output`; they wait for its confirmation.

        Its position is that of the last item, unless it is given. An announcement just before an
        input (`place_before`) has no items: what is made of that input follows in the same output.
        What is not `paced` makes no events wait behind it.
        """
        place = items[-1].position if position is None else position
        on_done = self._when_done(output, partition, items, place)
        output.send(data, properties, place, on_done, event_timestamp_ms=event_timestamp_ms)
        self._sent += paced
        for item in items:
            item.waiting[output] = place

    def send_together(
        self,
        output: Output,
        partition: int,
        items: Sequence[Input],
        messages: Sequence[Message],
        *,
        position: int,
    ) -> None:
        """Send what was made of `items` as one entry of several messages; see `send`."""
        on_done = self._when_done(output, partition, items, position)
        output.send_together(messages, position, on_done)
        self._sent += 1
        for item in items:
            item.waiting[output] = position

    def _when_done(
        self, output: Output, partition: int, items: Sequence[Input], place: int
    ) -> Callable[[int, Any, Any], None]:
        def on_done(generation: int, result: Any, message_id: Any) -> None:
            self._events.put(
                _Confirmed(partition, output, generation, result, message_id, items, place)
            )

        return on_done

    def awaits(self, partition: int, output: Output) -> bool:
        """Whether an input of the partition waits for a confirmation of `output`."""
        return any(output in item.waiting for item in self._partitions[partition].inputs)

    def busy_partitions(self) -> list[int]:
        """Partitions that are being taken over or have inputs that are not confirmed yet."""
        return [n for n, p in self._partitions.items() if not p.ready or len(p.inputs)]

    def partitions_due(self, now_s: float) -> dict[int, float]:
        """In how many seconds which partitions want an input, where they do."""
        due = {n: p.stage.due_in_s(now_s) for n, p in self._partitions.items() if p.ready}
        return {number: in_s for number, in_s in due.items() if in_s is not None}

    def configure(self, settings: FunctionSettings) -> None:
        """Take the settings over, before any input."""
        self.settings = settings
        self._delay = Delay(delay_of(settings.lane))
        self._gate = Gate(followed_by(settings.lane))
        self._pace = Pace(
            settings.free_messages_per_second, burst=FREE_AT_ONCE, longest_s=settings.gather_max_s
        )
        self._configured.set()

    def _start_early(self, runtime: Any) -> None:
        """Start without waiting for a first message, when the runtime can be found.

        The runtime hands a function its context only with a message; an instance without traffic
        would never report which plan it runs. The constructor's caller is the runtime's instance,
        whose `contextimpl` appears a moment after the constructor returns.
        """

        def wait() -> None:
            while getattr(runtime, "contextimpl", None) is None:
                time.sleep(0.02)
            self._start(runtime.contextimpl)

        if hasattr(runtime, "contextimpl"):
            threading.Thread(target=wait, name="early-start", daemon=True).start()

    def _start(self, context: Any) -> None:
        with self._start_lock:
            if self._worker is None:
                self.context = context
                self.log = context.get_logger()
                self._worker = threading.Thread(target=self._run, name="worker", daemon=True)
                self._worker.start()

    def _run(self) -> None:
        """The worker: any error that is nobody's business ends the process, which is restarted.

        Nothing is lost by that: what was not confirmed has not been acknowledged.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        try:
            self.configure(FunctionSettings.from_user_config(self.context.get_user_config_map()))
            self.client = own_client(self.context)
            self.reporter = StatusReporter(
                self.context,
                function=self.context.get_function_name(),
                version=self.settings.bundle_digest,
                topic=self.settings.topics.status,
            )
            self._gate.open_by(self.client, self.settings.topics.confirmed, self.log)
            self.setup()
            while True:
                self._turn()
        except BaseException as error:  # noqa: BLE001 - whatever it is, this thread must not just end
            self._end(error)

    def _end(self, error: BaseException) -> None:
        self.log.error("%s: this instance cannot go on and ends", self.name, exc_info=error)
        time.sleep(1.0)  # so that an error at every start does not burn the machine
        os._exit(70)

    def _turn(self) -> None:
        received = self._collect()
        self.before_turn()
        for number, items in received.items():
            self._partitions[number].backlog += items
        began_s = time.monotonic()
        gathered = self._gathers_s(began_s) == 0.0
        applied_s: float | None = None
        for partition in self._partitions.values():
            if partition.again:
                partition.again = False
                self._apply(partition, list(partition.inputs))
            elif gathered and partition.may_step():
                applied_s = (applied_s or 0.0) - time.monotonic()
                self._apply(partition, partition.backlog)
                applied_s += time.monotonic()
            self._acknowledge(partition)
            if not partition.ready and time.monotonic() >= partition.retry_at:
                self._recover(partition)
        if self._sent:
            gather_s = None if applied_s is None else GATHERING * applied_s
            self._pace.sent(began_s, time.monotonic(), self._sent, gather_s)
            self._sent = 0
        self.after_turn(received)
        if self.reporter.due_in_s == 0.0:
            self._look_around()

    def _look_around(self) -> None:
        """About once a second: what is stuck, what can be tidied up; and tell how it goes."""
        for partition in self._partitions.values():
            self._look_after(partition)
            if self._lacks_redelivery(partition):
                self._ask_again(partition)
            if partition.ready:
                partition.stage.tidy()
        self.reporter.status.partitions = sorted(self._partitions)
        self.reporter.report()

    def _collect(self) -> dict[int, list[Input]]:
        """Wait for something to do; take all there is, a bounded number of frames.

        A confirmation is nothing to do while its inputs wait for others: a frame for many views is
        confirmed by each of them.
        """
        received: dict[int, list[Input]] = {}
        frames = 0
        until_s = time.monotonic() + self._patience_s()
        idle = True
        while frames < MAX_FRAMES_A_TURN:
            patience_s = until_s - time.monotonic() if idle else 0.0
            try:
                event = (
                    self._events.get(timeout=patience_s)
                    if patience_s > 0
                    else self._events.get_nowait()
                )
            except queue.Empty:
                break
            if isinstance(event, _Confirmed):
                idle = self._settle(event) and idle
                continue
            idle = False
            if isinstance(event, _Received):
                frames += 1
                if self._offer(event):
                    received.setdefault(event.partition, []).append(event.item)
        return received

    def _gathers_s(self, now_s: float) -> float:
        """How long inputs go on gathering; for ever where only a confirmation helps, or nothing."""
        able = [p for p in self._partitions.values() if p.ready and p.may_step()]
        if not able:
            return math.inf
        if any(partition.stage.due_in_s(now_s) == 0.0 for partition in able):
            return 0.0
        waiting = [item for partition in able for item in partition.backlog]
        enough = (
            len(waiting) >= ENOUGH_INPUTS
            or sum(item.size_bytes for item in waiting) >= ENOUGH_BYTES
        )
        return 0.0 if enough else self._pace.waits_s(now_s)

    def _patience_s(self) -> float:
        now = time.monotonic()
        waits = [p.retry_at - now for p in self._partitions.values() if not p.ready]
        waits.append(self._gathers_s(now))
        return max(0.001, min([self.reporter.due_in_s, self.due_in_s(), *waits]))

    def _offer(self, event: _Received) -> bool:
        partition = self._partitions.get(event.partition)
        if partition is None:
            partition = _Partition(event.partition, self.stage(event.partition), event.consumer)
            self._partitions[event.partition] = partition
        offer = partition.inputs.offer(event.item)
        if offer is Offer.TAKEN:
            self.reporter.counters["frames_in"] += 1
            return True
        self._room.give_back(event.item.size_bytes)
        if offer is Offer.DOUBTFUL:
            self._ask_again(partition)
            return False
        self.reporter.counters["redeliveries"] += 1
        if event.item.position <= partition.inputs.confirmed_through:
            self._ack(partition.consumer, event.item)
        return False

    def _lacks_redelivery(self, partition: _Partition) -> bool:
        """Whether one is to be asked for: messages came that were not taken, and it did not come.

        It cannot come while a message waits at the gate. That one goes on waiting, unless what is
        asked for is newly in doubt: so asking would only bring all behind it once more.
        """
        if partition.inputs.unasked:
            return True
        missing = partition.inputs.in_doubt or self._gate.passed_over(partition.number)
        return missing and not self._gate.holds

    def _ask_again(self, partition: _Partition) -> None:
        """Have everything that is not acknowledged delivered again, from the first one on."""
        now = time.monotonic()
        if now - partition.asked_at < ASK_AGAIN_S:
            return
        partition.asked_at = now
        self._gate.doubt(partition.number, partition.inputs.asked_again())
        self.reporter.counters["redeliveries_asked"] += 1
        try:
            partition.consumer.redeliver_unacknowledged_messages()
        except pulsar.PulsarException as error:
            # Not connected: the broker will deliver it all when it is again.
            self.reporter.error(f"asking for redelivery failed: {type(error).__name__}: {error}")

    def _apply(self, partition: _Partition, items: list[Input]) -> None:
        partition.backlog = []
        if not partition.ready:
            return  # recovery applies all that is pending, these too
        try:
            partition.stage.apply(items)
        except (pulsar.PulsarException, NotYetReadable) as error:
            self._lost(partition, f"{type(error).__name__}: {error}")
            return
        self._set_applied(partition, items)

    def _set_applied(self, partition: _Partition, items: Sequence[Input]) -> None:
        partition.steps.append(items)
        for item in items:
            item.applied = True
        self._free(items)

    def _free(self, items: Sequence[Input]) -> None:
        """What no output has to confirm is not in flight; what is done needs its bytes no more.

        Where inputs may be applied again they keep both until they are acknowledged.
        """
        if self.applies_again:
            return
        for item in items:
            if item.applied and not item.waiting:
                self._give_room_back(item)
            if item.is_confirmed:
                item.done = True
                item.data = b""

    def _give_room_back(self, item: Input) -> None:
        if item.takes_room:
            item.takes_room = False
            self._room.give_back(item.size_bytes)

    def _settle(self, event: _Confirmed) -> bool:
        """Note a confirmation; True when nothing follows from it yet."""
        output = event.output
        if output.broken or event.generation != output.generation:
            return True
        partition = self._partitions[event.partition]
        if event.result != pulsar.Result.Ok:
            output.broken = True
            self._lost(partition, f"{output.topic}: {event.result}")
            return False
        for item in event.items:
            if item.waiting.get(output) == event.position:
                del item.waiting[output]
        partition.stage.confirmed(output, event.message_id, event.position)
        self._free(event.items)
        return bool(event.items) and all(item.waiting for item in event.items)

    def _acknowledge(self, partition: _Partition) -> None:
        if not self.may_acknowledge():
            return
        for item in partition.inputs.take_confirmed():
            self._give_room_back(item)
            self._ack(partition.consumer, item)

    def _ack(self, consumer: pulsar.Consumer, item: Input) -> None:
        try:
            for message_id in item.message_ids:
                consumer.acknowledge(message_id)
        except pulsar.PulsarException as error:
            # The broker will deliver it again and it will be recognised then.
            self.reporter.error(f"acknowledging failed: {type(error).__name__}: {error}")

    def _look_after(self, partition: _Partition) -> None:
        """Open those outputs anew that would never answer."""
        if not partition.ready:
            return
        awaited = {output for item in partition.inputs for output in item.waiting}
        for output in awaited.union(partition.stage.awaited()):
            if output.broken:
                self._lost(partition, f"{output.topic}: lost")
            elif output.is_left_alone():
                output.broken = True
                self._lost(partition, f"{output.topic}: not connected for a while")

    def _lost(self, partition: _Partition, why: str) -> None:
        self.log.warning("%s: outputs lost, taking over again: %s", self.name, why)
        self.reporter.error(why)
        partition.ready = False
        partition.backlog = []
        partition.steps.clear()
        if self.reads_again:
            self._begin_again(partition)
        for item in partition.inputs:
            item.applied = item.done
            item.waiting = {o: place for o, place in item.waiting.items() if not o.broken}
        # Whoever fenced this instance is probably the new owner; give it time to recover, too.
        pause_s = random.uniform(*RETRY_S) + partition.recovery_s  # noqa: S311
        partition.retry_at = time.monotonic() + pause_s

    def _begin_again(self, partition: _Partition) -> None:
        """Forget what a partition has in memory, and have it delivered again."""
        partition.stage.close()
        partition.stage = self.stage(partition.number)
        for item in partition.inputs.forget():
            self._give_room_back(item)
        if partition.inputs.in_doubt:
            self._ask_again(partition)

    def _recover(self, partition: _Partition) -> None:
        started = time.monotonic()
        awaited = {o: o.generation for item in partition.inputs for o in item.waiting}
        try:
            partition.stage.recover()
            # What an output that was opened anew had under way will not be answered: it holds what
            # it tells, and the rest is sent again.
            for item in partition.inputs:
                item.waiting = {
                    o: place for o, place in item.waiting.items() if o.generation == awaited[o]
                }
            partition.backlog = []
            pending = [item for item in partition.inputs if not item.done]
            partition.stage.apply(pending)
        except (pulsar.PulsarException, NotYetReadable) as error:
            self._lost(partition, f"{type(error).__name__}: {error}")
            return
        self._set_applied(partition, pending)
        partition.ready = True
        partition.recovery_s = time.monotonic() - started
        self.reporter.counters["recoveries"] += 1
        self.log.info(
            "%s: partition ready after %.0f ms, %d inputs pending",
            self.name,
            partition.recovery_s * 1e3,
            len(pending),
        )
