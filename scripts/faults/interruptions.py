"""Interruptions of the control plane by a seed, in bursts, each followed by convergence.

While a change is asked for over HTTP, something is killed, stopped, or altered behind the control
plane's back, and while it repairs that, something else. Then nothing helps but the control plane
itself, and what the broker has must become what the database says (`scripts.faults.settled`).
"""

import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Thread
from typing import Any, Final

import httpx
import psycopg
import pulsar

from marketdata.plans import PLAN_KEY
from marketdata.topics import PLANS
from scripts.access import authenticate
from scripts.devstack.console import Console
from scripts.devstack.processes import Identity
from scripts.devstack.stack import Stack
from scripts.faults.settled import FUNCTIONS, Cluster

CONVERGENCE_TIMEOUT_S: Final = 300.0
MOST_SUBSCRIPTIONS: Final = 12
CONSUMERS: Final = 4
HASTE: Final = {
    "DDS_RECONCILE_INTERVAL_SECONDS": "0.5",
    "DDS_UNHEALTHY_AFTER_SECONDS": "6",
    "DDS_DRAIN_SECONDS": "1",
}
"""The environment of a control plane that looks often, so that a run takes less time."""


class Interruption(StrEnum):
    """What interrupts."""

    KILL_CONTROL_PLANE = "kill-control-plane"
    KILL_POSTGRESQL = "kill-postgresql"
    PAUSE_BROKER = "pause-broker"
    KILL_BROKER = "kill-broker"
    KILL_INSTANCE = "kill-instance"
    ALTER_FUNCTION = "alter-function"
    DELETE_FUNCTION = "delete-function"
    REMOVE_TOPIC = "remove-topic"
    REMOVE_SUBSCRIPTION = "remove-subscription"
    TAKE_GRANT = "take-grant"
    GIVE_GRANT = "give-grant"
    FORGE_PLAN = "forge-plan"


DECK: Final = {
    Interruption.KILL_CONTROL_PLANE: 16,
    Interruption.KILL_POSTGRESQL: 8,
    Interruption.PAUSE_BROKER: 8,
    Interruption.KILL_BROKER: 1,
    Interruption.KILL_INSTANCE: 1,
    Interruption.ALTER_FUNCTION: 2,
    Interruption.DELETE_FUNCTION: 1,
    Interruption.REMOVE_TOPIC: 12,
    Interruption.REMOVE_SUBSCRIPTION: 16,
    Interruption.TAKE_GRANT: 12,
    Interruption.GIVE_GRANT: 12,
    Interruption.FORGE_PLAN: 11,
}
"""How often each comes in a hundred. Functions and brokers take a minute to come back."""
_OF_GRANTS: Final = frozenset({Interruption.TAKE_GRANT, Interruption.GIVE_GRANT})


class NotConverged(Exception):
    """What should be did not come about in time."""


@dataclass(slots=True)
class Seen:
    """What happened.

    Attributes:
        happened: what interrupted.
        missed: what could not: there was nothing to do it to, or the broker did not do it.
        seconds: from the end of each burst with such an interruption until all was as it should be.
        failure: what was left; "" where nothing was.
    """

    seed: int
    happened: Counter[Interruption] = field(default_factory=Counter)
    missed: int = 0
    seconds: dict[Interruption, list[float]] = field(default_factory=dict)
    bursts: int = 0
    changes: int = 0
    failure: str = ""


def schedule(seed: int, count: int, *, secure: bool) -> list[Interruption]:
    """Which interruptions come, dealt like cards: every hundred of them holds the deck."""
    deck = [
        kind
        for kind, often in DECK.items()
        for _ in range(often)
        if secure or kind not in _OF_GRANTS
    ]
    dealt = random.Random(seed)  # noqa: S311 - not about secrets
    found: list[Interruption] = []
    while len(found) < count:
        found += dealt.sample(deck, len(deck))
    return found[:count]


def burst_sizes(seed: int, most: int) -> Iterator[int]:
    """How many interruptions come one after the other before all has to be as it should be."""
    dealt = random.Random(seed + 2)  # noqa: S311 - not about secrets
    while True:
        yield dealt.randint(1, most)


class Interrupter:
    """One run on a stack that is up, whose control plane reconciles often.

    Args:
        say: told what happens, a line at a time.
    """

    def __init__(
        self, stack: Stack, cluster: Cluster, seed: int, say: Callable[[str], None]
    ) -> None:
        self._stack, self._cluster, self._say = stack, cluster, say
        self._random = random.Random(seed + 1)  # noqa: S311 - not about secrets
        self._run = f"i{seed}-{time.time_ns() // 1_000_000 % 10_000_000}"
        self._number = 0
        self.seen = Seen(seed)
        self._by_kind: dict[Interruption, Callable[[], bool]] = {
            Interruption.KILL_CONTROL_PLANE: lambda: self._kill("control_plane"),
            Interruption.KILL_POSTGRESQL: lambda: self._kill("postgresql"),
            Interruption.PAUSE_BROKER: self._pause_broker,
            Interruption.KILL_BROKER: lambda: self._kill("pulsar"),
            Interruption.KILL_INSTANCE: self._kill_instance,
            Interruption.ALTER_FUNCTION: self._alter_function,
            Interruption.DELETE_FUNCTION: self._delete_function,
            Interruption.REMOVE_TOPIC: self._remove_topic,
            Interruption.REMOVE_SUBSCRIPTION: self._remove_subscription,
            Interruption.TAKE_GRANT: self._take_grant,
            Interruption.GIVE_GRANT: self._give_grant,
            Interruption.FORGE_PLAN: self._forge_plan,
        }

    def run(self, kinds: Sequence[Interruption], *, most: int) -> Seen:
        """All interruptions, in bursts of up to `most`; ends with the first not overcome.

        What could not be done comes again at the end.
        """
        tls = self._stack.security.tls() if self._stack.security is not None else True
        with httpx.Client(
            base_url=self._stack.control_plane_url, timeout=20.0, auth=authenticate, verify=tls
        ) as http:
            self._cluster.note_functions()
            for number in range(CONSUMERS):
                body = {"name": self._consumer(number), "entitlements": {}}
                http.post("/v1/consumers", json=body).raise_for_status()
            for _ in range(CONSUMERS):
                self._subscribe(http)
            self._converge()
            left = deque(kinds)
            for size in burst_sizes(self.seen.seed, most):
                burst = [left.popleft() for _ in range(min(size, len(left)))]
                if not burst or self.seen.failure:
                    break
                left += self._burst(http, burst)
                if self.seen.missed > len(kinds):
                    self.seen.failure = f"{len(left)} interruptions cannot be done"
            self._leave(http)
        return self.seen

    def _leave(self, http: httpx.Client) -> None:
        """Close and delete what is this run's, as far as that can be done."""
        with suppress(httpx.HTTPError):
            for made in self._mine(http):
                http.delete(f"/v1/subscriptions/{made['id']}")
            for number in range(CONSUMERS):
                http.delete(f"/v1/consumers/{self._consumer(number)}")

    def _burst(self, http: httpx.Client, kinds: list[Interruption]) -> list[Interruption]:
        """Interrupt, and wait until that is overcome; gives what could not be done."""
        done = [self._interrupt(http, kind) for kind in kinds]
        missed = [kind for kind, was in zip(kinds, done, strict=True) if not was]
        self.seen.missed += len(missed)
        self.seen.happened.update(kind for kind, was in zip(kinds, done, strict=True) if was)
        self.seen.bursts += 1
        told = f"{self.seen.happened.total()} {', '.join(kinds)}"
        try:
            taken = self._converge()
        except NotConverged as error:
            self.seen.failure = f"after {told}: {error}"
            return missed
        for kind in set(kinds) - set(missed):
            self.seen.seconds.setdefault(kind, []).append(taken)
        self._say(f"{told}: {taken:.1f} s")
        return missed

    def _interrupt(self, http: httpx.Client, kind: Interruption) -> bool:
        changing = Thread(target=self._change, args=(http,))
        changing.start()
        time.sleep(self._random.random() * 0.3)
        done = False
        # What it is done to may be away because of the change, or of what was done before.
        with suppress(httpx.HTTPError, psycopg.Error, pulsar.PulsarException):
            done = self._by_kind[kind]()
        changing.join()
        return done

    def _converge(self) -> float:
        started = time.monotonic()
        while differences := self._cluster.differences():
            if time.monotonic() - started > CONVERGENCE_TIMEOUT_S:
                raise NotConverged("; ".join(differences))
            time.sleep(0.2)
        return time.monotonic() - started

    # -- changes ------------------------------------------------------------------------------

    def _change(self, http: httpx.Client) -> None:
        """Ask for one change; whether it was carried out the database knows."""
        with suppress(httpx.HTTPError):
            made = self._mine(http)
            choice = self._random.random()
            if (choice < 0.5 and len(made) < MOST_SUBSCRIPTIONS) or len(made) < 3:
                self._subscribe(http)
            elif choice < 0.8:
                key = self._random.choice(made)["id"]
                params = {"drain": 1} if self._random.random() < 0.5 else {}
                http.delete(f"/v1/subscriptions/{key}", params=params)
            else:
                name = self._consumer(self._random.randrange(CONSUMERS))
                bound = self._random.choice([["XNAS"], ["XNYS"], None])
                body = {"entitlements": {"venues": bound}}
                http.patch(f"/v1/consumers/{name}", json=body)
            self.seen.changes += 1

    def _mine(self, http: httpx.Client) -> list[dict[str, Any]]:
        answer = http.get("/v1/subscriptions", params={"limit": 1000}).raise_for_status()
        return [
            item for item in answer.json()["items"] if item["consumer_name"].startswith(self._run)
        ]

    def _subscribe(self, http: httpx.Client) -> None:
        self._number += 1
        body = {
            "consumer": self._consumer(self._random.randrange(CONSUMERS)),
            "name": f"s{self._number}",
            "filter": f"instrument = 'I{self._random.randrange(8)}'",
        }
        http.post("/v1/subscriptions", json=body)

    def _consumer(self, number: int) -> str:
        return f"{self._run}-{number}"

    # -- interruptions: each says whether it was done ------------------------------------------

    def _kill(self, component: str) -> bool:
        self._stack.kill(component)
        self._stack.start(component)
        return True

    def _pause_broker(self) -> bool:
        pid = self._stack.pid("pulsar")
        broker = Identity.of(pid) if pid else None
        if broker is None:
            return False
        try:
            broker.signal(signal.SIGSTOP)
            time.sleep(self._random.uniform(0.5, 6.0))
        finally:
            broker.signal(signal.SIGCONT)
        return True

    def _kill_instance(self) -> bool:
        pids = self._stack.function_pids(self._function().rsplit("/", 1)[-1])
        if pids:
            self._stack.kill_instance(self._random.choice(pids))
        return bool(pids)

    def _alter_function(self) -> bool:
        path = f"/v3/functions/{self._function()}"
        config = self._cluster.get(path)
        if config is None:
            return False
        if self._random.random() < 0.5:
            config["parallelism"] = 3 - config["parallelism"] % 2
        else:
            config["userConfig"] = {**config["userConfig"], "log_level": "error"}
        return self._sent("PUT", path, files={"functionConfig": (None, *_json(config))})

    def _delete_function(self) -> bool:
        return self._sent("DELETE", f"/v3/functions/{self._function()}")

    def _function(self) -> str:
        return self._random.choice(FUNCTIONS)

    def _remove_topic(self) -> bool:
        return self._sent_to_one("DELETE", "{topic}/partitions", params={"force": "true"})

    def _remove_subscription(self) -> bool:
        return self._sent_to_one("DELETE", "{topic}/subscription/{name}", params={"force": "true"})

    def _take_grant(self) -> bool:
        return self._sent_to_one("DELETE", "{topic}/permissions/{consumer}")

    def _give_grant(self) -> bool:
        role = f"c{self._random.getrandbits(64):016x}"
        return self._sent_to_one(
            "POST", f"{{topic}}/permissions/{role}", json=["consume", "produce"]
        )

    def _forge_plan(self) -> bool:
        client = self._cluster.client()
        try:
            client.create_producer(PLANS).send(b"no plan", partition_key=PLAN_KEY)
        finally:
            client.close()
        return True

    def _sent_to_one(self, method: str, path: str, **arguments: Any) -> bool:
        """Ask the broker for something at a topic that should be there."""
        found = sorted(self._cluster.wanted().cursors)
        if not found:
            return False
        topic, name = self._random.choice(found)
        place = path.format(
            topic=topic.replace("://", "/"), name=name, consumer=name.partition("-")[0]
        )
        return self._sent(method, f"/v2/{place}", **arguments)

    def _sent(self, method: str, path: str, **arguments: Any) -> bool:
        return self._cluster.http.request(method, path, **arguments).is_success


def _json(document: Any) -> tuple[bytes, str]:
    return httpx.Request("POST", "http://none", json=document).content, "application/json"


def interrupted(stack: Stack, seed: int, count: int, most: int, console: Console) -> Seen:
    """Interrupt a stack that is up, in bursts of up to `most`; what was seen."""
    with Cluster(stack) as cluster:
        kinds = schedule(seed, count, secure=cluster.secure)
        return Interrupter(stack, cluster, seed, console.line).run(kinds, most=most)
