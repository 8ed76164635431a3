"""What is a frame's own fault in the distributor, and what is not."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pulsar
import pytest
from events import trades

from functions.distributor import DistributorStage
from functions.operators.route import Router
from functions.operators.sequence import InstrumentSequences, with_sequences
from functions.runtime.inputs import Input
from functions.runtime.settings import FunctionSettings, Topics
from marketdata.frames import encode_frame
from marketdata.plans import ViewSpec, compile_plan


def frame() -> bytes:
    batch = trades(["A"])
    numbers = InstrumentSequences().assign(batch)
    return encode_frame(
        with_sequences(batch, "trade", numbers, epoch=1, ts_sequenced_ns=1)
    ).to_pybytes()


def test_an_instance_that_is_being_ended_blames_no_frame() -> None:
    """Python refuses new work to its thread pools while it ends; the worker may go on a moment."""
    openers = ThreadPoolExecutor(1)
    openers.shutdown()
    sent: list[Any] = []
    function: Any = SimpleNamespace(
        settings=FunctionSettings(Topics(deadletter="persistent://t/n/dead"), partitions=1),
        reporter=SimpleNamespace(counters=Counter()),
        router=Router(compile_plan(1, [ViewSpec()], created_at_ns=1)),
        openers=openers,
        client=None,
        send=lambda *given, **_: sent.append(given),
    )
    stage = DistributorStage(function, 0)
    item = Input(pulsar.MessageId(0, 1, 1), frame(), {"kind": "trade"})

    with pytest.raises(RuntimeError, match="shutdown"):
        stage.apply([item])

    assert sent == []
    assert function.reporter.counters["render_failures"] == 0
