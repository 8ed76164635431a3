"""Reads a folder of topology files into a `Topology`, or says where and why it cannot.

Three steps, each reporting everything it finds: the files' YAML, their form against
`schema.json`, and their meaning (references exist, quotas fit, instances fit the partitions).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from control_plane.topology.build import build_topology
from control_plane.topology.model import Topology
from control_plane.topology.source import (
    Document,
    Keys,
    Place,
    Problem,
    TopologyError,
    dotted,
    read_document,
)

_SECTIONS = ("tenants", "namespaces", "topics", "sources", "functions")


class Declarations:
    """All files' sections merged, with the place of everything in them."""

    def __init__(self, documents: list[Document]) -> None:
        self.sections: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
        self.partitions: int | None = None
        self.problems: list[Problem] = []
        self._owners: dict[Keys, Document] = {}
        self._folder = str(Path(documents[0].file).parent)
        for document in documents:
            self._add(document)

    def _add(self, document: Document) -> None:
        for section, content in document.data.items():
            if section == "partitions":
                if self.partitions is not None:
                    self._repeated(document, ("partitions",))
                self.partitions = content
                self._owners[("partitions",)] = document
                continue
            for name, value in content.items():
                path = (section, name)
                if path in self._owners:
                    self._repeated(document, path)
                self._owners[path] = document
                self.sections[section][name] = value

    def _repeated(self, document: Document, path: Keys) -> None:
        first = self._owners[path].place(path, key=True)
        text = f"this is declared already in {first}; declare it once"
        self.problems.append(Problem(document.place(path, key=True), dotted(path), text))

    def refuse(self, path: Keys, message: str, *, key: bool = False) -> None:
        """Note a problem at a path of the merged sections."""
        owner = self._owners.get(path[:2]) or self._owners.get(path[:1])
        place = owner.place(path, key=key) if owner else Place(self._folder, 1, 1)
        self.problems.append(Problem(place, dotted(path), message))


def load_topology(folder: Path | str) -> Topology:
    """The topology declared by all `*.yaml` files of a folder.

    Raises:
        TopologyError: with every problem's file, line, column and what is allowed there.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.yaml"))
    if not files:
        text = "there are no *.yaml files here; name the folder that holds namespaces.yaml"
        raise TopologyError([Problem(Place(str(folder), 1, 1), "", text)])
    documents, problems = _read_all(files)
    validator = _validator(folder)
    for document in documents:
        problems += _form_problems(document, validator)
    if problems:
        raise TopologyError(problems)
    declarations = Declarations(documents)
    topology = build_topology(declarations)
    if declarations.problems or topology is None:
        raise TopologyError(declarations.problems)
    return topology


def _read_all(files: list[Path]) -> tuple[list[Document], list[Problem]]:
    documents: list[Document] = []
    problems: list[Problem] = []
    for file in files:
        try:
            documents.append(read_document(file))
        except TopologyError as error:
            problems += error.problems
    return documents, problems


def _validator(folder: Path) -> Draft202012Validator:
    schema = folder / "schema.json"
    if not schema.is_file():
        text = "schema.json is missing; it belongs beside the topology files"
        raise TopologyError([Problem(Place(str(schema), 1, 1), "", text)])
    return Draft202012Validator(json.loads(schema.read_text(encoding="utf-8")))


def _form_problems(document: Document, validator: Draft202012Validator) -> list[Problem]:
    problems = [
        problem
        for error in validator.iter_errors(document.data)
        for problem in _explained(error, document)
    ]
    return sorted(problems, key=lambda each: (each.place.line, each.place.column))


def _explained(error: ValidationError, document: Document) -> Iterator[Problem]:
    """A schema error in our words: at its place, with what is allowed there."""
    path: Keys = tuple(error.absolute_path)
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    found: Any = error.instance
    rule: Any = error.validator_value
    if error.validator == "additionalProperties":
        allowed = sorted(schema.get("properties", {}))
        for name in found:
            if name not in allowed:
                here = (*path, name)
                text = f"unknown key {name!r}.{nearest(name, allowed)} {_choices(allowed)}"
                yield Problem(document.place(here, key=True), dotted(here), text)
        return
    if "propertyNames" in error.absolute_schema_path:
        path = (*path, str(found))
        text = f"{found!r} is no good name here. Allowed: {schema.get('description', rule)}"
        yield Problem(document.place(path, key=True), dotted(path), text)
        return
    if error.validator == "required":
        missing = [name for name in rule if name not in found]
        # iter_errors gives one error for each missing key; this one's is named in its message.
        name = next(each for each in missing if repr(each) in error.message)
        text = f"the key {name!r} is missing. {_choices(sorted(schema.get('properties', {})))}"
        yield Problem(document.place(path, key=True), dotted(path), text)
        return
    if error.validator == "enum":
        allowed = [str(each) for each in rule]
        text = f"found {_shown(found)}.{nearest(str(found), allowed)} {_choices(allowed)}"
    else:
        text = f"found {_shown(found)}. Allowed: {_allowed(error, schema)}"
    yield Problem(document.place(path), dotted(path), text)


def _allowed(error: ValidationError, schema: Mapping[str, Any]) -> str:
    if error.validator in ("type", "pattern", "minimum", "maximum", "exclusiveMinimum"):
        description = schema.get("description")
        if description:
            kind = schema.get("type", "")
            return str(description) if kind == "string" else f"{kind}: {description}"
    if error.validator == "uniqueItems":
        return "a list in which every item stands once"
    if error.validator == "minItems":
        return "a list with at least one item"
    return f"{error.validator} {error.validator_value}"


def nearest(name: str, allowed: list[str]) -> str:
    """` Did you mean 'x'?` when something allowed is near, else nothing."""
    found = difflib.get_close_matches(name, allowed, n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""


def _choices(allowed: list[str]) -> str:
    return f"Allowed: {', '.join(allowed)}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"
