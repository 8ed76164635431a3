"""The one error tree of the service: each class says what its catcher does next.

    DistributionError
    ├── InvalidFrame            a frame breaks the contract: dead-letter it, fix the publisher
    ├── InvalidEvents           a batch handed to a client breaks the contract: fix the caller
    ├── FilterError             a filter is refused: fix the request (marketdata.filters)
    ├── TransformationError     a transformation is refused: fix the request
    ├── UnknownCustom           a custom transformation is refused: fix the request or install it
    ├── CustomFailed            a custom transformation failed: dead-letter the frame
    ├── PositionOverflow        a log position does not fit a sequence id: see its text
    ├── PublishError            publishing failed for good: see its text
    ├── BadFrame                a message is no frame: skip it or stop (marketdata.delivered_frames)
    ├── ContinuityBroken        a strict consumer stops: acknowledge or seek, then go on
    ├── NotInHistory            a gap cannot be filled: told as `GapNotFilled`
    ├── HistoryTimeout          a gap could not be filled in time: told as `GapNotFilled`
    ├── OutOfBounds             a request would read too much (control_plane.domains.explain)
    └── AdminError              the admin API refused or is away (control_plane.pulsar_admin)

Subclasses of the last ones live beside the code that raises them.
"""


class DistributionError(Exception):
    """Base of every error this project raises on purpose."""


class InvalidFrame(DistributionError):
    """A frame that breaks the contract.

    Attributes:
        code: stable machine-readable reason, one of `marketdata.frames.REASONS`.
        reason: one sentence for a person: what was found and what is expected.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class InvalidEvents(DistributionError):
    """Events handed to a client of this package break the contract; nothing was sent."""


class PositionOverflow(DistributionError):
    """A message position is beyond what a 63-bit sequence id can carry."""


class PublishError(DistributionError):
    """Publishing cannot go on; the text says why and what to do."""


def printable(text: str) -> str:
    """A text that can be sent: what UTF-8 cannot say (lone surrogates) is a question mark."""
    return text.encode("utf-8", "replace").decode()


def described(error: BaseException) -> str:
    """An error's type and text, printable, also where the error cannot tell its text."""
    try:
        return printable(f"{type(error).__name__}: {error}")
    except BaseException:  # noqa: BLE001 - the error of a package may do anything
        return printable(type(error).__name__)
