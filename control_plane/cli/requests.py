"""One request: from what was given in a terminal to the answer, or to a Failure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import click
import httpx

from control_plane.cli.configuration import Configuration
from control_plane.cli.failures import FAILED, Failure, Refusal, Unreachable
from control_plane.cli.fields import Field
from control_plane.cli.resources.command import Command

MAX_PAGE = 1000


@dataclass(slots=True)
class Request:
    """A request as the API wants it."""

    method: str
    path: str
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    content: bytes | None = None

    @classmethod
    def of(cls, command: Command, given: Mapping[str, Any]) -> Request:
        """What a command asks for; nothing is sent for fields that were not given."""
        request = cls(command.method, command.path)
        if command.method in ("POST", "PATCH"):
            takes_body = any(f.place == "body" for f in command.fields) or command.fixed
            request.body = dict(command.fixed) if takes_body else None
        if command.from_file and given["file"]:
            request.body = dict(given["file"])
        for each in command.fields:
            value = each.value(given)
            if value is not None:
                request.put(each, value)
        return request

    def put(self, given: Field, value: Any) -> None:
        """Put what was given for a field where it belongs."""
        if given.place == "path":
            part = quote(str(value), safe="")
            if part in ("", ".", ".."):  # it would be another path
                raise click.UsageError(f"{given.name} cannot be {value!r}")
            self.path = self.path.replace(f"{{{given.name}}}", part)
        elif given.place == "header":
            self.headers[given.name] = str(value)
        elif given.place == "query":
            self.query[given.name] = value
        elif given.place == "content":
            self.content = value.data
            self.headers["Content-Type"] = value.media_type
        elif self.body is not None:
            self.body[given.name] = value


@dataclass(slots=True)
class Api:
    """Sends requests; `as_json` says how errors are told. `etag` is that of the list read last."""

    configuration: Configuration
    as_json: bool
    etag: str | None = None

    def send(self, client: httpx.Client, request: Request) -> httpx.Response:
        """The answer; Refusal or Unreachable when it is none."""
        try:
            answer = client.request(
                request.method,
                request.path,
                params=request.query,
                headers=request.headers,
                json=request.body,
                content=request.content,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(self.configuration.url, error) from None
        if not answer.is_success:
            raise Refusal(answer, request.body, as_json=self.as_json)
        return answer

    def document(self, answer: httpx.Response) -> Any:
        """The JSON of an answer; Failure when it holds none."""
        try:
            return answer.json()
        except ValueError:
            raise Failure(
                f"{self.configuration.url} does not answer as a control plane does", FAILED
            ) from None

    def verification(self, client: httpx.Client, request: Request) -> dict[str, Any]:
        """What is found of all that there is to check, asked for part by part."""
        checked = 0
        while True:
            found: dict[str, Any] = self.document(self.send(client, request))
            found["checked"] = checked = checked + found["checked"]
            if found["next_after"] is None or not found["holds"]:
                return found
            request.query["after"] = found["next_after"]

    def items(self, client: httpx.Client, request: Request, limit: int) -> Iterator[Any]:
        """Up to `limit` items of a list that comes in pages; all with 0."""
        left = limit or MAX_PAGE
        self.etag = None
        while left > 0:
            request.query["limit"] = min(left, MAX_PAGE)
            answer = self.send(client, request)
            # Of the first page: what has changed since is refused.
            self.etag = self.etag or answer.headers.get("ETag")
            page = self.document(answer)
            yield from page["items"]
            request.query["cursor"] = page["next_cursor"]
            if page["next_cursor"] is None:
                return
            left = left - len(page["items"]) if limit else MAX_PAGE
