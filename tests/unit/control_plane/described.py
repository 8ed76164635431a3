"""Answers, held to the OpenAPI description: whether a status is told of, and the body fits."""

from __future__ import annotations

import re
from functools import cache, cached_property
from typing import Any

import httpx
import msgspec
from jsonschema import Draft202012Validator

from control_plane.app import create_app
from control_plane.descriptions.document import exact
from control_plane.settings import Settings

Document = dict[str, Any]


class Described:
    """A description, to hold answers to."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def validator(self, *place: str) -> Draft202012Validator:
        """What holds values to the schema that stands at a place of the description."""
        told = "/".join(step.replace("~", "~0").replace("/", "~1") for step in place)
        return Draft202012Validator({**self.document, "$ref": f"#/{told}"})

    def operation(self, request: httpx.Request) -> tuple[str, Document] | None:
        """The path and the operation that a request is for; None where there is none."""
        for pattern, template in self._paths:
            if pattern.fullmatch(request.url.path):
                found = self.document["paths"][template].get(request.method.lower())
                return None if found is None else (template, found)
        return None

    @cached_property
    def _paths(self) -> list[tuple[re.Pattern[str], str]]:
        # Those without parameters first, as the router has it.
        paths = sorted(self.document["paths"], key=lambda path: path.count("{"))
        return [
            (re.compile(re.sub(r"\\?\{[^}]*\}", "[^/]+", re.escape(path))), path) for path in paths
        ]


@cache
def description() -> Described:
    """That of the control plane."""
    app = create_app(Settings())
    told = exact(app, app.openapi_schema.to_schema())
    return Described(msgspec.json.decode(msgspec.json.encode(told)))


def check(response: httpx.Response) -> None:
    """Fail where an answer is none that the description tells of."""
    api = description()
    found = api.operation(response.request)
    if found is None:
        return
    template, operation = found
    place = ["paths", template, response.request.method.lower(), "responses"]
    status = str(response.status_code)
    what = f"{response.request.method} {template}: {status}"
    assert status in operation["responses"], f"{what} is not described: {response.text[:300]}"
    answer = operation["responses"][status]
    if "$ref" in answer:
        place = answer["$ref"].removeprefix("#/").split("/")
        answer = api.document["components"]["responses"][place[-1]]
    else:
        place.append(status)
    for name, header in answer.get("headers", {}).items():
        assert name in response.headers or not header.get("required"), f"{what} without {name}"
    media = response.headers.get("content-type", "").partition(";")[0]
    content = answer.get("content") or {}
    if "*/*" in content or not content:
        assert bool(content) == bool(response.content), f"{what}: {response.text[:300]}"
        return
    assert media in content, f"{what} is {media}"
    if media.endswith("json"):
        schema = api.validator(*place, "content", media, "schema")
        wrong = [
            f"{error.json_path}: {error.message[:300]}"
            for error in schema.iter_errors(response.json())
        ]
        assert not wrong, f"{what}: {wrong}"
