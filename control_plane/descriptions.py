"""The OpenAPI description, where Litestar does not make it exact by itself, and pages of it.

Litestar leaves out what msgspec knows of the members of lists, maps and unions (patterns, lengths),
and that unknown fields are refused: the schemas of request bodies are msgspec's own. A text in a
URL or header cannot be null, it can only be absent; bounds stand beside what they bound.

The pages are Swagger UI out of an installed package: a browser needs nothing but this service.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.datastructures import CacheControlHeader
from litestar.enums import ScopeType
from litestar.exceptions import NotFoundException
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin, YamlRenderPlugin
from litestar.params import PathParameter
from litestar.routes import HTTPRoute
from litestar.types import Message, Scope

Document = dict[str, Any]


class ExactJson(JsonRenderPlugin):
    """The exact description as JSON."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        """The document."""
        return super().render(request, _exact(request.app, openapi_schema))


class ExactYaml(YamlRenderPlugin):
    """The exact description as YAML."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        """The document."""
        return super().render(request, _exact(request.app, openapi_schema))


_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui-standalone-preset.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
"""What of Swagger UI the pages need, and its media type."""


class ExactPages(SwaggerRenderPlugin):
    """The exact description as pages on which each request can be tried."""

    def __init__(self) -> None:
        script, preset, style = (f"/schema/files/{name}" for name in _FILES)
        super().__init__(
            path="/",
            js_url=script,
            standalone_preset_js_url=preset,
            css_url=style,
            favicon='<link rel="icon" href="data:,">',
        )

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        """The page."""
        return super().render(request, _exact(request.app, openapi_schema))


@get(
    "/files/{name:str}",
    include_in_schema=False,
    sync_to_thread=True,
    cache_control=CacheControlHeader(max_age=3600, private=True),
)
def page_file(name: Annotated[str, PathParameter(max_length=64)]) -> Response[bytes]:
    """A file of Swagger UI."""
    if name not in _FILES:
        raise NotFoundException
    return Response((_swagger_ui() / name).read_bytes(), media_type=_FILES[name])


def _swagger_ui() -> Path:
    """Where its package keeps the files; importing it would import a web framework."""
    spec = importlib.util.find_spec("swagger_ui")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("swagger-ui-py is not installed: install the extra control-plane")
    return Path(spec.origin).parent / "static"


def _exact(app: Litestar, document: Document) -> Document:
    """Change a document in place, which Litestar keeps, so that it is changed once."""
    if app.state.get("described") is document:
        return document
    app.state.described = document
    _, bodies = msgspec.json.schema_components(
        _bodies(app), ref_template="#/components/schemas/{name}"
    )
    document["components"]["schemas"].update(bodies)
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _plain(parameter["schema"])
    return document


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
    if schema.get("type") == "integer":
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
