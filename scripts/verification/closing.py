"""Closing Pulsar's clients without waiting for ever.

The client library can lock itself up when it closes a consumer of several partitions just as it
learns of new ones or loses its connection (apache/pulsar-client-cpp, issues 186 and 211 were of
that kind); no time-out of its own ends that, and no signal. A verdict must not wait for it.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Any, Final

import pulsar

CLOSE_S: Final = 60.0
"""Twice as long as a client waits for a broker's answer."""


def close(what: Any, *, timeout_s: float = CLOSE_S) -> bool:
    """Call its `close`; False, and a line on standard error, when that has not come back in time.

    Args:
        what: a client of Pulsar, or one of its consumers, readers or producers. What the client
            says of it, as that it is closed already or not connected, is no failure.

    Raises:
        Exception: any other one.
    """
    end: Callable[[], Any] = what.close
    failed: list[Exception] = []

    def work() -> None:
        try:
            with suppress(pulsar.PulsarException):
                end()
        except Exception as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = Thread(target=work, name="close", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        print(
            f"{type(what).__name__}.close() has not come back after {timeout_s:.0f} s;"
            " it is left to itself",
            file=sys.stderr,
        )
    if failed:
        raise failed[0]
    return not thread.is_alive()
