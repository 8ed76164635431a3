"""Dead letters on the real stack: a refused frame is browsed, fetched and sent again, once."""

import hashlib
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice, repeat
from typing import Any

import httpx
import pulsar
import pytest
from events import trades

from marketdata.frames import encode_frame, read_frame
from marketdata.partitioning import partition_of
from marketdata.topics import (
    DEADLETTER_DISTRIBUTOR,
    DEADLETTER_SEQUENCER,
    INGEST_EVENTS,
    SEQUENCED_EVENTS,
    partition_topic,
)
from scripts.access import authenticate
from tests.integration.local_runtime import eventually

pytestmark = pytest.mark.integration

PARTITION = 0
# The sequencer has a partition of its letters for itself once it has refused a frame there.
BY_HAND = 3
INGEST = partition_topic(INGEST_EVENTS, PARTITION)


@pytest.fixture
def http(stack: Any) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f"{stack.control_plane_url}/v1", timeout=60, auth=authenticate
    ) as client:
        yield client


@pytest.fixture
def client(stack: Any) -> Iterator[pulsar.Client]:
    client = pulsar.Client(stack.service_url)
    yield client
    client.close()


def send(client: pulsar.Client, topic: str, data: bytes, **properties: str) -> str:
    # A function that has written a letter there has the topic for itself.
    mode = pulsar.ProducerAccessMode
    access = mode.ExclusiveWithFencing if "/deadletter/" in topic else mode.Shared
    producer = client.create_producer(topic, batching_enabled=False, access_mode=access)
    place = producer.send(data, properties=properties)
    producer.close()
    return f"{place.ledger_id()}:{place.entry_id()}"


def letters(http: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    """All letters of a list, read in pages of three."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = http.get("/dead-letters", params={"limit": 3, **query, **cursor})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def await_letters(http: httpx.Client, count: int, note: str, **query: Any) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 180
    while True:
        found = [
            each
            for each in letters(http, **query)
            if each["original_properties"].get("note") == note
        ]
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, f"{len(found)} of {count} letters came"
        time.sleep(0.2)


def frames_on_ingest(client: pulsar.Client, key: str, topic: str = INGEST) -> list[pulsar.Message]:
    reader = client.create_reader(topic, pulsar.MessageId.earliest)
    found = []
    while reader.has_message_available():
        message = reader.read_next(10_000)
        if message.properties().get("dead_letter") == key:
            found.append(message)
    reader.close()
    return found


def ended_operation(http: httpx.Client, key: str) -> dict[str, Any] | None:
    found: dict[str, Any] = http.get(f"/operations/{key}").json()
    return found if found["ended_at"] else None


def test_a_refused_frame_is_browsed_and_sent_again_once(
    http: httpx.Client, client: pulsar.Client
) -> None:
    since = datetime.now(UTC).isoformat()
    note = uuid.uuid4().hex
    payloads = [f"no frame {n} {note}".encode() for n in range(5)]
    places = [send(client, INGEST, data, note=note) for data in payloads]

    query = {"function": "sequencer", "partition": PARTITION, "since": since}
    found = await_letters(http, 5, note, code="not_arrow", **query)
    assert [each["source_position"] for each in found] == [f"{place}:0" for place in places]
    assert letters(http, code="empty", **query) == []
    one = found[1]
    assert one["state"] == "kept"
    assert one["source_topic"] == INGEST
    assert one["size_bytes"] == len(payloads[1])

    described = http.get(f"/dead-letters/{one['id']}").json()
    assert described == {**one, "payload_sha256": hashlib.sha256(payloads[1]).hexdigest()}
    payload = http.get(f"/dead-letters/{one['id']}/payload")
    assert payload.headers["content-type"] == "application/octet-stream"
    assert payload.content == payloads[1]
    # The newest letter is found, and one behind it is not.
    newest = found[-1]["id"]
    assert http.get(f"/dead-letters/{newest}/payload").content == payloads[-1]
    function, partition, ledger, _ = newest.split(":")
    for absent in (f"{ledger}:999999999", f"{int(ledger) + 10**9}:0"):
        answer = http.get(f"/dead-letters/{function}:{partition}:{absent}")
        assert answer.status_code == 404
    assert http.get(f"/dead-letters/{function}:99:{ledger}:0").status_code == 404

    first, second = (http.post(f"/dead-letters/{one['id']}/resend") for _ in range(2))
    assert (first.status_code, first.json()["repeated"]) == (200, False)
    assert second.json() == {**first.json(), "repeated": True}
    # Nothing was made acceptable, so it comes back as a letter of its own, and only once.
    again = await_letters(http, 6, note, **query)
    last = again[-1]
    assert last["source_position"] == f"{first.json()['resend']['position']}:0"
    assert last["original_properties"] == {"note": note, "dead_letter": one["id"]}
    assert [m.data() for m in frames_on_ingest(client, one["id"])] == [payloads[1]]
    states = {each["id"]: each["state"] for each in again}
    assert [key for key, state in states.items() if state == "resent"] == [one["id"]]
    described = http.get(f"/dead-letters/{one['id']}").json()
    assert described["resend"] == first.json()["resend"]

    # All that there are by now: each once, and what comes back of them is not among them.
    some = {"code": "not_arrow", "partition": PARTITION, "since": since}
    asked = http.post("/dead-letters:resend", json=some)
    assert asked.status_code == 202
    ended = eventually(lambda: ended_operation(http, asked.json()["id"]), within_s=120)
    assert ended["state"] == "done"
    assert ended["result"] == {"sent": 5, "sent_before": 1, "refused": 0, "gone": 0}
    came_back = await_letters(http, 11, note, **query)[6:]
    by_letter = {each["original_properties"]["dead_letter"] for each in came_back}
    assert by_letter == {each["id"] for each in again} - {one["id"]}
    assert all(len(frames_on_ingest(client, each["id"])) == 1 for each in again)


def test_a_frame_that_is_acceptable_by_now_is_sequenced_once(
    http: httpx.Client, client: pulsar.Client
) -> None:
    fresh = (uuid.uuid4().hex[:12].upper() for _ in repeat(None))
    name, last = islice((name for name in fresh if partition_of(name, 4) == BY_HAND), 2)
    ingest = partition_topic(INGEST_EVENTS, BY_HAND)
    data = bytes(encode_frame(trades([name])))
    note = uuid.uuid4().hex
    # As the sequencer of an earlier release would have put it aside.
    place = send(
        client,
        partition_topic(DEADLETTER_SEQUENCER, BY_HAND),
        data,
        function="sequencer",
        source_topic=ingest,
        source_position="1:1:0",
        reason_code="unsupported_version",
        reason="put here by a test",
        original_note=note,
    )
    key = f"sequencer:{BY_HAND}:{place}"
    log = client.create_reader(partition_topic(SEQUENCED_EVENTS, BY_HAND), pulsar.MessageId.latest)
    for _ in range(3):
        http.post(f"/dead-letters/{key}/resend").raise_for_status()
    send(client, ingest, bytes(encode_frame(trades([last]))))
    came: list[tuple[str, int]] = []
    while (last, 1) not in came:
        message = log.read_next(30_000)
        if message.properties().get("count") != "0":
            rows = read_frame(message.data()).to_pylist()
            came += [(row["instrument"], row["sequence"]) for row in rows]
    assert [each for each in came if each[0] == name] == [(name, 1)]
    assert http.get(f"/dead-letters/{key}").json()["state"] == "resent"
    assert len(frames_on_ingest(client, key, ingest)) == 1


def test_a_lost_answer_does_not_send_twice(http: httpx.Client, client: pulsar.Client) -> None:
    note = uuid.uuid4().hex
    send(client, INGEST, b"no frame", note=note)
    (one,) = await_letters(http, 1, note, function="sequencer", partition=PARTITION)
    # What a control plane leaves behind that dies between sending and its commit.
    producer = client.create_producer(
        INGEST, producer_name=f"dead-letter-{one['id']}", batching_enabled=False
    )
    producer.send(b"no frame", properties={"dead_letter": one["id"]}, sequence_id=1)
    producer.close()
    answer = http.post(f"/dead-letters/{one['id']}/resend").json()
    assert (answer["repeated"], answer["resend"]["position"]) == (False, None)
    assert len(frames_on_ingest(client, one["id"])) == 1


def test_letters_of_the_distributor_and_cut_ones_stay(
    http: httpx.Client, client: pulsar.Client
) -> None:
    topic = partition_topic(DEADLETTER_DISTRIBUTOR, BY_HAND)
    routed = send(client, topic, b"x", source_topic=INGEST)
    cut = send(
        client,
        partition_topic(DEADLETTER_SEQUENCER, BY_HAND),
        b"x",
        source_topic=INGEST,
        truncated_from_bytes="9000000",
    )
    for key in (f"distributor:{BY_HAND}:{routed}", f"sequencer:{BY_HAND}:{cut}"):
        assert http.get(f"/dead-letters/{key}").json()["size_bytes"] == 1
        answer = http.post(f"/dead-letters/{key}/resend")
        assert answer.status_code == 409
        assert http.get(f"/dead-letters/{key}").json()["state"] == "kept"
