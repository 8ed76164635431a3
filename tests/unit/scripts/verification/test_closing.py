"""What does not close is left to itself, and told."""

from threading import Event
from types import SimpleNamespace

import pulsar
import pytest

from scripts.verification.closing import close


def test_what_closes_is_closed(capsys: pytest.CaptureFixture[str]) -> None:
    closed = Event()
    assert close(SimpleNamespace(close=closed.set))
    assert closed.is_set()
    assert not capsys.readouterr().err


def test_what_is_closed_already_is_no_failure() -> None:
    def fail() -> None:
        raise pulsar.AlreadyClosed

    assert close(SimpleNamespace(close=fail))


def test_what_never_comes_back_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    free = Event()
    assert not close(SimpleNamespace(close=free.wait), timeout_s=0.01)
    assert "SimpleNamespace.close() has not come back" in capsys.readouterr().err
    free.set()
