"""What the log announces of instruments that move to another partition in a new epoch."""

import pyarrow as pa
import pytest

from marketdata.schemas import SEQUENCED_SCHEMAS
from scripts.verification.announcements import check_announcements
from scripts.verification.recording import History
from scripts.verification.report import StreamReport, Violation
from tests.unit.scripts.verification.world import FOLLOWING, batch_of, trade

TOLD = {"kind": "epoch", "count": "0", "epoch": "2", "reason": "8 partitions"}


def _events(history: History, partition: int, *events: tuple[str, int, int]) -> None:
    rows = [
        trade(name, sequence, price=1) | {"sequence": sequence, "epoch": epoch}
        for name, sequence, epoch in events
    ]
    history.sequenced(partition, batch_of(rows, SEQUENCED_SCHEMAS["trade"]))


def _control(history: History, partition: int, *following: tuple[str, int, int]) -> None:
    names = ("instrument", "sequence", "epoch")
    rows = [dict(zip(names, one, strict=True)) for one in following]
    batch = pa.RecordBatch.from_pylist(rows, schema=FOLLOWING)
    properties = {"kind": "heartbeat", "count": "0"} if following else TOLD
    history.log_control(partition, batch, properties)


def _found(*, told_in: int | None, next_of_moved: int = 3) -> dict[Violation, int]:
    """B moves from partition 0 to 4 in epoch 2, A stays in 0."""
    history = History()
    _events(history, 0, ("A", 1, 1), ("B", 1, 1), ("A", 2, 1), ("B", 2, 1), ("B", 3, 1))
    _control(history, 0, ("A", 3, 1), ("B", 4, 1))
    _control(history, 0)
    if told_in is not None:
        _control(history, told_in)
    _events(history, 4, ("B", 1, 2), ("B", 2, 2))
    _events(history, 0, ("A", 1, 2))
    _control(history, 4, ("B", next_of_moved, 2))
    _control(history, 0, ("A", 2, 2))
    report = StreamReport("sequenced")
    check_announcements(history, history.log_rows.columns(), report)
    return report.violations


def test_an_instrument_that_moves_into_an_epoch_told_there_is_in_order() -> None:
    assert _found(told_in=4) == {}


@pytest.mark.parametrize("told_in", [None, 5])
def test_an_epoch_must_be_told_in_the_partition_it_is_opened_in(told_in: int | None) -> None:
    assert _found(told_in=told_in) == {Violation.UNEXPLAINED_EPOCHS: 1}


@pytest.mark.parametrize("next_of_moved", [2, 4])
def test_a_heartbeat_of_the_new_partition_must_not_lie(next_of_moved: int) -> None:
    assert _found(told_in=4, next_of_moved=next_of_moved) == {Violation.HEARTBEAT_LIES: 1}


def test_a_log_without_events_announces_nothing_wrong() -> None:
    report = StreamReport("sequenced")
    history = History()
    _control(history, 0, ("A", 1, 1))
    check_announcements(history, history.log_rows.columns(), report)
    assert report.violations == {}
