"""What a publisher process tells, and what its next life is told to do."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from marketdata.partitioning import partition_of
from scripts.faults.publishers import PublisherProcess
from scripts.faults.publishing import CALLS_A_SECOND, Orders, calls_of, encoded
from scripts.faults.wire import ATTEMPT, CONFIRMED, FLUSHED, Record, read_records, write_record
from scripts.verification.expectations import ViewExpectation, everything
from scripts.verification.recording import History

PARTITIONS = 4
ORDERS = Orders(
    service_url="pulsar://nowhere",
    name="one",
    habit="resume",
    source="made-up",
    prefix="T-",
    instruments=20,
    rate=1_000,
    seed=3,
    started_ns=1_700_000_000_000_000_000,
)


def first_calls(orders: Orders, count: int) -> list[tuple[int, pa.RecordBatch]]:
    calls = calls_of(orders)
    return [next(calls) for _ in range(count)]


def test_orders_survive_their_way_to_the_process() -> None:
    orders = replace(ORDERS, first_call=7, sequence_ids={0: 4, 3: -1})

    assert Orders.from_json(orders.to_json()) == orders


def test_records_come_out_as_they_went_in_and_a_torn_one_not_at_all() -> None:
    records = [
        Record(ATTEMPT, 0, 1, b"abc"),
        Record(CONFIRMED, 3, 2**40, b""),
        Record(b"F", 0, -1, b"{}"),
    ]
    stream = io.BytesIO()
    for record in records:
        write_record(stream, record)
    whole = stream.getvalue()

    for cut in range(len(whole) + 1):
        read = list(read_records(io.BytesIO(whole[:cut])))
        assert read == records[: len(read)]
    assert read == records


def test_a_publisher_that_resumes_makes_the_same_calls_again() -> None:
    calls = first_calls(ORDERS, 12)
    again = first_calls(replace(ORDERS, first_call=5), 7)

    assert [number for number, _ in again] == list(range(5, 12))
    assert all(one.equals(two) for (_, one), (_, two) in zip(calls[5:], again, strict=True))
    due_ns = ORDERS.started_ns + 5 * 1_000_000_000 // CALLS_A_SECOND
    assert again[0][1].column("ts_publish").view(pa.int64()).to_pylist()[0] == due_ns


def test_a_publisher_that_repeats_stamps_anew_and_changes_nothing_else() -> None:
    orders = replace(ORDERS, habit="repeat")
    (_, one), (_, two) = first_calls(orders, 1)[0], first_calls(orders, 1)[0]

    assert not one.column("ts_publish").equals(two.column("ts_publish"))
    assert one.drop_columns(["ts_publish"]).equals(two.drop_columns(["ts_publish"]))


class Told(PublisherProcess):
    """The parent's end without a process: tests say what it was told."""

    def _start(self) -> None:
        """No process."""


@pytest.fixture
def history() -> History:
    return History([ViewExpectation("all", everything)])


def told(history: History, orders: Orders, tmp_path: Path) -> Any:
    return Told(history, orders, partitions=PARTITIONS, log=tmp_path / "log")


def of_partition(batch: pa.RecordBatch, partition: int) -> pa.RecordBatch:
    names = batch.column("instrument").to_pylist()
    return batch.filter(pa.array([partition_of(n, PARTITIONS) == partition for n in names]))


def test_what_is_confirmed_twice_under_one_sequence_id_is_accepted_once(
    history: History, tmp_path: Path
) -> None:
    publisher = told(history, ORDERS, tmp_path)
    (_, one), (_, two) = first_calls(ORDERS, 2)

    for number, batch in ((0, one), (1, two), (0, one), (1, two)):
        publisher._take(Record(CONFIRMED, 0, number, encoded(batch)))

    assert history.accepted_events == one.num_rows + two.num_rows


def test_a_publisher_that_resumes_goes_back_to_its_last_flush(
    history: History, tmp_path: Path
) -> None:
    publisher = told(history, ORDERS, tmp_path)
    publisher._take(Record(FLUSHED, 0, 9, b'{"0": 3, "1": -1}'))

    orders = publisher._next_life()

    assert orders.first_call == 10
    assert orders.sequence_ids == {0: 3, 1: -1}
    assert orders.name == ORDERS.name
    assert history.uncertain_events == 0


def test_what_a_publisher_was_not_told_is_uncertain_and_published_anew(
    history: History, tmp_path: Path
) -> None:
    orders = replace(ORDERS, habit="repeat")
    publisher = told(history, orders, tmp_path)
    calls = first_calls(orders, 3)
    for number, batch in calls:
        publisher._take(Record(ATTEMPT, 0, number, encoded(batch)))
    for partition in range(PARTITIONS):
        frame = of_partition(calls[0][1], partition)
        publisher._take(Record(CONFIRMED, partition, 0, encoded(frame)))
    half = of_partition(calls[1][1], 2)
    publisher._take(Record(CONFIRMED, 2, 1, encoded(half)))

    next_life = publisher._next_life()

    certain = calls[0][1].num_rows + half.num_rows
    assert next_life.first_call == 1
    assert next_life.name != orders.name
    assert history.accepted_events == sum(batch.num_rows for _, batch in calls)
    assert history.uncertain_events == history.accepted_events - certain
    rows = history.accepted_rows.columns()
    names = [history.name(code) for code in rows["instrument"]]
    assert rows["partition"].tolist() == [partition_of(name, PARTITIONS) for name in names]


def test_a_publisher_whose_calls_are_all_confirmed_goes_on_behind_them(
    history: History, tmp_path: Path
) -> None:
    orders = replace(ORDERS, habit="repeat")
    publisher = told(history, orders, tmp_path)
    for number, batch in first_calls(orders, 2):
        publisher._take(Record(ATTEMPT, 0, number, encoded(batch)))
        publisher._take(Record(CONFIRMED, 0, number, encoded(batch)))

    assert publisher._next_life().first_call == 2
    assert history.uncertain_events == 0


def test_a_steady_publisher_has_no_next_life(history: History, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no record"):
        told(history, replace(ORDERS, habit="steady"), tmp_path)._next_life()
