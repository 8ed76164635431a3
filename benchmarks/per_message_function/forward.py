"""One event per message, as Pulsar's documentation writes functions: a value in, a value out."""

from typing import Any

from pulsar import Function


class ForwardFunction(Function):
    """Hands every event on, unchanged, to its output topic."""

    def process(self, item: str, context: Any) -> str:  # noqa: ARG002 - the runtime's signature
        """One event in, the same event out."""
        return item
