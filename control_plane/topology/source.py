"""YAML with places: reads a file into plain values and remembers where each of them stands.

Duplicate keys are errors (YAML itself lets the later one win silently); anchors and merge keys
work as usual.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from marketdata.errors import DistributionError

Keys = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in the topology: where, what was found, what is allowed."""

    place: Place
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{self.place}: {where}{self.message}"


class TopologyError(DistributionError):
    """The topology is wrong; `problems` says where and what is allowed. Correct the YAML."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True)
class Document:
    """One file's values, with the place of every key and value below it."""

    file: str
    data: Any
    values: dict[Keys, Place] = field(default_factory=dict)
    keys: dict[Keys, Place] = field(default_factory=dict)

    def place(self, path: Keys, *, key: bool = False) -> Place:
        """Where a value (or its key) stands; for an absent one, where its parent stands."""
        places = self.keys if key else self.values
        while path not in places:
            if not path:
                return Place(self.file, 1, 1)
            path, places = path[:-1], {**self.values, **self.keys}
        return places[path]


def read_document(path: Path) -> Document:
    """Read one file; TopologyError when it is no YAML mapping."""
    file = str(path)
    try:
        text = path.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            document = Document(file, None)
            data = _plain(node, (), document, loader) if node is not None else {}
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        problem = " ".join(each for each in (error.context, error.problem) if each)
        raise TopologyError([Problem(place, "", f"this is not YAML: {problem}")]) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        place = Place(file, 1, 1)
        raise TopologyError([Problem(place, "", f"this is not YAML: {error}")]) from error
    if not isinstance(data, dict):
        raise TopologyError(
            [Problem(Place(file, 1, 1), "", "the file must be a mapping of sections, as `topics:`")]
        )
    return Document(file, data, document.values, document.keys)


def _plain(node: yaml.Node, path: Keys, document: Document, loader: yaml.SafeLoader) -> Any:
    document.values[path] = _place(document.file, node)
    if isinstance(node, yaml.MappingNode):
        _refuse_duplicates(node, path, document)
        loader.flatten_mapping(node)
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = _key(key_node, path, document, loader)
            document.keys[(*path, key)] = _place(document.file, key_node)
            found[key] = _plain(value_node, (*path, key), document, loader)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(each, (*path, index), document, loader) for index, each in enumerate(node.value)
        ]
    return loader.construct_object(node, deep=True)


def _key(node: yaml.Node, path: Keys, document: Document, loader: yaml.SafeLoader) -> Any:
    key = loader.construct_object(node, deep=True)
    if not isinstance(key, str):
        problem = f"a key must be a text, not {key!r}; put it in quotes"
        raise TopologyError([Problem(_place(document.file, node), dotted(path), problem)])
    return key


def _refuse_duplicates(node: yaml.MappingNode, path: Keys, document: Document) -> None:
    seen: dict[Hashable, Place] = {}
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
            continue
        place = _place(document.file, key_node)
        first = seen.setdefault(key_node.value, place)
        if first is not place:
            problem = (
                f"the key {key_node.value!r} stands twice; it stands first in line {first.line}"
            )
            raise TopologyError([Problem(place, dotted(path), problem)])


def _place(file: str, node: yaml.Node) -> Place:
    return Place(file, node.start_mark.line + 1, node.start_mark.column + 1)


def dotted(path: Keys) -> str:
    """A path for people.

    >>> dotted(("functions", "sequencer", "inputs", 0))
    'functions.sequencer.inputs[0]'
    """
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text
