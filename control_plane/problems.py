"""The one mapper from errors to RFC 9457 problem documents (`application/problem+json`).

Types are stable: `urn:dds:problem:<slug>`. No stack trace and no text of a dependency's error
leaves the process; those are logged beside the request id that the answer names.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, InternalServerException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import ParameterKwarg
from msgspec import Meta
from sqlalchemy.exc import DataError, SQLAlchemyError

from control_plane.errors import (
    ConflictError,
    ControlPlaneError,
    ForbiddenError,
    InvalidRequestError,
    KeyInUseError,
    KeyReusedError,
    NotFoundError,
    PreconditionFailedError,
    RateLimitedError,
    TooManyPreviewsError,
    TooManyStreamsError,
    TooManySubscriptionsError,
    UnauthenticatedError,
    UnavailableError,
)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:dds:problem:"

log = structlog.get_logger(__name__)


class ProblemItem(msgspec.Struct, omit_defaults=True):
    """One thing wrong with a request; filters add where in their text."""

    pointer: str
    detail: str
    position: int | None = None
    line: int | None = None
    column: int | None = None
    hint: str | None = None


class Problem(msgspec.Struct, omit_defaults=True):
    """An RFC 9457 problem document."""

    type: Annotated[str, Meta(description="Stable: programs go by it.")]
    title: str
    status: int
    detail: Annotated[str, Meta(description="For people.")]
    instance: Annotated[str, Meta(description="The path of the request.")]
    request_id: str
    errors: list[ProblemItem] = []


_OF_CALLERS = (401, 403, 422, 429, 503)
"""Without a token, without the right role, with a query parameter that the route has not, too
often, and when it cannot be known whether a token is revoked."""


def responses(*statuses: int, public: bool = False) -> dict[int, ResponseSpec]:
    """The OpenAPI description of the problems that a route answers with."""
    return {
        status: ResponseSpec(
            data_container=Problem,
            description=HTTPStatus(status).phrase,
            media_type=MEDIA_TYPE,
            generate_examples=False,
        )
        for status in sorted({*statuses, *(() if public else _OF_CALLERS)})
    }


_DOMAIN: dict[type[ControlPlaneError], tuple[int, str, str]] = {
    UnauthenticatedError: (401, "unauthenticated", "Not authenticated"),
    ForbiddenError: (403, "forbidden", "Not allowed"),
    NotFoundError: (404, "not-found", "Not found"),
    KeyInUseError: (409, "idempotency-key-in-use", "No answer yet"),
    KeyReusedError: (422, "idempotency-key-reused", "The key is another request's"),
    TooManySubscriptionsError: (409, "too-many-subscriptions", "Too many subscriptions"),
    ConflictError: (409, "conflict", "Conflict"),
    PreconditionFailedError: (412, "precondition-failed", "Precondition failed"),
    InvalidRequestError: (422, "invalid-request", "The request cannot be carried out as written"),
    TooManyStreamsError: (429, "too-many-streams", "Too many streams"),
    TooManyPreviewsError: (429, "too-many-previews", "Too many previews"),
    RateLimitedError: (429, "rate-limited", "Too many requests"),
    UnavailableError: (503, "unavailable", "Temporarily unavailable"),
}
SHAPE = "request-shape"
MISFIT = "The request does not fit its description."
HTTP: dict[int, tuple[str, str]] = {
    400: ("bad-request", "Bad Request"),
    404: ("not-found", "Not Found"),
    405: ("method-not-allowed", "Method Not Allowed"),
    413: ("request-entity-too-large", "Request Entity Too Large"),
    500: ("internal-error", "Internal error"),
}
"""What Litestar refuses; the standard library's phrases are others in later versions."""


def of_error(error: ControlPlaneError, *, instance: str, request_id: str) -> Problem:
    """The document of an error that the control plane raised on purpose."""
    status, slug, title = next(_DOMAIN[cls] for cls in type(error).__mro__ if cls in _DOMAIN)
    errors: list[ProblemItem] = []
    if isinstance(error, UnavailableError):
        slug = f"{error.dependency}-unavailable"
    if isinstance(error, InvalidRequestError):
        errors = [
            ProblemItem(p.pointer, p.detail, p.position, p.line, p.column, p.hint)
            for p in error.problems
        ]
    return Problem(TYPE_PREFIX + slug, title, status, str(error), instance, request_id, errors)


def domain_problem(request: Request[Any, Any, Any], error: ControlPlaneError) -> Response[Problem]:
    """The answer to an error that the control plane raised on purpose."""
    headers = {}
    if isinstance(error, RateLimitedError):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, KeyInUseError):
        headers["Retry-After"] = "1"
    if isinstance(error, UnavailableError | TooManyStreamsError | TooManyPreviewsError):
        headers["Retry-After"] = str(request.app.state.settings.retry_after_seconds)
    if isinstance(error, UnavailableError):
        log.warning("dependency missing", dependency=error.dependency, error=error.reason)
    if isinstance(error, UnauthenticatedError):
        why = ', error="invalid_token"' if error.token_given else ""
        headers["WWW-Authenticate"] = f'Bearer realm="dds"{why}'
    problem = of_error(error, instance=request.url.path, request_id=_request_id(request))
    return _answer(problem, headers)


def http_problem(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    """The answer to what Litestar refuses: no such route, wrong method, a body of wrong shape."""
    if isinstance(error, InternalServerException) and isinstance(
        error.__cause__, msgspec.ValidationError
    ):
        # Litestar takes a member of a body that is called like a dependency for that one.
        error = ValidationException(extra=[{"message": str(error.__cause__), "source": "body"}])
    headers = {k: v for k, v in (error.headers or {}).items() if k.lower() == "allow"}
    if isinstance(error, ValidationException):
        errors = _shape_errors(error, _wire_names(request))
        return _answer(_made(request, 400, MISFIT, errors, slug=SHAPE), headers)
    return _answer(_made(request, error.status_code, error.detail), headers)


def unexpected_problem(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """The answer to an error nobody foresaw: logged in full, told without insides."""
    log.error("unexpected error", exc_info=error, path=request.url.path)
    detail = "Something went wrong here. Tell the platform team the request id."
    return _answer(_made(request, 500, detail))


def data_problem(request: Request[Any, Any, Any], error: DataError) -> Response[Problem]:
    """The answer to a value that PostgreSQL cannot hold, such as text with U+0000."""
    log.info("value refused by the database", error=type(error.orig).__name__)
    detail = "A value in the request cannot be stored; text may not contain U+0000."
    return _answer(_made(request, 400, detail, slug=SHAPE))


EXCEPTION_HANDLERS: dict[Any, Any] = {
    ControlPlaneError: domain_problem,
    HTTPException: http_problem,
    DataError: data_problem,
    SQLAlchemyError: unexpected_problem,
    Exception: unexpected_problem,
}


def _wire_names(request: Request[Any, Any, Any]) -> dict[str, str]:
    """What the route's parameters are called in a request, by what they are called in the code."""
    parameters = request.route_handler.parsed_fn_signature.parameters
    definitions = {name: field.kwarg_definition for name, field in parameters.items()}
    return {
        name: definition.name
        for name, definition in definitions.items()
        if isinstance(definition, ParameterKwarg) and definition.name
    }


def _shape_errors(error: ValidationException, wire_names: dict[str, str]) -> list[ProblemItem]:
    extra = error.extra if isinstance(error.extra, list) else []
    items = []
    for entry in extra:
        if not isinstance(entry, dict):
            continue
        key = str(entry.get("key", ""))
        source = str(getattr(entry.get("source"), "value", entry.get("source", "body")))
        if source == "body":
            # Litestar calls the body as a whole `data`.
            pointer = "" if key in ("", "data") else "/" + key.replace(".", "/")
        else:
            pointer = f"{source}:{wire_names.get(key, key)}"
        items.append(ProblemItem(pointer, str(entry.get("message", "not valid"))))
    return items or [ProblemItem("", error.detail)]


def _made(
    request: Request[Any, Any, Any],
    status: int,
    detail: str,
    errors: list[ProblemItem] | None = None,
    *,
    slug: str = "",
) -> Problem:
    known, title = HTTP.get(status) or ("http-error", HTTPStatus(status).phrase)
    return Problem(
        TYPE_PREFIX + (slug or known),
        title,
        status,
        detail or title,
        request.url.path,
        _request_id(request),
        errors or [],
    )


def _request_id(request: Request[Any, Any, Any]) -> str:
    return str(request.scope.get("state", {}).get("request_id", ""))


def _answer(problem: Problem, headers: dict[str, str] | None = None) -> Response[Problem]:
    return Response(problem, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)
