"""Problems as the OpenAPI description has them: one response a status, which operations refer to.

Each names the types that it can have, the headers that come with it, and has an example of each
type. So a type that is not told of, or a header that is missing, does not fit the description.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import msgspec

from control_plane.descriptions.fields import CONSUMER, REQUEST
from control_plane.errors import (
    BrokerUnavailableError,
    ConflictError,
    ControlPlaneError,
    DatabaseUnavailableError,
    FieldProblem,
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
from control_plane.problems import HTTP, MEDIA_TYPE, MISFIT, SHAPE, TYPE_PREFIX, Problem, of_error

Document = dict[str, Any]

_PATH: Final = f"/v1/consumers/{CONSUMER}"
_ERRORS: Final[tuple[ControlPlaneError, ...]] = (
    UnauthenticatedError(token_given=True),
    ForbiddenError(),
    NotFoundError("consumer", CONSUMER),
    ConflictError("There is a consumer 'instrument-analysis' already."),
    KeyInUseError(REQUEST),
    TooManySubscriptionsError("instrument-analysis", there=10_000, asked=1, limit=10_000),
    PreconditionFailedError('"4"'),
    InvalidRequestError(
        "The filter cannot be used.",
        [FieldProblem("/filter", "there is no column 'prise'", 8, 1, 9, "did you mean 'price'?")],
    ),
    KeyReusedError("Idempotency-Key"),
    RateLimitedError(1),
    TooManyStreamsError("As many streams as may be are open: end another one."),
    TooManyPreviewsError("As many previews as may be are under way."),
    DatabaseUnavailableError("PostgreSQL does not answer."),
    BrokerUnavailableError("The broker does not answer."),
)
_SECONDS: Final = {
    "description": "In how many seconds to come again.",
    "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
    "example": "1",
}
HEADERS: Final[dict[int, Document]] = {
    401: {
        "WWW-Authenticate": {
            "required": True,
            "schema": {"type": "string", "pattern": "^Bearer realm="},
            "example": 'Bearer realm="dds", error="invalid_token"',
        }
    },
    409: {"Retry-After": {**_SECONDS, "description": "With `idempotency-key-in-use`."}},
    429: {"Retry-After": {"required": True, **_SECONDS}},
    503: {"Retry-After": {"required": True, **_SECONDS}},
}


def reference(status: int) -> Document:
    """What stands at an operation for the problems of a status."""
    return {"$ref": f"#/components/responses/Problem{status}"}


def responses() -> dict[str, Document]:
    """The responses that `reference` is about."""
    by_status: dict[int, list[Problem]] = {}
    for problem in _examples():
        by_status.setdefault(problem.status, []).append(problem)
    return {
        f"Problem{status}": _response(status, problems) for status, problems in by_status.items()
    }


def _examples() -> list[Problem]:
    told = [of_error(error, instance=_PATH, request_id=REQUEST) for error in _ERRORS]
    seen = {problem.type for problem in told}
    for cls in UnavailableError.__subclasses__():
        problem = of_error(cls("It does not answer."), instance=_PATH, request_id=REQUEST)
        told += [] if problem.type in seen else [problem]
    for status, slug, detail in (
        (400, SHAPE, MISFIT),
        (400, HTTP[400][0], "The body cannot be read as JSON."),
        (413, *HTTP[413]),
    ):
        told.append(Problem(TYPE_PREFIX + slug, HTTP[status][1], status, detail, _PATH, REQUEST))
    return told


def _response(status: int, problems: list[Problem]) -> Document:
    types = [problem.type for problem in problems]
    bounds = {"type": {"enum": types}, "status": {"const": status}}
    told: Document = {
        "description": HTTPStatus(status).phrase,
        "content": {
            MEDIA_TYPE: {
                "schema": {
                    "allOf": [{"$ref": "#/components/schemas/Problem"}, {"properties": bounds}]
                },
                "examples": {
                    problem.type.removeprefix(TYPE_PREFIX): {"value": msgspec.to_builtins(problem)}
                    for problem in problems
                },
            }
        },
    }
    if status in HEADERS:
        told["headers"] = HEADERS[status]
    return told
