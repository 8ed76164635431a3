"""The control plane's error tree; every error says what the caller does next.

ControlPlaneError
├── UnauthenticatedError     come with a token that is valid
├── ForbiddenError           ask somebody whose role may do it
├── NotFoundError            ask for something that exists
├── ConflictError            the request contradicts what is stored: change one or the other
│   ├── KeyInUseError        the request with this key has no answer yet: repeat, or look
│   └── TooManySubscriptionsError  close some, or have the limit raised
├── PreconditionFailedError  read again, then repeat the change (If-Match did not hold)
├── InvalidRequestError      fix the request; `.problems` says where
│   └── KeyReusedError       the key is another request's: choose another one
├── RateLimitedError         repeat after the time given
├── TooManyStreamsError      end another stream, or come later
├── TooManyPreviewsError     come later, or wait for your other one
└── UnavailableError         repeat later, nothing is wrong with the request
    ├── DatabaseUnavailableError
    └── BrokerUnavailableError
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing wrong with a request: where (JSON pointer) and what; filters add the position."""

    pointer: str
    detail: str
    position: int | None = None
    line: int | None = None
    column: int | None = None
    hint: str | None = None


class ControlPlaneError(Exception):
    """Base of everything the control plane reports on purpose."""


class UnauthenticatedError(ControlPlaneError):
    """Nobody who is known here sent the request; what is wrong is not told."""

    def __init__(self, *, token_given: bool) -> None:
        super().__init__("This needs a valid bearer token.")
        self.token_given = token_given


class ForbiddenError(ControlPlaneError):
    """The caller is known and may not do this."""

    def __init__(self, detail: str = "Your role may not do this.") -> None:
        super().__init__(detail)


class NotFoundError(ControlPlaneError):
    """What was asked for does not exist."""

    def __init__(self, kind: str, key: str | int, *, hint: str = "") -> None:
        super().__init__(f"There is no {kind} {key!r}" + (f": {hint}." if hint else "."))


class ConflictError(ControlPlaneError):
    """The request contradicts what is stored."""


class KeyInUseError(ConflictError):
    """A request with the same Idempotency-Key was carried out, or is, and has no answer yet."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"The first request with this key ({request_id}) has no answer yet. Repeat it; when it"
            " has none after a minute, its answer was lost: look at what it changed."
        )


class TooManySubscriptionsError(ConflictError):
    """A consumer would have more subscriptions than it may."""

    def __init__(self, consumer: str, *, there: int, asked: int, limit: int) -> None:
        super().__init__(
            f"The consumer {consumer!r} has {there} subscriptions and asks for {asked} more; it may"
            f" have {limit}. Close some, or ask the platform team for a higher limit."
        )


class PreconditionFailedError(ControlPlaneError):
    """If-Match named a version that is no longer the current one."""

    def __init__(self, current_etag: str) -> None:
        super().__init__(
            f"The resource has changed since it was read (it is now {current_etag}). "
            "Read it again and repeat the change."
        )


class InvalidRequestError(ControlPlaneError):
    """The request cannot be carried out as written."""

    def __init__(self, detail: str, problems: list[FieldProblem]) -> None:
        super().__init__(detail)
        self.problems = problems


class TooManyStreamsError(ControlPlaneError):
    """As many streams as may be are open already."""


class TooManyPreviewsError(ControlPlaneError):
    """As many previews as may be are under way already."""


@contextmanager
def at_pointer(pointer: str) -> Iterator[None]:
    """Say of what is wrong with a part of a request where that part is."""
    try:
        yield
    except InvalidRequestError as error:
        if not pointer:
            raise
        problems = [replace(each, pointer=f"{pointer}{each.pointer}") for each in error.problems]
        raise InvalidRequestError(str(error), problems) from error


class KeyReusedError(InvalidRequestError):
    """The Idempotency-Key was used for another request."""

    def __init__(self, header: str) -> None:
        super().__init__(
            "The key was used for another request.",
            [FieldProblem(f"header:{header}", "a new request needs a new key")],
        )


class RateLimitedError(ControlPlaneError):
    """The caller sends more requests than it may."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("You send more requests than a caller may; slow down.")
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(ControlPlaneError):
    """A dependency is missing at the moment; the same request will work later.

    Callers are told its text, and not that of what caused it, which may name hosts and paths.
    """

    dependency = "a dependency"

    @property
    def reason(self) -> str:
        """The text with that of its cause, for logs."""
        return f"{self} ({self.__cause__})" if self.__cause__ else str(self)


class DatabaseUnavailableError(UnavailableError):
    """PostgreSQL cannot be reached or is not migrated."""

    dependency = "database"


class BrokerUnavailableError(UnavailableError):
    """Pulsar cannot be reached."""

    dependency = "broker"
