"""What goes wrong, how it is told, and with which exit code.

| code | means |
| --- | --- |
| 0 | done |
| 1 | the answer was an error that should not be, or something here failed |
| 2 | the command line or the configuration is wrong; nothing was sent |
| 3 | the request is refused as it is written |
| 4 | it contradicts what is stored, or that has changed (`--if-match`) |
| 5 | there is no such thing |
| 6 | no valid token, or not allowed |
| 7 | not reached, not ready or too busy: the same command may work later |
| 130 | interrupted |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

import click
import httpx
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from control_plane.cli.output import plain

FAILED = 1
REFUSED = 3
CONFLICT = 4
NOT_FOUND = 5
NOT_ALLOWED = 6
LATER = 7

_CODES = {
    400: REFUSED,
    401: NOT_ALLOWED,
    403: NOT_ALLOWED,
    404: NOT_FOUND,
    409: CONFLICT,
    412: CONFLICT,
    413: REFUSED,
    422: REFUSED,
    429: LATER,
    502: LATER,
    503: LATER,
    504: LATER,
}
_WINDOW = 72
"""How much of a long line is shown around an error."""


class Failure(click.ClickException):
    """Something that went wrong, with its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads the instance's


class Unreachable(Failure):
    """The control plane did not answer."""

    def __init__(self, url: str, error: Exception) -> None:
        why = str(error) or type(error).__name__
        super().__init__(f"The control plane at {url} cannot be reached: {why}", LATER)


class Refusal(Failure):
    """An answer that is an error: an RFC 9457 problem, or what else came."""

    def __init__(self, answer: httpx.Response, sent: Any, *, as_json: bool) -> None:
        status = answer.status_code
        super().__init__(f"{status} {answer.reason_phrase}", _CODES.get(status, FAILED))
        self._answer = answer
        self._sent = sent
        self._as_json = as_json

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it to standard error."""
        console = Console(file=file, stderr=file is None, highlight=False, soft_wrap=True)
        problem = _document(self._answer)
        if problem is None:
            console.print(Text(f"✗ {self.message}: {plain(self._answer.text[:500])}", "red"))
        elif self._as_json:
            console.print(Text(json.dumps(problem, indent=2, ensure_ascii=False)))
        else:
            console.print(told(problem, self._sent))


def told(problem: Mapping[str, Any], sent: Any) -> Text:
    """A problem for people, with a mark below the place in the text that was sent."""
    text = Text()
    text.append(f"✗ {plain(problem.get('detail') or problem.get('title') or '')}", "red")
    text.append(f" ({problem.get('status', '?')})\n", "dim")
    for item in problem.get("errors", ()):
        text.append(f"\n  {plain(str(item.get('pointer', '')).lstrip('/'))}: ", "bold")
        text.append(f"{plain(item.get('detail', ''))}\n")
        source = _at_pointer(sent, str(item.get("pointer", "")))
        if isinstance(source, str) and isinstance(item.get("position"), int):
            line, column = _line_at(source, item["position"])
            shown, before = _window(line, column)
            text.append(f"\n    {shown}\n    {' ' * before}")
            text.append("^\n", "bold red")
        if item.get("hint"):
            text.append(f"  hint: {plain(item['hint'])}\n", "yellow")
    if problem.get("request_id"):
        text.append(f"\n  request {plain(problem['request_id'])}", "dim")
    text.rstrip()
    return text


def _document(answer: httpx.Response) -> dict[str, Any] | None:
    try:
        document = answer.json()
    except ValueError:
        return None
    return document if isinstance(document, dict) and "title" in document else None


def _at_pointer(document: Any, pointer: str) -> Any:
    """What stands at a JSON pointer; None where nothing does."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(document, dict) or name not in document:
            return None
        document = document[name]
    return document


def _line_at(source: str, position: int) -> tuple[str, int]:
    """The line of a text that holds a position, and the position within it."""
    begin = source.rfind("\n", 0, position) + 1
    end = source.find("\n", position)
    return source[begin : None if end < 0 else end], position - begin


def _window(line: str, column: int) -> tuple[str, int]:
    """A part of a line around a column, and how wide what is shown before the column is."""
    first = max(0, column - _WINDOW // 2)
    last = first + _WINDOW
    lead, trail = "…" * (first > 0), "…" * (last < len(line))
    before = lead + plain(line[first:column])
    return before + plain(line[column:last]) + trail, cell_len(before)
