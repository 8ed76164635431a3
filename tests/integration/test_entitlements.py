"""Entitlements change while events flow: what is lost stays away, what is left comes whole."""

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import Any, Self

import httpx
import pulsar
import pytest
from events import trades
from local_runtime import eventually

from marketdata.frames import read_frame
from marketdata.partitioning import partition_of
from marketdata.publisher import Publisher
from marketdata.skipped import Skipped
from scripts.verification.control_api import ControlApi

pytestmark = pytest.mark.integration

VENUES = ["XNAS", "XNYS", "XLON"]


class Flow:
    """One event of each of three instruments a frame, each of a venue of its own, without end."""

    def __init__(self, service_url: str, names: list[str] | None = None) -> None:
        self.names = names or self._new_names()
        self._url = service_url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.frames = 0

    @staticmethod
    def _new_names() -> list[str]:
        names = (uuid.uuid4().hex[:12].upper() for _ in repeat(None))
        return list(islice((name for name in names if partition_of(name, 4) == 0), 3))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        name = f"entitlements-{uuid.uuid4().hex}"
        with Publisher(self._url, name=name, max_delay_ms=None) as publisher:
            while not self._stop.is_set():
                publisher.publish(trades(self.names, venue=VENUES))
                publisher.flush()
                self.frames += 1
                time.sleep(0.002)

    def pass_by(self, frames: int) -> None:
        wanted = self.frames + frames
        while self.frames < wanted:
            time.sleep(0.01)

    @property
    def all(self) -> list[int]:
        """The sequences of everything that was published of an instrument."""
        return list(range(1, self.frames + 1))


@dataclass
class Seen:
    """What came on a topic, and what was told as skipped of each instrument."""

    sequences: dict[str, list[int]] = field(default_factory=lambda: {v: [] for v in VENUES})
    skipped: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    plans: list[int] = field(default_factory=list)


class Reading:
    """A plain client that reads a topic from now on, until it ends and is silent for a second."""

    def __init__(self, subscription: dict[str, Any], *, from_plan: int = 0) -> None:
        self.client = pulsar.Client(subscription["service_url"])
        self._consumer = self.client.subscribe(
            subscription["topic"],
            subscription["subscription_name"],
            consumer_type=pulsar.ConsumerType.Failover,
        )
        self._from_plan = from_plan
        self._ends = threading.Event()
        self._awaited: dict[str, int] = {}
        self._until = 0.0
        self.seen = Seen()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                message = self._consumer.receive(timeout_millis=1_000)
            except pulsar.PulsarException:  # silent, or taken away
                if self._ends.wait(0.05) and (self._whole() or time.monotonic() > self._until):
                    return
                continue
            properties = message.properties()
            if properties["count"] != "0" and int(properties["plan"]) >= self._from_plan:
                self.seen.plans.append(int(properties["plan"]))
                for event in read_frame(message.data()).to_pylist():
                    self.seen.sequences[event["venue"]].append(event["sequence"])
                told = Skipped.told_by(properties)
                for name, *ends in zip(told.instrument, told.first, told.last, strict=True):
                    self.seen.skipped[name].append((ends[0], ends[1]))
            try:
                self._consumer.acknowledge(message)
            except pulsar.PulsarException:
                continue

    def _whole(self) -> bool:
        return all(
            self.seen.sequences[venue][-1:] >= [last] for venue, last in self._awaited.items()
        )

    def end(self, **awaited: int) -> Seen:
        """What came: at least up to the sequence of each venue named, if it comes in three."""
        self._awaited, self._until = awaited, time.monotonic() + 180
        self._ends.set()
        self._thread.join()
        self.client.close()
        return self.seen


class Api:
    """Consumers and subscriptions of one test."""

    def __init__(self, http: httpx.Client, control: ControlApi) -> None:
        self.http = http
        self.control = control
        self.mark = uuid.uuid4().hex[:8]
        self.made: list[str] = []

    def desk(self, name: str, venues: list[str], sql: str, **more: Any) -> dict[str, Any]:
        """A consumer with a subscription; `more`: what it asks for beside its filter."""
        consumer = f"{name}-{self.mark}"
        body = {"name": consumer, "entitlements": {"venues": venues}}
        self.http.post("/consumers", json=body).raise_for_status()
        request = {"consumer": consumer, "name": "s", "filter": sql, **more}
        answers: list[httpx.Response] = []

        def stored() -> bool:
            """Whether it is; a broker that is busy is asked again."""
            answers.append(self.http.post("/subscriptions", json=request))
            return answers[-1].status_code != httpx.codes.SERVICE_UNAVAILABLE

        eventually(stored)
        answer = answers[-1].raise_for_status().json()
        self.made += [f"/consumers/{consumer}", f"/subscriptions/{answer['id']}"]
        return self.active(answer)

    def narrow(self, subscription: dict[str, Any], venues: list[str]) -> dict[str, Any]:
        """Other venues for a consumer; its subscription, once it is active again."""
        path = f"/consumers/{subscription['consumer']}"
        body = {"entitlements": {"venues": venues}}
        self.http.patch(path, json=body).raise_for_status()
        after = self.active(subscription)
        assert after["topic"] != subscription["topic"]
        assert after["plan"] > subscription["plan"]
        self.control.await_applied(after["plan"])
        return after

    def active(self, subscription: dict[str, Any]) -> dict[str, Any]:
        """What it is when it is active; the answer of a slow broker comes before."""
        eventually(lambda: self.get(subscription)["state"] == "active")
        return self.get(subscription)

    def get(self, subscription: dict[str, Any]) -> dict[str, Any]:
        return dict(self.http.get(f"/subscriptions/{subscription['id']}").json())


@pytest.fixture
def api(stack: Any) -> Iterator[Api]:
    with (
        httpx.Client(base_url=f"{stack.control_plane_url}/v1", timeout=60) as client,
        ControlApi(stack.control_plane_url) as control,
    ):
        api = Api(client, control)
        yield api
        for path in reversed(api.made):
            client.delete(path).raise_for_status()


def listed(names: list[str]) -> str:
    return f"instrument IN ({', '.join(map(repr, names))})"


def test_who_is_narrowed_gets_all_that_stays_and_nothing_that_goes(stack: Any, api: Api) -> None:
    flow = Flow(stack.service_url)
    sql = listed(flow.names)
    one = api.desk("one", ["XNAS", "XNYS"], sql)
    two = api.desk("two", ["XNYS", "XLON"], sql)
    assert one["topic"] != two["topic"]
    old, other = Reading(one), Reading(two)
    with flow:
        flow.pass_by(100)
        after = api.narrow(one, ["XNYS"])
        new = Reading(after, from_plan=after["plan"])
        flow.pass_by(100)
    rest, untouched = new.end(XNYS=flow.frames), other.end(XNYS=flow.frames, XLON=flow.frames)
    before = old.end(**dict.fromkeys(("XNAS", "XNYS"), rest.sequences["XNYS"][0] - 1))
    assert [left["topic"] for left in after["draining"]] == [one["topic"]]
    # Until the plan: both venues, all of it. From the plan on: one of them, all of it. What was not
    # acknowledged when the plan came is on both.
    (first,) = {sequences[0] for sequences in rest.sequences.values() if sequences}
    until = list(range(1, len(before.sequences["XNYS"]) + 1))
    assert 1 < first <= len(until) + 1 < flow.frames
    assert before.sequences == {"XNAS": until, "XNYS": until, "XLON": []}
    assert max(before.plans) < after["plan"]
    assert rest.sequences == {"XNAS": [], "XNYS": flow.all[first - 1 :], "XLON": []}
    assert untouched.sequences == {"XNAS": [], "XNYS": flow.all, "XLON": flow.all}
    assert api.get(two)["topic"] == two["topic"]


def test_a_topic_that_others_share_is_closed_to_who_is_narrowed(stack: Any, api: Api) -> None:
    flow = Flow(stack.service_url)
    sql = listed(flow.names)
    one, two = (api.desk(name, ["XNAS", "XNYS"], sql) for name in ("one", "two"))
    assert one["topic"] == two["topic"]
    old, other = Reading(one), Reading(two)
    with flow:
        flow.pass_by(100)
        after = api.narrow(one, ["XNYS"])
        new = Reading(after, from_plan=after["plan"])
        flow.pass_by(100)
        # Neither by reconnecting nor by asking again is there a way back.
        # The client repeats what is refused this way until its time is over.
        again = pulsar.Client(one["service_url"], operation_timeout_seconds=5)
        with pytest.raises(pulsar.PulsarException):
            again.subscribe(one["topic"], one["subscription_name"])
        again.close()
    before, rest = old.end(), new.end(XNYS=flow.frames)
    untouched = other.end(XNAS=flow.frames, XNYS=flow.frames)
    assert after["draining"] == []
    assert max(before.plans) < after["plan"]
    assert before.sequences["XNAS"] == before.sequences["XNYS"]
    assert before.sequences["XNAS"] == list(range(1, len(before.sequences["XNAS"]) + 1))
    assert rest.sequences["XNAS"] == rest.sequences["XLON"] == []
    first = rest.sequences["XNYS"][0]
    assert rest.sequences["XNYS"] == flow.all[first - 1 :]
    assert untouched.sequences == {"XNAS": flow.all, "XNYS": flow.all, "XLON": []}


def test_a_set_of_entitlements_changes_between_two_frames(stack: Any, api: Api) -> None:
    flow = Flow(stack.service_url)
    name = f"set-{api.mark}"
    api.http.post(
        "/instrument-sets", json={"name": name, "instruments": flow.names}
    ).raise_for_status()
    api.made.append(f"/instrument-sets/{name}")
    consumer = f"set-desk-{api.mark}"
    body = {"name": consumer, "entitlements": {"instrument_sets": [name]}}
    api.http.post("/consumers", json=body).raise_for_status()
    api.made.append(f"/consumers/{consumer}")
    request = {"consumer": consumer, "name": "s"}
    made = api.http.post("/subscriptions", json=request).raise_for_status().json()
    api.made.append(f"/subscriptions/{made['id']}")
    reading = Reading(api.active(made))
    with flow:
        flow.pass_by(100)
        change = {"remove": flow.names[:1]}
        shrunk = api.http.patch(f"/instrument-sets/{name}", json=change).json()
        api.control.await_applied(shrunk["plan"])
        flow.pass_by(100)
    seen = reading.end(XNYS=flow.frames, XLON=flow.frames)
    lost = seen.sequences["XNAS"]
    assert lost == list(range(1, len(lost) + 1))
    assert len(lost) < flow.frames
    assert seen.sequences["XNYS"] == seen.sequences["XLON"] == flow.all
    assert api.get(made)["topic"] == made["topic"]
    assert made["plan"] < shrunk["plan"] <= max(seen.plans)
