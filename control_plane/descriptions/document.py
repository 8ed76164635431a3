"""The OpenAPI description, where Litestar does not make it exact by itself.

Litestar leaves out what msgspec knows of the members of lists, maps and unions (patterns, lengths),
and that unknown fields are refused: the schemas of request bodies are msgspec's own. A union is no
exclusive one. A text in a URL or header cannot be null, it can only be absent; bounds stand beside
what they bound. What all operations of a kind answer is said of them here, problems are told of in
one place (`problems.py`), and bodies have examples (`examples.py`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from litestar import Litestar, Request
from litestar.enums import ScopeType
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.routes import HTTPRoute
from litestar.types import Message, Scope

from control_plane.descriptions import problems
from control_plane.descriptions.examples import Examples, NoExampleError
from control_plane.idempotency.middleware import HEADER as IDEMPOTENCY_KEY
from control_plane.problems import MEDIA_TYPE

Document = dict[str, Any]

IF_MATCH = "If-Match"
STREAM = "text/event-stream"


class ExactJson(JsonRenderPlugin):
    """The exact description as JSON."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        """The document."""
        return super().render(request, exact(request.app, openapi_schema))


class ExactYaml(YamlRenderPlugin):
    """The exact description as YAML."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        """The document."""
        return super().render(request, exact(request.app, openapi_schema))


def exact(app: Litestar, document: Document) -> Document:
    """Change a document in place, which Litestar keeps, so that it is changed once."""
    if app.state.get("described") is document:
        return document
    app.state.described = document
    _, bodies = msgspec.json.schema_components(
        _bodies(app), ref_template="#/components/schemas/{name}"
    )
    components = document["components"]
    _any_of(components["schemas"])
    components["schemas"].update(bodies)
    components["responses"] = problems.responses()
    examples = Examples(components["schemas"])
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _plain(parameter["schema"])
            _refer_to_problems(operation)
            _describe_streams(operation, examples)
            _give_examples(operation, examples)
    return document


def _refer_to_problems(operation: Document) -> None:
    answers = operation["responses"]
    told = [status for status, answer in answers.items() if MEDIA_TYPE in answer.get("content", {})]
    parameters = [parameter["name"] for parameter in operation.get("parameters", ())]
    has_body = "requestBody" in operation
    for status, comes in (
        ("400", has_body or parameters),
        ("409", IDEMPOTENCY_KEY in parameters),
        ("412", IF_MATCH in parameters),
        ("413", has_body),
    ):
        told += [status] if comes else []
    if "503" in answers:
        answers["503"]["headers"] = problems.HEADERS[503]
    answers.update({status: problems.reference(int(status)) for status in told})
    operation["responses"] = dict(sorted(answers.items()))


def _describe_streams(operation: Document, examples: Examples) -> None:
    """Have a stream's schema be that of an event with its fields: what is told is one, as text."""
    for told in operation["responses"].values():
        media = told.get("content", {}).get(STREAM)
        if media is None:
            continue
        _any_of(media)
        example = examples.of(media["schema"])
        data = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": media["schema"],
        }
        text = {"type": "string"}
        media["schema"] = {
            "type": "object",
            "properties": {"id": text, "event": text, "data": data},
            "required": ["id", "event", "data"],
        }
        event = {
            "id": str(example["number"]),
            "event": example["type"],
            "data": msgspec.json.encode(example).decode(),
        }
        media["examples"] = {"usual": {"value": event}}


def _give_examples(operation: Document, examples: Examples) -> None:
    for told in (operation.get("requestBody", {}), *operation["responses"].values()):
        for media in told.get("content", {}).values():
            if "examples" not in media:
                # A test finds what is left without.
                with suppress(NoExampleError):
                    media["examples"] = {"usual": {"value": examples.of(media["schema"])}}


def _any_of(schemas: Any) -> None:
    """Have unions mean what they mean in Python: 2 is an integer and a number, too."""
    for each in schemas.values() if isinstance(schemas, dict) else schemas:
        if isinstance(each, dict | list):
            _any_of(each)
    if isinstance(schemas, dict) and isinstance(schemas.get("oneOf"), list):
        schemas["anyOf"] = schemas.pop("oneOf")


def _bodies(app: Litestar) -> list[Any]:
    """The structs that requests are made of."""
    return [
        handler.parsed_data_field.annotation
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if handler.parsed_data_field is not None
    ]


def _plain(schema: Document) -> Document:
    options = [each for each in schema.get("oneOf", ()) if each != {"type": "null"}]
    if len(options) == 1:
        schema = {**options[0], **schema}
        del schema["oneOf"]
    if schema.get("type") == "string" and not schema.keys() & {"pattern", "format", "enum"}:
        # As `require_text` has it.
        return {**schema, "pattern": r"^[^\x00]*$"}
    if schema.get("type") in ("integer", "boolean"):
        # Bounds are whole numbers, and some readers of JSON take 2.0 for something else than 2.
        schema = {
            name: int(value) if isinstance(value, float) else value
            for name, value in schema.items()
        }
        # The text `null` is none for what is no text.
        return {"oneOf": [schema, {"type": "null"}]} if options else schema
    return schema


def allow_what_there_is(app: Litestar) -> None:
    """Have answers to OPTIONS name all methods of a path.

    Litestar names those of the handler that was registered first.
    """
    methods = {
        route.path_format: ", ".join(sorted(route.methods)).encode()
        for route in app.routes
        if isinstance(route, HTTPRoute)
    }

    async def name_them(message: Message, scope: Scope) -> None:
        if scope["type"] != ScopeType.HTTP or scope["method"] != "OPTIONS":
            return
        allowed = methods.get(str(scope.get("path_template")))
        if message["type"] == "http.response.start" and allowed is not None:
            message["headers"] = [
                (name, allowed if name.lower() == b"allow" else value)
                for name, value in message["headers"]
            ]

    app.before_send.append(name_them)
