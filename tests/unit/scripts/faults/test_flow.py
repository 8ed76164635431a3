"""Recovery is seen where events arrive."""

import threading

import pyarrow as pa
import pytest

from scripts.faults import flow
from scripts.faults.flow import Flow, NotRecovered


def batch(*ts_publish: int) -> pa.RecordBatch:
    stamps = pa.array(ts_publish, pa.timestamp("ns", "UTC"))
    return pa.RecordBatch.from_pydict({"ts_publish": stamps})


def never() -> bool:
    return False


def test_events_flow_again_when_every_partition_shows_one_published_since() -> None:
    seen = Flow(2)
    seen.saw(0, batch(5, 11))
    seen.saw(1, batch(9))
    waiting = threading.Thread(target=seen.await_after, args=[10, never], daemon=True)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()

    seen.saw(1, batch(12))

    waiting.join(10)
    assert not waiting.is_alive()


def test_partitions_that_stand_still_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "RECOVERY_TIMEOUT_S", 0.0)
    seen = Flow(3)
    seen.saw(1, batch(20))

    with pytest.raises(NotRecovered, match=r"partitions \[0, 2\]"):
        seen.await_after(10, never)


def test_nobody_waits_for_a_run_that_is_over() -> None:
    Flow(1).await_after(10, lambda: True)


def test_silence_is_an_outage_unless_nothing_is_due() -> None:
    seen = Flow(1)
    seen.saw(0, batch(1))
    seen.rest()
    seen.saw(0, batch(2))
    assert seen.longest_outage_s == 0.0

    seen.saw(0, batch(3))
    assert seen.longest_outage_s > 0.0
