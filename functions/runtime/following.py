"""Reading a compacted topic for ever, from its beginning again where the connection was lost."""

import contextlib
import time
from collections.abc import Callable
from logging import Logger

import pulsar

POLL_TIMEOUT_MS = 1_000
RETRY_S = 1.0


def follow(
    client: pulsar.Client, topic: str, log: Logger, read: Callable[[pulsar.Reader], None]
) -> None:
    """Hand a reader over that begins with the newest message of each key; again when that fails.

    Returns when the client is closed for good, with the instance.
    """
    while True:
        try:
            try:
                reader = client.create_reader(
                    topic, pulsar.MessageId.earliest, is_read_compacted=True
                )
            except pulsar.AlreadyClosed:
                return
            try:
                read(reader)
            finally:
                with contextlib.suppress(pulsar.PulsarException):
                    reader.close()
        except Exception as error:  # noqa: BLE001 - without this thread what it follows would stand still
            log.warning("cannot read %s (%s); trying again", topic, error)
            time.sleep(RETRY_S)
