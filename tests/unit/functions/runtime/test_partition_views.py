"""What views are sent besides events, where a real broker cannot be brought to it on demand.

Retention that has removed a whole topic and openings that fail take hours or a broken broker; here
a fake client answers. The rest is tested against a real broker (tests/integration).
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pulsar
import pytest

from functions.runtime import outputs
from functions.runtime.inputs import Input
from functions.runtime.outputs import Output
from functions.runtime.partition_views import HEARTBEATS_A_TURN, OPENERS, PartitionViews
from marketdata.formats import get_format
from marketdata.plans import View


class Message:
    def __init__(self, properties: dict[str, str]) -> None:
        self._properties = properties

    def properties(self) -> dict[str, str]:
        return self._properties


class Reader:
    def __init__(self, message: Message | None) -> None:
        self._message = message

    def has_message_available(self) -> bool:
        return self._message is not None

    def read_next(self, _: int) -> Message | None:
        return self._message

    def close(self) -> None:
        pass


class Producer:
    def __init__(self, last_sequence_id: int) -> None:
        self._last = last_sequence_id

    def last_sequence_id(self) -> int:
        return self._last

    def close(self) -> None:
        pass


class Client:
    """Knows for each topic the last sequence id and the newest message, and which fail."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.newest: dict[str, Message] = {}
        self.failing: set[str] = set()
        self.opened: list[str] = []

    def create_producer(self, topic: str, **_: Any) -> Producer:
        self.opened.append(topic)
        if topic in self.failing:
            raise pulsar.ConnectError
        return Producer(self.known.get(topic, -1))

    def create_reader(self, topic: str, *_: Any, **__: Any) -> Reader:
        return Reader(self.newest.get(topic))


class Function:
    """As much of a distributor as the views need."""

    def __init__(self, views: Sequence[View]) -> None:
        self.settings = SimpleNamespace(heartbeat_interval_s=1.0, heartbeat_max_interval_s=8.0)
        self.reporter = SimpleNamespace(counters=Counter())
        self.openers = ThreadPoolExecutor(OPENERS)
        self.client = Client()
        self.router = SimpleNamespace(
            views={view.id: view for view in views}, plan=SimpleNamespace(number=3)
        )
        self.sent: list[tuple[str, int, dict[str, str], bytes]] = []

    def send(
        self,
        output: Output,
        _partition: int,
        _items: Sequence[Input],
        data: bytes,
        properties: dict[str, str],
        *,
        position: int,
        paced: bool,
    ) -> None:
        assert not paced, "these hold no events: no event waits for them"
        self.sent.append((properties["view"], position, properties, data))
        output.position = position

    def awaits(self, _partition: int, _output: Output) -> bool:
        return False


class Clock:
    now_s = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(
        "functions.runtime.partition_views.time", SimpleNamespace(monotonic=lambda: clock.now_s)
    )
    monkeypatch.setattr(outputs, "TRIMMED_TIMEOUT_S", 0.0)
    return clock


def _views(count: int, view_format: str = "arrow") -> list[View]:
    return [View(id=f"v{n}", topic=f"view-v{n}", format=view_format) for n in range(count)]


def _input(entry_id: int, **properties: str) -> Input:
    place = SimpleNamespace(ledger_id=lambda: 1, entry_id=lambda: entry_id, batch_index=lambda: -1)
    return Input(place, b"", properties)


class Turns:
    """Turns of a worker a second apart, each with a heartbeat of the log as its input."""

    def __init__(self, function: Function, clock: Clock) -> None:
        self.function, self.clock = function, clock
        self.views = PartitionViews(function, 5)  # type: ignore[arg-type]
        self._entries: Iterator[int] = iter(range(1, 1_000))

    def turn(self) -> Input:
        self.views.begin_turn()
        item = _input(next(self._entries))
        self.views.tell_quiet(item)
        for _ in range(500):  # openings go on beside the worker: give them their time
            if all(opening.done() for _, opening in self.views._openings._under_way.values()):
                break
            time.sleep(0.01)
        self.clock.now_s += 1.0
        return item

    def told(self) -> list[tuple[str, int]]:
        found = [(view, position) for view, position, _, _ in self.function.sent]
        self.function.sent.clear()
        return found


@pytest.mark.parametrize("view_format", ["arrow", "json"])
def test_a_view_without_rows_counts_from_its_first_heartbeat(
    clock: Clock, view_format: str
) -> None:
    function = Function(_views(1, view_format))
    turns = Turns(function, clock)
    turns.turn()
    item = turns.turn()
    ((view, position, properties, data),) = function.sent
    assert (view, position, data) == ("v0", item.position, get_format(view_format).no_events())
    assert properties == {
        "kind": "heartbeat",
        "count": "0",
        "format": view_format,
        "plan": "3",
        "view": "v0",
        "delivery_sequence": "1",
        "delivery_epoch": str(item.position),
        "position": str(item.position),
    }


def test_a_heartbeat_continues_the_count_of_the_newest_message(clock: Clock) -> None:
    function = Function(_views(1))
    topic = "view-v0-partition-5"
    function.client.known[topic] = 7
    function.client.newest[topic] = Message(
        {"position": "7", "delivery_sequence": "12", "delivery_epoch": "3", "count": "4"}
    )
    turns = Turns(function, clock)
    turns.turn()
    turns.turn()
    properties = function.sent[0][2]
    assert (properties["delivery_sequence"], properties["delivery_epoch"]) == ("16", "3")


def test_a_count_that_retention_made_unreadable_begins_anew_with_a_reason(clock: Clock) -> None:
    function = Function(_views(2))
    for view in ("v0", "v1"):
        function.client.known[f"view-{view}-partition-5"] = 7
    turns = Turns(function, clock)
    turns.turn()
    item = turns.turn()
    for _, position, properties, _ in function.sent:
        assert properties["kind"] == "epoch"
        assert "retention" in properties["reason"]
        assert "epoch" not in properties
        assert properties["delivery_sequence"] == "1"
        assert int(properties["delivery_epoch"]) == position == item.position > 7
    function.sent.clear()
    for _ in range(2):
        turns.turn()
    assert {properties["kind"] for _, _, properties, _ in function.sent} == {"heartbeat"}


def test_openings_and_heartbeats_of_a_turn_are_bounded(clock: Clock) -> None:
    function = Function(_views(HEARTBEATS_A_TURN + 40))
    turns = Turns(function, clock)
    known = 0
    while known < len(function.router.views):
        turns.turn()
        assert len(function.client.opened) <= known + OPENERS
        known = len(function.client.opened)
    assert len(set(function.client.opened)) == len(function.router.views)
    clock.now_s += 100.0
    turns.told()
    turns.turn()
    first = turns.told()
    assert len(first) == HEARTBEATS_A_TURN
    turns.turn()
    others = {view for view, _ in turns.told()}
    assert len(others - {view for view, _ in first}) == 40


def test_an_opening_that_fails_is_tried_again_and_no_trouble_of_others(clock: Clock) -> None:
    function = Function(_views(2))
    topic = "view-v0-partition-5"
    function.client.failing.add(topic)
    turns = Turns(function, clock)
    for _ in range(2):
        turns.turn()
    assert [view for view, _ in turns.told()] == ["v1"]
    function.client.failing.clear()
    for _ in range(4):
        turns.turn()
    assert "v0" in {view for view, _ in turns.told()}


def test_rows_take_over_what_is_being_opened_and_reopen_what_is_broken(clock: Clock) -> None:
    function = Function(_views(1))
    (view,) = function.router.views.values()
    turns = Turns(function, clock)
    turns.turn()
    turns.views.open([view])
    assert not turns.views.output(view).broken
    assert len(function.client.opened) == 1
    turns.views.output(view).broken = True
    turns.turn()  # begins to open it anew, in the background
    turns.views.open([view])
    assert not turns.views.output(view).broken
    assert len(function.client.opened) == 2


def test_a_view_that_had_rows_of_the_newest_input_is_not_told(clock: Clock) -> None:
    function = Function(_views(1))
    (view,) = function.router.views.values()
    turns = Turns(function, clock)
    turns.views.begin_turn()
    turns.views.open([view])
    turns.views.had_rows(view)
    for n in range(4):
        turns.views.output(view).position = 1 << 62
        assert turns.turn()
        assert turns.told() == [], n


def test_an_epoch_reaches_every_view_once(clock: Clock) -> None:
    function = Function(_views(3))
    turns = Turns(function, clock)
    item = _input(50, kind="epoch", epoch="4", reason="a test", partitions="8")
    for _ in range(2):  # applied again after a loss
        turns.views.begin_turn()
        turns.views.announce_epoch(item)
    assert [(view, position) for view, position, _, _ in function.sent] == [
        (f"v{n}", item.position) for n in range(3)
    ]
    for _, _, properties, _ in function.sent:
        assert (properties["kind"], properties["epoch"]) == ("epoch", "4")
        assert properties["reason"] == "a test"


def test_outputs_of_views_that_are_gone_are_closed(clock: Clock) -> None:
    function = Function(_views(2))
    turns = Turns(function, clock)
    turns.turn()
    turns.turn()
    gone = function.router.views.pop("v0")
    output = turns.views.output(gone)
    turns.views.close_gone()
    assert output.broken
    with pytest.raises(KeyError):
        turns.views.output(gone)
