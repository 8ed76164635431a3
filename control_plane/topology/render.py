"""Changes and events as people know them from Terraform, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from control_plane.topology.apply import Event
from control_plane.topology.diff import Action, Attribute, Change, summary

_SIGNS: Final[dict[Action, str]] = {
    "create": "+",
    "update": "~",
    "replace": "-/+",
    "delete": "-",
    "restart": "~",
    "refuse": "!",
}
_VERBS: Final[dict[Action, str]] = {
    "create": "will be created",
    "update": "will be updated in place",
    "replace": "must be replaced",
    "delete": "will be destroyed",
    "restart": "will be restarted",
    "refuse": "cannot be changed",
}
_COLOURS: Final[dict[str, str]] = {
    "+": "\033[32m",
    "~": "\033[33m",
    "-/+": "\033[35m",
    "-": "\033[31m",
    "!": "\033[31;1m",
}
_PLAIN: Final = "\033[0m"


class Renderer:
    """Text for a terminal; `colour` adds ANSI colours."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def plan(self, changes: list[Change]) -> str:
        """All changes with their attributes, and the summary line."""
        if not changes:
            return "No changes. The cluster matches the topology."
        blocks = [self._change(each) for each in changes]
        return "\n\n".join([*blocks, self.summary(changes)])

    def summary(self, changes: list[Change]) -> str:
        """The line that counts: how many to add, to change and to destroy."""
        added, changed, destroyed = summary(changes)
        line = f"Plan: {added} to add, {changed} to change, {destroyed} to destroy."
        refused = sum(each.action == "refuse" for each in changes)
        return f"{line} {refused} cannot be applied." if refused else line

    def event(self, event: Event) -> str:
        """One line of progress."""
        change = event.change
        what = f"{change.kind} {change.name}"
        match event.stage:
            case "started":
                return self._paint(_SIGNS[change.action], f"{change.action} {what} …")
            case "waiting":
                return f"  {what}: {event.detail}"
            case "done":
                return f"  {what}: done after {event.elapsed_s:.1f} s"
            case "failed":
                return self._paint("!", f"  {what}: failed: {event.detail}")
            case "rolling_back":
                return self._paint("~", f"  {what}: rolling back to its config from before …")
            case "rolled_back":
                return f"  {what}: runs as before"

    def _change(self, change: Change) -> str:
        sign = _SIGNS[change.action]
        head = f"{sign:>3} {change.kind} {change.name} {_VERBS[change.action]}"
        lines = [self._paint(sign, head)]
        if change.reason:
            lines.append(f"      # {change.reason}")
        width = max((len(each.name) for each in change.attributes), default=0)
        lines += [self._attribute(each, width) for each in change.attributes]
        return "\n".join(lines)

    def _attribute(self, attribute: Attribute, width: int) -> str:
        name = attribute.name.ljust(width)
        if attribute.old is None:
            return self._paint("+", f"      + {name} = {_shown(attribute.new)}")
        if attribute.new is None:
            text = self._paint("-", f"      - {name} = {_shown(attribute.old)}")
        else:
            values = f"{_shown(attribute.old)} -> {_shown(attribute.new)}"
            text = self._paint("~", f"      ~ {name} = {values}")
        return f"{text}  # forces replacement" if attribute.forces_replacement else text

    def _paint(self, sign: str, text: str) -> str:
        return f"{_COLOURS[sign]}{text}{_PLAIN}" if self._colour else text


def changes_as_json(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """Changes for programs; an absent value is null."""
    return [
        {
            "action": change.action,
            "kind": change.kind,
            "name": change.name,
            "reason": change.reason,
            "attributes": [
                {
                    "name": each.name,
                    "old": each.old,
                    "new": each.new,
                    "forces_replacement": each.forces_replacement,
                }
                for each in change.attributes
            ],
        }
        for change in changes
    ]


def event_as_json(event: Event) -> dict[str, Any]:
    """One event for programs."""
    return {
        "stage": event.stage,
        "action": event.change.action,
        "kind": event.change.kind,
        "name": event.change.name,
        "detail": event.detail,
        "elapsed_s": round(event.elapsed_s, 3),
    }


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value)
