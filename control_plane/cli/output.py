"""What commands print: tables for people, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 10_000
"""Columns where no terminal says how many: nothing is cut for a program that reads."""


def plain(value: object) -> str:
    """A value as one line without anything that a terminal would obey."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value)
    )


def print_json(document: Any) -> None:
    """A document as it came, indented."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A table of some members of documents; `a.b` is a member of a member."""
    _console().print(_table(rows, columns) if rows else Text("nothing", "dim"))


def print_document(document: Any) -> None:
    """One document: its members line by line, then a table for each list of documents."""
    if isinstance(document, list):
        document = {"": document}
    members = _flat(document)
    lists = {name: value for name, value in members.items() if _is_rows(value)}
    singles = Table(box=None, show_header=False, pad_edge=False)
    for name, value in members.items():
        if name not in lists:
            singles.add_row(Text(plain(name), "bold"), Text(_cell(value)))
    console = _console()
    if singles.rows:
        console.print(singles)
    for name, rows in lists.items():
        if name:
            console.print(Text(f"\n{plain(name)}", "bold"))
        flat = [_flat(row) for row in rows]
        console.print(_table(flat, list(dict.fromkeys(key for row in flat for key in row))))


def print_text(text: str, style: str = "") -> None:
    """A line for people."""
    _console().print(Text(plain(text), style))


def _console() -> Console:
    width = None if sys.stdout.isatty() else WIDE
    return Console(highlight=False, width=width)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(plain(column)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(_member(row, column))) for column in columns))
    return table


def _member(row: Any, path: str) -> Any:
    if isinstance(row, list):
        found = [_member(each, path) for each in row]
        return [v for value in found for v in (value if isinstance(value, list) else [value])]
    if not isinstance(row, Mapping) or path in row:
        return row.get(path) if isinstance(row, Mapping) else None
    name, _, rest = path.partition(".")
    return _member(row.get(name), rest) if rest else None


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Members of members as members, named by their path."""
    members: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            members |= _flat(value, f"{prefix}{name}.")
        else:
            members[f"{prefix}{name}"] = value
    return members


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _cell(value: Any) -> str:
    if value is None or value in ({}, []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and not any(isinstance(v, list | Mapping) for v in value):
        return plain(", ".join(map(str, value)))
    if isinstance(value, list | Mapping):
        return plain(json.dumps(value, ensure_ascii=False))
    return plain(value)
