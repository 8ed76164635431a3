"""Pages of the description on which each request can be tried.

They are Swagger UI out of an installed package: a browser needs nothing but this service.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.datastructures import CacheControlHeader
from litestar.exceptions import NotFoundException
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.params import PathParameter

from control_plane.descriptions.document import Document, exact

_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui-standalone-preset.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
"""What of Swagger UI the pages need, and its media type."""


class ExactPages(SwaggerRenderPlugin):
    """The exact description as pages."""

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
        return super().render(request, exact(request.app, openapi_schema))


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
