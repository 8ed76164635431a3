"""An instance does not stand still, and does not end, because of what an error is or says."""

import logging
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import msgspec
import pulsar
import pytest

from functions.runtime.deadletters import dead_letter
from functions.runtime.function import FrameFunction, PartitionStage
from functions.runtime.inputs import Input
from functions.runtime.status import StatusReporter

LONE = "bad venue \udcff"
"""What `surrogateescape` makes of a byte that is no UTF-8."""


class Context:
    """The runtime's, with a broker that remembers what it is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def get_function_name(self) -> str:
        return "dying"

    def get_instance_id(self) -> int:
        return 0

    def record_metric(self, *_: Any) -> None:
        pass

    def get_user_config_map(self) -> Any:
        raise KeyboardInterrupt

    def get_pulsar_client(self) -> Any:
        send = SimpleNamespace(send_async=lambda data, *_, **__: self.sent.append(data))
        return SimpleNamespace(create_producer=lambda *_, **__: send)


def test_a_report_tells_an_error_that_utf_8_cannot_say() -> None:
    context = Context()
    reporter = StatusReporter(context, function="f", version="v", topic="t")
    reporter.error(LONE)
    reporter.report()
    assert msgspec.json.decode(context.sent[0])["last_error"] == "bad venue ?"


def test_a_dead_letter_has_only_properties_that_can_be_sent() -> None:
    item = Input(pulsar.MessageId(0, 1, 1), b"x", {"desk": LONE})
    _, properties = dead_letter(item, function="f", source_topic="t", code="c", reason=LONE)
    assert properties["reason"] == properties["original_desk"] == "bad venue ?"
    for name, value in properties.items():
        assert f"{name}{value}".encode()


class Plain(FrameFunction):
    name = "plain"

    def setup(self) -> None: ...

    def before_turn(self) -> None: ...

    def stage(self, partition: int) -> PartitionStage:
        raise NotImplementedError

    def after_turn(self, received: Collection[int]) -> None: ...


def test_whatever_reaches_the_worker_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that just ended would leave an instance that takes inputs and does nothing."""
    ended: list[BaseException] = []
    monkeypatch.setattr(Plain, "_end", lambda _, error: ended.append(error))
    function = Plain()
    function.context = Context()
    function.log = logging.getLogger("test")
    function._run()
    assert [type(error) for error in ended] == [KeyboardInterrupt]
