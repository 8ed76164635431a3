"""`ddsctl events follow`: server-sent events, across connections that end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import httpx

from control_plane.cli.failures import LATER, Refusal, Unreachable
from control_plane.cli.output import plain
from control_plane.cli.requests import Api, Request

FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 30.0
SILENCE_SECONDS = 60.0
"""A connection on which not even a heartbeat came for so long is taken for dead."""
LAST_EVENT_ID = "Last-Event-ID"


@dataclass(slots=True)
class Message:
    """One block of a stream; without `data` it only moves `id`."""

    id: str | None
    data: str
    retry: str


def messages(lines: Iterable[str]) -> Iterator[Message]:
    """The blocks of a stream; one that was cut off is none."""
    fields: dict[str, list[str]] = {}
    for line in lines:
        if not line:
            yield Message(
                id=fields["id"][-1] if "id" in fields else None,
                data="\n".join(fields.get("data", ())),
                retry=fields.get("retry", [""])[-1],
            )
            fields = {}
            continue
        name, _, value = line.partition(":")
        fields.setdefault(name, []).append(value.removeprefix(" "))


def follow(
    api: Api,
    client: httpx.Client,
    request: Request,
    show: Callable[[str], None],
    *,
    reconnect: bool,
    note: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show the data of every event; goes on for ever where `reconnect` says so.

    Raises:
        Refusal, Unreachable: the first connection was none, or what is asked for is refused.
    """
    ever = False
    first = pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            for message in _connection(api, client, request):
                ever, pause = True, first
                if message.retry.isdigit():
                    first = pause = int(message.retry) / 1000
                if message.data:
                    show(message.data)
                if message.id is not None:  # only now: what was not shown comes again
                    request.headers[LAST_EVENT_ID] = message.id
        except (Refusal, Unreachable) as failure:
            if not (ever and reconnect and failure.exit_code == LATER):
                raise
            note(f"{failure.message}; trying again in {pause:g} s")
            sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        else:
            if not reconnect:
                return
            sleep(first)


def _connection(api: Api, client: httpx.Client, request: Request) -> Iterator[Message]:
    try:
        with client.stream(
            request.method,
            request.path,
            params=request.query,
            headers=request.headers,
            timeout=SILENCE_SECONDS,
        ) as answer:
            if not answer.is_success:
                answer.read()
                raise Refusal(answer, None, as_json=api.as_json)
            yield from messages(answer.iter_lines())
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(api.configuration.url, error) from None


def line_of(data: str) -> str:
    """An event as a line for people."""
    told = json.loads(data)
    about = told.get("subscription") or told.get("consumer") or ""
    facts = told.get("data", told)
    said = " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in facts.items()
        if name not in ("number", "type")
    )
    return plain(
        f"{told.get('at', ''):<27} {told.get('type', 'events.lost'):<24} {about:<17} {said}"
    )
