"""A secure stack of its own, and what somebody with one consumer's token tries on its broker.

Everything is asked of the real broker: what is refused here is refused to any client.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import jwt
import psutil
import psycopg
import pulsar
import pytest
from events import trades
from psycopg.conninfo import conninfo_to_dict

from control_plane.security.keys import make_key
from control_plane.security.roles import Role
from control_plane.security.tokens import KeyRing
from marketdata.consumer import Consumer
from marketdata.publisher import Publisher
from marketdata.sources.synthetic import SyntheticConfig, SyntheticTicks
from marketdata.topics import (
    AUDIT,
    DEADLETTER_SEQUENCER,
    INGEST_EVENTS,
    PLANS,
    SEQUENCED_EVENTS,
)
from scripts.devstack.certificates import Certificates
from scripts.devstack.component import CHECKOUT
from scripts.devstack.console import Console
from scripts.devstack.ports import HOST
from scripts.devstack.security import Security
from scripts.devstack.stack import Stack
from scripts.verification.control_api import ControlApi
from tests.integration.local_runtime import eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FEED: Final = "feed-1"
"""The publisher."""

REFUSED: Final = (pulsar.AuthorizationError, pulsar.AuthenticationError, pulsar.LookupError)
FOREIGN_TOPICS: Final = (SEQUENCED_EVENTS, INGEST_EVENTS, DEADLETTER_SEQUENCER, PLANS, AUDIT)


@dataclass(slots=True)
class Party:
    """A consumer with its subscription: what the API told it, and what it knows of others'."""

    id: str
    subscription: dict[str, Any]
    client: pulsar.Client

    @property
    def topic(self) -> str:
        return str(self.subscription["topic"])

    @property
    def name(self) -> str:
        return str(self.subscription["subscription_name"])

    def read(self) -> Consumer:
        return Consumer(self.client, self.topic, self.name)


class World:
    """The stack, and the means to be anybody in it."""

    def __init__(self, stack: Stack) -> None:
        assert stack.security is not None
        self.stack = stack
        self.security: Security = stack.security
        self.ring = KeyRing(self.security.keys)
        self.api = ControlApi(stack.control_plane_url)
        self.clients: list[pulsar.Client] = []

    def close(self) -> None:
        self.api.http.close()
        for client in self.clients:
            client.close()

    def token(self, subject: str, role: Role = Role.CONSUMER, seconds: float = 3600) -> str:
        lifetime = timedelta(seconds=seconds)
        return self.ring.issue(subject=subject, role=role, lifetime=lifetime)[0]

    def issued(self, publisher: str) -> str:
        """A publisher's token, of the control plane: that is what lets it publish."""
        wanted = {"role": "publisher", "subject": publisher}
        return str(self.api.request("POST", "/v1/tokens", wanted)["token"])

    def client(self, token: str | None, **options: Any) -> pulsar.Client:
        client = pulsar.Client(
            options.pop("url", self.stack.service_url),
            authentication=pulsar.AuthenticationToken(token) if token else None,
            tls_validate_hostname=True,
            operation_timeout_seconds=options.pop("timeout_s", 10),
            logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/null"),
            **{"tls_trust_certs_file_path": str(self.security.certificates.authority)} | options,
        )
        self.clients.append(client)
        return client

    def party(self, view: str = "") -> Party:
        """A new consumer with a subscription to a view (a filter) that has a topic."""
        name = uuid4().hex[:12]
        consumer = self.api.register(name)
        made = self.api.subscribe(consumer, "all", filter=view or f"instrument = '{name}'")
        self.api.await_applied(made["plan"])
        return Party(consumer, made, self.client(self.token(consumer)))

    def unsubscribe(self, party: Party) -> None:
        self.api.request("DELETE", f"/v1/subscriptions/{party.subscription['id']}")

    def admin(self, token: str, method: str, path: str, body: Any = None) -> httpx.Response:
        return httpx.request(
            method,
            f"{self.stack.admin_url}{path}",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            verify=self.security.tls(),
            timeout=60,
        )

    @property
    def platform(self) -> str:
        return self.security.token_file("platform").read_text()

    def connected(self, party: Party) -> int:
        """How many consumers the broker has for a party's subscription."""
        path = f"/admin/v2/{party.topic.replace('://', '/')}/partitioned-stats?perPartition=false"
        stats = self.admin(self.platform, "GET", path).json()
        found = stats["subscriptions"].get(party.name)
        return len(found["consumers"]) if found else 0


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """One secure stack for all tests; it is taken away with its data."""
    stack = Stack(CHECKOUT / ".dds-secure", console=Console())
    stack.reset()
    with pytest.MonkeyPatch.context() as patch:
        try:
            stack.up(secure=True)
            for name, value in stack.environment().items():
                if name in ("DDS_TOKEN_FILE", "DDS_TLS_TRUST_CERTS"):
                    patch.setenv(name, value)
            made = World(stack)
            yield made
            made.close()
        finally:
            stack.reset()


@pytest.fixture(scope="module")
def alice(world: World) -> Party:
    return world.party()


@pytest.fixture(scope="module")
def bob(world: World) -> Party:
    return world.party()


def attempts(*acts: Callable[[], Any]) -> list[BaseException | None]:
    """What each act raised, side by side: some take the client's whole patience."""

    def outcome(act: Callable[[], Any]) -> BaseException | None:
        try:
            act()
        except Exception as error:  # noqa: BLE001  (judged by the caller)
            return error
        return None

    with ThreadPoolExecutor(max_workers=len(acts)) as pool:
        return list(pool.map(outcome, acts))


def publish(world: World, events: int = 200) -> None:
    batches = SyntheticTicks(SyntheticConfig(events=events, seed=1, instruments=4))
    with Publisher(world.client(world.issued(FEED)), name=FEED) as publisher:
        for batch in batches:
            publisher.publish(batch)


def publish_for(world: World, party: Party, events: int) -> None:
    """Events that are for one party."""
    with Publisher(world.client(world.issued(FEED)), name=FEED) as publisher:
        for _ in range(events):
            publisher.publish(trades([party.subscription["consumer_name"]]))


def sequences(consumer: Consumer, events: int) -> list[int]:
    """The sequences of so many events, which are acknowledged."""
    found: list[int] = []
    while len(found) < events:
        frame = consumer.receive(60.0)
        assert frame is not None, found
        found += frame.batch.column("sequence").to_pylist()
        consumer.ack(frame)
    return found


# -- the rightful way ----------------------------------------------------------------------------


def test_a_consumer_reads_what_a_publisher_published(world: World) -> None:
    party = world.party(f"instrument <> '{uuid4().hex}'")
    with party.read() as consumer:
        publish(world)
        frame = consumer.receive(60.0)
        assert frame is not None
        assert frame.batch.num_rows > 0


def test_who_pauses_is_cut_off_and_goes_on_where_it_was(world: World) -> None:
    party = world.party()
    path = f"/v1/subscriptions/{party.subscription['id']}"
    twin = world.api.subscribe(party.id, "twin", filter=party.subscription["filter"])
    assert twin["topic"] == party.topic
    other = Consumer(party.client, twin["topic"], twin["subscription_name"])
    # Closed once it is cut off: its client would try again, and read on after the resumption.
    with party.read() as reader:
        publish_for(world, party, 20)
        assert sequences(reader, 20) == sequences(other, 20) == list(range(1, 21))
        assert world.api.request("POST", f"{path}/pause")["state"] == "paused"
        eventually(lambda: world.connected(party) == 0)
    assert all(isinstance(outcome, REFUSED) for outcome in attempts(party.read))
    publish_for(world, party, 20)
    # It is one subscription that pauses: another one of the consumer to the topic reads on.
    assert sequences(other, 20) == list(range(21, 41))
    assert world.api.request("GET", f"{path}/health")["reason"].startswith(
        "The subscription is pau"
    )
    assert world.api.request("POST", f"{path}/resume")["state"] == "active"
    publish_for(world, party, 20)
    with party.read() as again:
        assert sequences(again, 40) == list(range(21, 61))
    other.close()


# -- topics and subscriptions of others ----------------------------------------------------------


def test_a_consumer_reaches_no_topic_but_its_own(world: World, alice: Party, bob: Party) -> None:
    mine, client = f"{alice.id}-{alice.subscription['id']}", alice.client
    first = pulsar.MessageId.earliest
    acts: list[Callable[[], Any]] = [
        lambda: client.subscribe(bob.topic, mine),
        lambda: client.subscribe(bob.topic, bob.name),
        lambda: client.create_reader(
            f"{bob.topic}-partition-0", first, subscription_role_prefix=alice.id
        ),
        lambda: client.create_producer(alice.topic),
        lambda: client.create_producer(bob.topic),
        lambda: client.subscribe(re.compile("persistent://marketdata/delivery/view-.*"), mine),
    ]
    for topic in FOREIGN_TOPICS:
        part = topic if topic in (PLANS, AUDIT) else f"{topic}-partition-0"
        acts += [
            lambda topic=topic: client.subscribe(topic, mine),
            lambda part=part: client.create_reader(part, first, subscription_role_prefix=alice.id),
            lambda topic=topic: client.create_producer(topic),
        ]
    for outcome in attempts(*acts):
        assert isinstance(outcome, REFUSED), repr(outcome)
    assert bob.id not in str(world.api.request("GET", f"/v1/subscriptions?consumer={alice.id}"))


def test_a_consumer_uses_no_subscription_but_its_own(
    world: World, alice: Party, bob: Party
) -> None:
    """On its own topic, too: not another's name, none without its id, and no new one."""
    client, topic = alice.client, alice.topic
    another = bob.id + "-" + alice.name.partition("-")[2]
    assert all(
        isinstance(outcome, REFUSED)
        for outcome in attempts(
            lambda: client.subscribe(topic, another),
            lambda: client.subscribe(topic, "mine"),
            lambda: client.create_reader(f"{topic}-partition-0", pulsar.MessageId.earliest),
        )
    )
    impatient = world.client(world.token(alice.id), timeout_s=2)
    (invented,) = attempts(lambda: impatient.subscribe(topic, f"{alice.id}-of-my-own"))
    assert isinstance(invented, pulsar.PulsarException)
    with alice.read():
        pass


def test_a_publisher_writes_ingest_and_nothing_else(world: World, alice: Party) -> None:
    client = world.client(world.issued(FEED))
    acts = [
        lambda: client.create_producer(SEQUENCED_EVENTS),
        lambda: client.create_producer(alice.topic),
        lambda: client.create_producer(PLANS),
        lambda: client.subscribe(INGEST_EVENTS, "sequencer"),
        lambda: client.subscribe(alice.topic, alice.name),
        lambda: world.client(world.token("feed-2", Role.PUBLISHER)).create_producer(INGEST_EVENTS),
    ]
    for outcome in attempts(*acts):
        assert isinstance(outcome, REFUSED), repr(outcome)


def test_a_publisher_without_valid_tokens_is_cut_off(world: World) -> None:
    producer = world.client(world.issued("feed-3")).create_producer(INGEST_EVENTS)
    assert producer.is_connected()
    world.api.request("POST", "/v1/tokens/revoke", {"subject": "feed-3"})
    eventually(lambda: not producer.is_connected())


# -- the admin API -------------------------------------------------------------------------------


def test_a_consumer_administers_nothing(world: World, alice: Party, bob: Party) -> None:
    mine = f"/admin/v2/persistent/{alice.topic.partition('://')[2]}"
    others = f"/admin/v2/persistent/{bob.topic.partition('://')[2]}"
    token = world.token(alice.id)
    for method, path, body in (
        ("GET", "/admin/v2/tenants", None),
        ("GET", "/admin/v2/namespaces/marketdata", None),
        ("GET", "/admin/v2/namespaces/marketdata/delivery", None),
        ("GET", "/admin/v2/persistent/marketdata/delivery", None),
        ("POST", "/admin/v2/namespaces/marketdata/delivery/permissions/" + alice.id, ["consume"]),
        ("POST", "/admin/v2/namespaces/marketdata/delivery/subscriptionAuthMode", "None"),
        (
            "POST",
            "/admin/v2/namespaces/grantPermissionsOnTopics",
            [{"topic": bob.topic, "role": alice.id, "actions": ["consume"]}],
        ),
        ("POST", f"{others}/permissions/{alice.id}", ["consume"]),
        ("GET", f"{others}/partitioned-stats", None),
        ("GET", f"{others}/subscriptions", None),
        ("DELETE", f"{others}/partitions", None),
        ("DELETE", f"{mine}/partitions", None),
        ("PUT", f"{mine}/unload", None),
        ("GET", f"{mine}/permissions", None),
        ("DELETE", f"{others}/subscription/{bob.name}?force=true", None),
        ("POST", f"{others}-partition-0/subscription/{bob.name}/skip_all", None),
        ("PUT", f"{mine}/subscription/{bob.id}-planted", None),
        ("GET", "/admin/v3/functions/marketdata/functions", None),
        ("POST", "/admin/v3/functions/marketdata/functions/sequencer/restart", None),
        ("GET", "/admin/v2/brokers/configuration/runtime", None),
    ):
        answer = world.admin(token, method, path, body)
        # Where a subscription's name does not begin with the role, Pulsar refuses with a 500.
        assert answer.status_code in (401, 403, 500), (method, path, answer.status_code)
    names = world.admin(world.platform, "GET", f"{others}/subscriptions").json()
    assert names == [bob.name]
    names = world.admin(world.platform, "GET", f"{mine}/subscriptions").json()
    assert names == [alice.name]


def test_functions_do_not_administer_the_broker(world: World) -> None:
    token = world.security.token_file("functions").read_text()
    for method, path in (
        ("GET", "/admin/v2/tenants"),
        ("PUT", "/admin/v2/persistent/marketdata/delivery/view-x/partitions"),
        ("GET", "/admin/v3/functions/marketdata/functions/sequencer"),
    ):
        answer = world.admin(token, method, path, 1 if method == "PUT" else None)
        assert answer.status_code in (401, 403), (method, path, answer.status_code)


# -- tokens --------------------------------------------------------------------------------------


def test_only_a_valid_token_is_believed(world: World, alice: Party, tmp_path: Path) -> None:
    good = world.token(alice.id)
    payload = jwt.decode(good, options={"verify_signature": False})
    key = next(iter(world.ring._keys.values()))
    make_key(tmp_path)
    stranger = KeyRing(tmp_path).issue(
        subject=alice.id, role=Role.CONSUMER, lifetime=timedelta(hours=1)
    )[0]
    public = key.public_pem()
    expired = payload | {"exp": int(time.time()) - 60}
    head, body, signature = good.split(".")
    forged = payload | {"sub": "platform"}
    bad = {
        "none": None,
        "no token": "x.y.z",
        "another key": stranger,
        "expired": jwt.encode(expired, key.private, "ES256"),
        "another audience": jwt.encode(payload | {"aud": "elsewhere"}, key.private, "ES256"),
        "unsigned": jwt.encode(payload, None, "none"),
        "signed with the public key": _hmac(payload, public),
        "changed": ".".join((head, _encoded(forged), signature)),
        "cut": f"{head}.{body}.",
    }
    path = f"/lookup/v2/topic/persistent/{alice.topic.partition('://')[2]}-partition-0"
    assert world.admin(good, "GET", path).status_code == 200
    for what, token in bad.items():
        assert world.admin(token or "none", "GET", path).status_code == 401, what

    def subscribe(token: str | None) -> None:
        world.client(token, timeout_s=3).subscribe(alice.topic, alice.name)

    # The client tries again until its patience ends, and calls it a time-out.
    outcomes = attempts(*(lambda token=token: subscribe(token) for token in bad.values()))
    for what, outcome in zip(bad, outcomes, strict=True):
        assert isinstance(outcome, pulsar.PulsarException), (what, outcome)


def test_a_connection_ends_soon_after_its_token(world: World) -> None:
    party = world.party()
    short = world.client(world.token(party.id, seconds=5))
    consumer = short.subscribe(party.topic, party.name)
    assert consumer.is_connected()
    eventually(lambda: world.connected(party) == 0)


def test_tokens_stand_in_files_of_their_owner_and_nowhere_else(world: World) -> None:
    files = [file for file in world.security.folder.rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    tokens = [
        world.security.token_file(name).read_text() for name in ("broker", "platform", "functions")
    ]
    for process in psutil.process_iter(["cmdline"]):
        arguments = " ".join(process.info["cmdline"] or ())
        assert not any(token in arguments for token in tokens)
    instances = world.stack.function_pids("sequencer")
    assert instances
    for pid in instances:
        given = psutil.Process(pid).cmdline()
        shown = given[given.index("--client_auth_params") + 1]
        assert shown == f"file://{world.security.token_file('functions')}"
    signatures = [token.rpartition(".")[2].encode() for token in tokens]
    told = [world.stack.home / "logs", world.stack.home / "pulsar" / "conf"]
    for file in (file for folder in told for file in folder.rglob("*") if file.is_file()):
        content = file.read_bytes()
        assert not any(signature in content for signature in signatures), file


# -- what changes --------------------------------------------------------------------------------


def test_a_closed_subscription_cuts_its_consumer_off(world: World) -> None:
    """And no one else: another consumer of the same view goes on."""
    leaving = world.party("venue = 'XNAS' AND price > 17")
    staying = world.party("venue = 'XNAS' AND price > 17")
    assert leaving.topic == staying.topic
    consumer = leaving.client.subscribe(leaving.topic, leaving.name)
    other = staying.client.subscribe(staying.topic, staying.name)
    eventually(lambda: world.connected(leaving) and world.connected(staying))
    world.unsubscribe(leaving)
    eventually(lambda: not consumer.is_connected())
    (again,) = attempts(lambda: leaving.client.subscribe(leaving.topic, leaving.name))
    assert isinstance(again, REFUSED)
    assert world.connected(leaving) == 0
    assert world.connected(staying) > 0
    assert other.is_connected()


def test_one_of_two_subscriptions_to_a_view_is_closed(world: World) -> None:
    """The grant stays for the other one; the closed one's name is of no use any more."""
    party = world.party("venue = 'XNYS' AND price > 23")
    second = world.api.subscribe(party.id, "second", filter="venue = 'XNYS' AND price > 23")
    assert second["topic"] == party.topic
    consumer = party.client.subscribe(party.topic, party.name)
    world.unsubscribe(party)
    eventually(lambda: not consumer.is_connected())
    impatient = world.client(world.token(party.id), timeout_s=2)
    (again,) = attempts(lambda: impatient.subscribe(party.topic, party.name))
    assert isinstance(again, pulsar.PulsarException)
    party.client.subscribe(second["topic"], second["subscription_name"])


def test_grants_are_put_right(world: World, alice: Party, bob: Party) -> None:
    """A grant that somebody gave goes, one that somebody took comes back."""
    base = "/admin/v2/namespaces"
    foreign = [{"topic": bob.topic, "role": alice.id, "actions": ["consume", "produce"]}]
    answer = world.admin(world.platform, "POST", f"{base}/grantPermissionsOnTopics", foreign)
    assert answer.status_code == 204
    taken = [{"topic": alice.topic, "role": alice.id}]
    answer = world.admin(world.platform, "POST", f"{base}/revokePermissionsOnTopics", taken)
    assert answer.status_code == 204

    def grants(party: Party) -> Any:
        path = f"/admin/v2/persistent/{party.topic.partition('://')[2]}/permissions"
        return world.admin(world.platform, "GET", path).json()

    eventually(lambda: grants(bob).keys() == {"functions", bob.id})
    eventually(lambda: grants(alice).get(alice.id) == ["consume"])
    with alice.read():
        pass


# -- the wire ------------------------------------------------------------------------------------


def test_nobody_is_served_without_tls_or_by_a_stranger(
    world: World, alice: Party, tmp_path: Path
) -> None:
    strangers = Certificates(tmp_path)
    strangers.ensure(HOST)
    plain = world.stack.service_url.replace("pulsar+ssl", "pulsar")
    token = world.token(alice.id)
    for outcome in attempts(
        lambda: world.client(token, url=plain, timeout_s=3).get_topic_partitions(alice.topic),
        lambda: world.client(
            token, tls_trust_certs_file_path=str(strangers.authority), timeout_s=3
        ).get_topic_partitions(alice.topic),
    ):
        assert isinstance(outcome, pulsar.PulsarException), outcome
    trusting_strangers = ssl.create_default_context(cafile=str(strangers.authority))
    for url in (f"{world.stack.admin_url}/status.html", f"{world.stack.control_plane_url}/livez"):
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(url, verify=trusting_strangers)
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http"))


def test_the_database_is_served_over_tls_alone_and_asks_for_its_password(
    world: World, tmp_path: Path
) -> None:
    url = world.stack.database_url
    with psycopg.connect(url) as connection:
        encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert connection.execute(encrypted).fetchone() == (True,)
    strangers = Certificates(tmp_path)
    strangers.ensure(HOST)
    for changed, reason in (
        ({"sslmode": "disable"}, "no encryption"),
        ({"sslrootcert": str(strangers.authority)}, "certificate verify failed"),
        ({"passfile": "/dev/null"}, "password"),
    ):
        with pytest.raises(psycopg.OperationalError, match=reason):
            psycopg.connect(url, **changed)


def test_the_database_shows_a_renewed_certificate_and_keeps_its_connections(world: World) -> None:
    context = Security(world.stack.home).tls()
    context.set_alpn_protocols(["postgresql"])  # TLS at once, without asking for it first
    address = conninfo_to_dict(world.stack.database_url)

    def shown() -> object:
        with (
            socket.create_connection((HOST, int(str(address["port"]))), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as connection,
        ):
            certificate = connection.getpeercert()
        return None if certificate is None else certificate["serialNumber"]

    before = shown()
    with psycopg.connect(world.stack.database_url, autocommit=True) as connection:
        Security(world.stack.home).certificates.server.unlink()
        world.stack.up()
        eventually(lambda: shown() != before, within_s=120)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def _encoded(payload: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(payload).encode()).rstrip(b"=").decode()


def _hmac(payload: dict[str, Any], secret: bytes) -> str:
    """HS256 with what everybody knows as its secret: PyJWT refuses to make that."""
    text = f"{_encoded({'alg': 'HS256', 'typ': 'JWT'})}.{_encoded(payload)}"
    digest = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
