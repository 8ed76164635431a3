"""Source order on a real broker: policies, findings, requests, and restarts while rows wait."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pulsar
import pytest
from events import trades
from local_runtime import Cluster, LocalInstance, eventually

from functions.sequencer import SequencerFunction
from marketdata.control_frames import TICK, is_control
from marketdata.frames import encode_frame, read_frame
from marketdata.ordering import OrderingEvent, decode_ordering_events, decode_resend_request
from marketdata.partitioning import partition_of
from marketdata.publisher import Publisher
from marketdata.schemas import GAP_BEFORE, OUT_OF_ORDER, REPEATED

pytestmark = pytest.mark.integration

A, B = [name for name in (f"I{n}" for n in range(40)) if partition_of(name, 2) == 0][:2]


@pytest.fixture
def cluster(stack: Any) -> Iterator[Cluster]:
    cluster = Cluster(stack.service_url, stack.admin_url)
    yield cluster
    cluster.client.close()


def _frame(*numbers: int, name: str = A, source: str = "feed") -> bytes:
    rows = len(numbers)
    times = [1_700_000_000_000_000_000 + n for n in numbers]
    batch = trades(
        [name] * rows, source_sequence=list(numbers), source=[source] * rows, ts_event=times
    )
    return encode_frame(batch).to_pybytes()


def _send(cluster: Cluster, *frames: bytes, **properties: str) -> None:
    cluster.send(cluster.topics["ingest"], 0, *frames, properties=properties)


def _tick(cluster: Cluster) -> None:
    _send(cluster, b"", kind=TICK)


def _sequencer(cluster: Cluster, policy: str, **more: int) -> LocalInstance:
    sources = {"default": {"policy": policy, **more}}
    return LocalInstance(cluster, SequencerFunction, "ingest", sources=sources)


def _numbers(cluster: Cluster, name: str = A) -> list[int]:
    """Source sequences of an instrument in the log; its sequences must be contiguous."""
    events = [
        event
        for message in cluster.read_partition("sequenced", 0)
        if not is_control(message.properties())
        for event in read_frame(message.data()).to_pylist()
        if event["instrument"] == name
    ]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    return [event["source_sequence"] for event in events]


def _marks(cluster: Cluster) -> list[int]:
    return [
        event["quality_flags"]
        for message in cluster.read_partition("sequenced", 0)
        for event in read_frame(message.data()).to_pylist()
    ]


def _findings(cluster: Cluster, count: int) -> list[OrderingEvent]:
    def found() -> list[OrderingEvent]:
        return [
            event
            for message in cluster.read_partition("ordering", 0)
            for event in decode_ordering_events(message.data())
        ]

    eventually(lambda: len(found()) >= count)
    return found()


def _short(findings: list[OrderingEvent]) -> list[tuple[str, int, int, str]]:
    return [(f.type, f.first, f.last, f.action) for f in findings]


def test_pass_marks_what_it_finds_and_goes_on(cluster: Cluster) -> None:
    instance = _sequencer(cluster, "pass")
    _send(cluster, _frame(1, 2), _frame(5), _frame(4), _frame(5))
    eventually(lambda: _numbers(cluster) == [1, 2, 5, 4, 5])
    assert _marks(cluster) == [0, 0, GAP_BEFORE, OUT_OF_ORDER, REPEATED]
    findings = _findings(cluster, 4)
    assert _short(findings) == [
        ("gap_opened", 3, 4, "passed"),
        ("reversal", 4, 4, "passed"),
        ("gap_closed", 4, 4, "passed"),
        ("repeat", 5, 5, "passed"),
    ]
    opened, _, closed, _ = findings
    assert (closed.gap_id, closed.closed_by, closed.remaining) == (opened.id, "late_arrival", 1)
    assert (opened.instrument, opened.source, opened.sequence) == (A, "feed", 3)
    eventually(lambda: instance.context.metrics.get("ordering_gap_opened") == 1)
    instance.close()


def test_a_gap_is_asked_for_and_the_fill_closes_it(cluster: Cluster) -> None:
    instance = _sequencer(cluster, "drop_repeats")
    _send(cluster, _frame(1), _frame(4))
    eventually(lambda: cluster.read(cluster.topics["resend"]))
    (request,) = [decode_resend_request(m.data()) for m in cluster.read(cluster.topics["resend"])]
    assert (request.source, request.instrument, request.first, request.last) == ("feed", A, 2, 3)
    with Publisher(
        cluster.service_url, name="upstream", topic=cluster.topics["ingest"]
    ) as publisher:
        publisher.publish(read_frame(_frame(*range(request.first, request.last + 1))), fill=True)
    closed = _findings(cluster, 3)[-1]
    assert (closed.type, closed.gap_id, closed.closed_by, closed.remaining) == (
        "gap_closed",
        request.gap_id,
        "fill",
        0,
    )
    assert _numbers(cluster) == [1, 4, 2, 3]
    instance.close()


def test_a_repeated_frame_is_dropped_and_reported_once(cluster: Cluster) -> None:
    instance = _sequencer(cluster, "drop_repeats")
    _send(cluster, _frame(1, 2, 3))
    _send(cluster, _frame(1, 2, 3))  # a producer of another name: the broker cannot know
    assert _short(_findings(cluster, 1)) == [("repeat", 1, 3, "dropped")]
    _send(cluster, _frame(3, 4))
    eventually(lambda: _numbers(cluster) == [1, 2, 3, 4])
    assert _short(_findings(cluster, 2))[1:] == [("repeat", 3, 3, "dropped")]
    _is_acknowledged(cluster, instance)


def test_reject_keeps_the_frame_as_a_dead_letter(cluster: Cluster) -> None:
    instance = _sequencer(cluster, "reject")
    late = _frame(2, 6)
    _send(cluster, _frame(1, 2, 3), b"nonsense", late, _frame(4, 5))
    eventually(lambda: _numbers(cluster) == [1, 2, 3, 4, 5])
    letters = eventually(
        lambda: (m := cluster.read_partition("deadletter", 0)) and len(m) == 2 and m
    )
    assert [m.properties()["reason_code"] for m in letters] == ["not_arrow", "out_of_order"]
    assert letters[1].data() == late
    assert _short(_findings(cluster, 1)) == [("repeat", 2, 2, "rejected")]
    _is_acknowledged(cluster, instance)


def test_hold_releases_in_order_when_what_was_missing_comes(cluster: Cluster) -> None:
    instance = _sequencer(cluster, "hold", hold_ms=60_000)
    _send(cluster, _frame(1), _frame(4, 3), _frame(7, name=B), _frame(3), _frame(2))
    eventually(lambda: _numbers(cluster) == [1, 2, 3, 4])
    assert _numbers(cluster, B) == [7]
    assert _short(_findings(cluster, 1)) == [("repeat", 3, 3, "dropped")]
    _is_acknowledged(cluster, instance)


def test_hold_gives_up_in_time_and_reports_what_is_missing(cluster: Cluster) -> None:
    instance = _sequencer(cluster, "hold", hold_ms=100)
    _send(cluster, _frame(1), _frame(4), _frame(6))
    assert _numbers_after_ticks(cluster, [1, 4, 6])
    assert [found[:3] for found in _short(_findings(cluster, 2))] == [
        ("gap_opened", 2, 3),
        ("gap_opened", 5, 5),
    ]
    _send(cluster, _frame(2))
    eventually(lambda: _numbers(cluster) == [1, 4, 6, 2])
    _is_acknowledged(cluster, instance)


@pytest.mark.parametrize("snapshot_interval_s", [0.0, 3600.0])
def test_rows_that_wait_survive_restarts(cluster: Cluster, snapshot_interval_s: float) -> None:
    sources = {"default": {"policy": "hold", "hold_ms": 60_000}}
    config = {"sources": sources, "snapshot_interval_s": snapshot_interval_s}
    first = LocalInstance(cluster, SequencerFunction, "ingest", **config)
    _send(
        cluster, _frame(1), _frame(3), _frame(1, name=B), _frame(5, 2), _frame(6), _frame(2, name=B)
    )
    eventually(lambda: _numbers(cluster) == [1, 2, 3] and _numbers(cluster, B) == [1, 2])
    first.close()
    second = LocalInstance(cluster, SequencerFunction, "ingest", **config)
    _send(cluster, _frame(8), _frame(3, name=B))
    eventually(lambda: _numbers(cluster, B) == [1, 2, 3])
    assert _numbers(cluster) == [1, 2, 3]
    second.close()
    third = LocalInstance(cluster, SequencerFunction, "ingest", **config)
    _send(cluster, _frame(4))
    eventually(lambda: _numbers(cluster) == [1, 2, 3, 4, 5, 6])
    _send(cluster, _frame(7))
    eventually(lambda: _numbers(cluster) == [1, 2, 3, 4, 5, 6, 7, 8])
    _is_acknowledged(cluster, third)
    assert not cluster.read_partition("ordering", 0)


def _numbers_after_ticks(cluster: Cluster, expected: list[int]) -> bool:
    def come() -> bool:
        _tick(cluster)
        return _numbers(cluster) == expected

    return bool(eventually(come))


def _is_acknowledged(cluster: Cluster, instance: LocalInstance) -> None:
    """Closes the instance once it has acknowledged all, and sees that nothing comes again.

    Nothing but ticks: an instance may have sent one just before it was closed.
    """
    # The last outputs are seen a moment before they are confirmed to the instance.
    eventually(lambda: not any(len(p.inputs) for p in instance.function._partitions.values()))
    instance.close()
    consumer = cluster.client.subscribe(
        cluster.topics["ingest"], "sequencer", consumer_type=pulsar.ConsumerType.Failover
    )
    with suppress(pulsar.Timeout):
        while True:
            again = consumer.receive(1_500)
            assert again.properties().get("kind") == TICK, again.properties()
    consumer.close()
