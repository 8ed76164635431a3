"""Whatever is sent to `ingest`: bad frames are put aside with their reason, the good ones go on."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import numpy as np
import pulsar
import pyarrow as pa
import pytest

from marketdata.frames import MAX_FRAME_BYTES, MAX_ROWS
from marketdata.partitioning import partition_of
from marketdata.schemas import INGEST_SCHEMAS
from marketdata.topics import DEADLETTER_SEQUENCER, INGEST_EVENTS, partition_topic
from scripts.verification.control_api import ControlApi
from scripts.verification.recorders import open_client
from tests.e2e.scenario import Scenario
from tests.stacks.interface import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.any_stack, pytest.mark.timeout(900)]

PARTITION = 0
PARTITIONS = 4
HERE = next(name for name in map("BAD{}".format, range(99)) if partition_of(name, PARTITIONS) == 0)
ELSEWHERE = next(name for name in map("BAD{}".format, range(99)) if partition_of(name, PARTITIONS))
SCHEMA = INGEST_SCHEMAS["trade"]


def trades(rows: int = 3, **columns: Any) -> pa.RecordBatch:
    """Good trades but for the columns given."""
    values = {
        "instrument": [HERE] * rows,
        "venue": ["XNAS"] * rows,
        "source": ["bad-input"] * rows,
        "source_sequence": range(rows),
        "ts_event": [1] * rows,
        "ts_publish": [1] * rows,
        "price": [10**9] * rows,
        "size": [10**8] * rows,
    } | columns
    arrays = []
    for field in SCHEMA:
        given = list(values.get(field.name, [None] * rows))
        if pa.types.is_dictionary(field.type):
            arrays.append(pa.array(given, pa.string()).dictionary_encode().cast(field.type))
        else:
            arrays.append(pa.array(given, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def encoded(*batches: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def told(**metadata: str) -> bytes:
    """A good frame whose schema says something else about itself."""
    said = {key.decode(): value.decode() for key, value in SCHEMA.metadata.items()}
    return encoded(trades().replace_schema_metadata(said | metadata))


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "text": (lambda: b"price=10;size=3", "not_arrow"),
    "no bytes": (lambda: b"", "not_arrow"),
    "random bytes": (lambda: np.random.default_rng(1).bytes(4096), "not_arrow"),
    "wrong schema": (lambda: encoded(trades().drop_columns(["price"])), "wrong_schema"),
    "wrong type": (
        lambda: encoded(
            trades().set_column(SCHEMA.get_field_index("size"), "size", pa.array([1.5, 2.5, 3.5]))
        ),
        "wrong_schema",
    ),
    "wrong version": (lambda: told(schema_version="99"), "unsupported_version"),
    "unknown kind": (lambda: told(kind="rumour"), "unknown_kind"),
    "null key": (lambda: encoded(trades(venue=["XNAS", None, "XNAS"])), "null_key"),
    "null instrument": (lambda: encoded(trades(instrument=[HERE, None, HERE])), "null_key"),
    "NaN": (lambda: encoded(trades(quality=[0.5, float("nan"), 1.0])), "out_of_range"),
    "negative size": (lambda: encoded(trades(size=[1, -1, 1])), "out_of_range"),
    "time before 1970": (lambda: encoded(trades(ts_event=[1, -1, 1])), "out_of_range"),
    "wrong partition": (
        lambda: encoded(trades(instrument=[HERE, ELSEWHERE, HERE])),
        "wrong_partition",
    ),
    "no rows": (lambda: encoded(trades(0)), "empty"),
    "too many rows": (lambda: encoded(trades(MAX_ROWS + 1)), "too_many_rows"),
    "two batches": (lambda: encoded(trades(), trades()), "batch_count"),
    "truncated": (lambda: encoded(trades())[:-40], "truncated"),
    "over-long": (lambda: encoded(trades()) + b"more", "trailing_bytes"),
    "too large": (lambda: encoded(trades()) + bytes(MAX_FRAME_BYTES), "too_large"),
    "empty symbol": (lambda: encoded(trades(venue=["XNAS", "", "XNAS"])), "bad_symbol"),
}


def test_every_kind_of_bad_frame_is_put_aside_and_everything_else_goes_on(
    stack: RunningStack,
) -> None:
    with Scenario(stack) as scenario:
        load = scenario.load(rate=2_000, seconds=6)
        sent = send_bad_frames(stack)
        letters = read_dead_letters(stack, set(sent))
        load.wait(60)
        report = scenario.drain()

        assert report.ok, report.text()
        assert report.accepted == load.events

    assert set(letters) == set(sent)
    for place, (name, data, code) in sent.items():
        letter = letters[place]
        properties = letter.properties()
        assert properties["reason_code"] == code, (name, properties)
        assert len(properties["reason"]) > 10, (name, properties)
        assert properties["source_topic"] == partition_topic(INGEST_EVENTS, PARTITION)
        assert properties["function"] == "sequencer"
        assert properties["original_note"] == name
        assert letter.data() == data, name


def send_bad_frames(stack: RunningStack) -> dict[str, tuple[str, bytes, str]]:
    """Position -> name, bytes and expected code of every bad frame."""
    client = open_client(stack.service_url)
    try:
        producer = client.create_producer(
            partition_topic(INGEST_EVENTS, PARTITION), batching_enabled=False
        )
        sent = {}
        for name, (make, code) in BAD.items():
            data = make()
            place = producer.send(data, properties={"note": name})
            sent[f"{place.ledger_id()}:{place.entry_id()}:0"] = (name, data, code)
        return sent
    finally:
        client.close()


def read_dead_letters(stack: RunningStack, places: set[str]) -> dict[str, pulsar.Message]:
    """Source position -> dead letter, of the frames sent at these places."""
    client = open_client(stack.service_url)
    try:
        reader = client.create_reader(
            partition_topic(DEADLETTER_SEQUENCER, PARTITION), pulsar.MessageId.earliest
        )
        found: dict[str, pulsar.Message] = {}
        while set(found) < places:
            message = reader.read_next(60_000)
            place = message.properties()["source_position"]
            if place in places:
                assert place not in found, "a dead letter was doubled"
                found[place] = message
        return found
    finally:
        client.close()


@pytest.mark.parametrize(
    ("filter_", "position"),
    [
        ("price >", 6),
        ("price > 100 AND colour = 'red'", 16),
        ("volume > 3 AND price > 'high'", 15),
        ("instrument", 0),
    ],
)
def test_a_filter_that_cannot_run_is_refused_with_the_place_of_its_error(
    stack: RunningStack, filter_: str, position: int
) -> None:
    with ControlApi(stack.control_plane_url) as api:
        consumer = api.register(f"refused-{uuid4().hex[:8]}")
        answer = api.http.post(
            "/v1/subscriptions", json={"consumer": consumer, "name": "one", "filter": filter_}
        )
        api.take_away()

    assert answer.status_code == 422
    problem = answer.json()["errors"][0]
    assert problem["pointer"] == "/filter"
    assert problem["position"] == position
    assert problem["detail"]
