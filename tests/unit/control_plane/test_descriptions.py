"""The OpenAPI description: examples of all bodies, and every refusal that can come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from described import Document, description
from litestar.routes import HTTPRoute

from control_plane.app import create_app
from control_plane.descriptions.examples import Examples, NoExampleError
from control_plane.problems import MEDIA_TYPE, TYPE_PREFIX
from control_plane.settings import Settings

BYTES = frozenset({"application/octet-stream", "application/vnd.apache.arrow.stream"})
"""Of these there can be no example in JSON."""


def operations() -> Iterator[tuple[str, str, Document]]:
    for path, methods in description().document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def bodies() -> Iterator[tuple[tuple[str, ...], Document]]:
    """Where each content of a request or answer stands, and what stands there."""
    for path, method, operation in operations():
        place = ("paths", path, method)
        told = {("requestBody",): operation.get("requestBody", {})}
        told |= {("responses", status): each for status, each in operation["responses"].items()}
        for step, each in told.items():
            for media, content in each.get("content", {}).items():
                yield (*place, *step, "content", media), content
    for name, response in description().document["components"]["responses"].items():
        for media, content in response["content"].items():
            yield ("components", "responses", name, "content", media), content


def test_every_body_has_an_example_that_fits() -> None:
    without, wrong, seen = [], [], 0
    for place, content in bodies():
        if place[-1] in BYTES:
            continue
        if "examples" not in content:
            without.append(f"{' '.join(place)} ({_field_without(content)})")
            continue
        for example in content["examples"].values():
            seen += 1
            schema = description().validator(*place, "schema")
            wrong += [
                f"{' '.join(place)}: {error.json_path}: {error.message}"
                for error in schema.iter_errors(example["value"])
            ]
    assert not without, "say what the field looks like, in Meta or control_plane/descriptions"
    assert not wrong
    assert seen > 100


def _field_without(content: Document) -> str:
    with pytest.raises(NoExampleError) as missing:
        Examples(description().document["components"]["schemas"]).of(content["schema"])
    return str(missing.value)


def test_the_example_of_a_request_can_be_read() -> None:
    """By what reads requests: it knows more than a schema can say."""
    app = create_app(Settings())
    types = {
        handler.operation_id: handler.parsed_data_field.annotation
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if handler.parsed_data_field is not None
    }
    read = 0
    for _, _, operation in operations():
        kind = types.get(operation["operationId"])
        if kind is not None:
            (content,) = operation["requestBody"]["content"].values()
            for example in content["examples"].values():
                msgspec.convert(example["value"], kind)
                read += 1
    assert read == len(types)


def test_every_refusal_is_a_problem_of_known_types() -> None:
    responses = description().document["components"]["responses"]
    for path, method, operation in operations():
        for status, answer in operation["responses"].items():
            if status < "400" or path == "/readyz":
                continue
            assert answer == {"$ref": f"#/components/responses/Problem{status}"}, (path, method)
    for name, response in responses.items():
        (content,) = response["content"].items()
        assert content[0] == MEDIA_TYPE
        bounds = content[1]["schema"]["allOf"][1]["properties"]
        assert bounds["status"]["const"] == int(name.removeprefix("Problem"))
        assert all(kind.startswith(TYPE_PREFIX) and " " not in kind for kind in types_of(response))


def types_of(response: Document) -> list[str]:
    found: list[str] = response["content"][MEDIA_TYPE]["schema"]["allOf"][1]["properties"]["type"][
        "enum"
    ]
    return found


def test_types_of_problems_stay() -> None:
    """Programs go by them: a type that is missing here is one that somebody waits for."""
    responses = description().document["components"]["responses"]
    found = {
        kind.removeprefix(TYPE_PREFIX): name.removeprefix("Problem")
        for name, response in responses.items()
        for kind in types_of(response)
    }
    assert (
        found.items()
        >= {
            "request-shape": "400",
            "bad-request": "400",
            "unauthenticated": "401",
            "forbidden": "403",
            "not-found": "404",
            "conflict": "409",
            "idempotency-key-in-use": "409",
            "too-many-subscriptions": "409",
            "precondition-failed": "412",
            "request-entity-too-large": "413",
            "invalid-request": "422",
            "idempotency-key-reused": "422",
            "rate-limited": "429",
            "too-many-streams": "429",
            "too-many-previews": "429",
            "broker-unavailable": "503",
            "database-unavailable": "503",
            "topology-unavailable": "503",
        }.items()
    )


def test_what_can_come_of_every_operation_is_told_of_it() -> None:
    for path, method, operation in operations():
        told, where = set(operation["responses"]), (path, method)
        parameters = {parameter["name"] for parameter in operation.get("parameters", ())}
        if operation.get("security") != [{}]:
            assert told >= {"401", "403", "422", "429", "503"}, where
        if "requestBody" in operation:
            assert told >= {"400", "413"}, where
        if "{" in path and operation.get("security") != [{}]:
            assert "404" in told, where
        if "If-Match" in parameters:
            assert "412" in told, where
        if "Idempotency-Key" in parameters:
            assert "409" in told, where


def test_headers_of_refusals_are_described() -> None:
    responses = description().document["components"]["responses"]
    required: dict[str, set[str]] = {
        name.removeprefix("Problem"): {
            header for header, told in response.get("headers", {}).items() if told.get("required")
        }
        for name, response in responses.items()
    }
    assert required["401"] == {"WWW-Authenticate"}
    assert required["429"] == required["503"] == {"Retry-After"}
    assert "Retry-After" in responses["Problem409"]["headers"]
    not_ready = description().document["paths"]["/readyz"]["get"]["responses"]["503"]
    assert not_ready["headers"]["Retry-After"]["required"]


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        ({"type": "string", "examples": ["eu", "us"]}, "eu"),
        ({"type": "string", "enum": ["lz4", "none"]}, "lz4"),
        ({"type": "integer", "minimum": 8}, 8),
        ({"type": "number"}, 0),
        ({"type": "boolean"}, False),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, 0),
        ({"type": "array", "items": {"type": "boolean"}}, [False]),
        ({"type": "object"}, {}),
    ],
)
def test_an_example_of_a_field_without_one_is_the_plainest(schema: Document, example: Any) -> None:
    assert Examples({}).of(schema, "Thing", "unheard-of") == example


def test_a_text_needs_an_example_of_its_own() -> None:
    with pytest.raises(NoExampleError, match=r"Thing\.unheard-of"):
        Examples({}).of({"type": "string"}, "Thing", "unheard-of")


def test_a_field_that_may_be_left_out_is_left_out_where_it_has_no_example() -> None:
    schemas = {
        "Thing": {
            "properties": {
                "region": {"type": "string"},
                "unheard-of": {"type": "string"},
                "plan": {"type": "object"},
            },
            "required": ["plan"],
        }
    }
    made = Examples(schemas).of({"$ref": "#/components/schemas/Thing"})
    # `plan` is a number elsewhere.
    assert made == {"region": "eu", "plan": {}}
