"""An instrument set changes while events flow: its subscriptions follow between two frames."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from itertools import islice, repeat
from typing import Any, Self

import httpx
import pulsar
import pytest
from events import trades

from marketdata.frames import read_frame
from marketdata.partitioning import partition_of
from marketdata.publisher import Publisher
from scripts.access import authenticate
from scripts.verification.control_api import ControlApi

pytestmark = pytest.mark.integration


class Flow:
    """One event of every instrument a frame, without end, all of one partition."""

    def __init__(self, service_url: str, names: list[str]) -> None:
        self._url, self._names = service_url, names
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.frames = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with Publisher(self._url, name=f"sets-{uuid.uuid4().hex}", max_delay_ms=None) as publisher:
            while not self._stop.is_set():
                publisher.publish(trades(self._names))
                publisher.flush()
                self.frames += 1
                time.sleep(0.002)

    def pass_by(self, frames: int) -> None:
        wanted = self.frames + frames
        while self.frames < wanted:
            time.sleep(0.01)


class Delivered:
    """What a plain client reads of a view, message by message: properties and events."""

    def __init__(self, made: dict[str, Any], watched: str) -> None:
        self._client = pulsar.Client(made["service_url"])
        self._consumer = self._client.subscribe(made["topic"], made["subscription_name"])
        self._format, self._watched, self._last = made["format"], watched, 0
        self.messages: list[tuple[dict[str, str], list[dict[str, Any]]]] = []

    def read_until(self, sequence: int) -> None:
        """Read up to this event of the watched instrument."""
        while self._last < sequence:
            self._keep(self._consumer.receive(timeout_millis=120_000))

    def read_rest(self, sequence: int) -> None:
        """Read up to this event and on until nothing comes, and leave."""
        self.read_until(sequence)
        try:
            while True:
                self._keep(self._consumer.receive(timeout_millis=1_000))
        except pulsar.Timeout:
            self._client.close()

    def _keep(self, message: pulsar.Message) -> None:
        properties = message.properties()
        if properties["count"] == "0":
            return
        if self._format == "json":
            events = [json.loads(line) for line in message.data().splitlines()]
        else:
            events = read_frame(message.data()).to_pylist()
        watched = (each["sequence"] for each in events if each["instrument"] == self._watched)
        self._last = max([self._last, *watched])
        self.messages.append((properties, events))


@pytest.fixture
def http(stack: Any) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f"{stack.control_plane_url}/v1", timeout=60, auth=authenticate
    ) as client:
        yield client


def neighbours(count: int) -> list[str]:
    """Fresh instruments of one partition."""
    names = (uuid.uuid4().hex[:12].upper() for _ in repeat(None))
    return list(islice((name for name in names if partition_of(name, 4) == 0), count))


def test_a_change_is_live_at_a_frame_boundary(stack: Any, http: httpx.Client) -> None:
    always, *changing = neighbours(4)
    name, consumer = f"set-{uuid.uuid4().hex[:8]}", f"sets-{uuid.uuid4().hex[:8]}"
    http.post("/instrument-sets", json={"name": name, "instruments": [always]}).raise_for_status()
    http.post("/consumers", json={"name": consumer}).raise_for_status()
    answer = http.post(
        "/subscriptions",
        json={"consumer": consumer, "name": "s", "filter": f"instrument IN SET '{name}'"},
    )
    answer.raise_for_status()
    made = answer.json()
    view = Delivered(made, always)
    with (
        ControlApi(stack.control_plane_url) as api,
        Flow(stack.service_url, [always, *changing]) as flow,
    ):
        flow.pass_by(50)
        view.read_until(flow.frames)
        grown = http.patch(f"/instrument-sets/{name}", json={"add": changing}).json()
        api.await_applied(grown["plan"])
        flow.pass_by(50)
        view.read_until(flow.frames)
        shrunk = http.patch(f"/instrument-sets/{name}", json={"remove": changing}).json()
        api.await_applied(shrunk["plan"])
        flow.pass_by(50)
    sequences: dict[str, list[int]] = {}
    plans: dict[str, set[int]] = {}
    deliveries = []
    view.read_rest(flow.frames)
    for properties, events in view.messages:
        deliveries.append((int(properties["delivery_sequence"]), int(properties["count"])))
        for event in events:
            sequences.setdefault(event["instrument"], []).append(event["sequence"])
            plans.setdefault(event["instrument"], set()).add(int(properties["plan"]))
    assert sequences[always] == list(range(1, flow.frames + 1))
    # All that came and went together came with one frame and went with one.
    runs = {tuple(sequences[each]) for each in changing}
    (run,) = runs
    assert 1 < run[0] < run[-1] < flow.frames
    assert list(run) == list(range(run[0], run[-1] + 1))
    assert all(min(plans[each]) >= grown["plan"] for each in changing)
    assert all(max(plans[each]) < shrunk["plan"] for each in changing)
    ends = [first + count for first, count in deliveries]
    assert [first for first, _ in deliveries[1:]] == ends[:-1]
    subscription = http.get(f"/subscriptions/{made['id']}").json()
    assert (subscription["plan"], subscription["topic"]) == (made["plan"], made["topic"])
    history = http.get(f"/instrument-sets/{name}/versions").json()["items"]
    assert [(v["added"], v["removed"]) for v in history[:2]] == [
        ([], sorted(changing)),
        (sorted(changing), []),
    ]
    for path in (f"subscriptions/{made['id']}", f"consumers/{consumer}", f"instrument-sets/{name}"):
        http.delete(f"/{path}").raise_for_status()
