"""What commands take: a field is a member of the request and how it is written in a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import yaml
from click.shell_completion import CompletionItem

Place = Literal["path", "query", "body", "header", "content"]


class TextOrFile(click.ParamType[Any]):
    """A text, `@file`, or `-` for standard input."""

    name = "text|@file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text; a refusal when the file cannot be read."""
        try:
            if value == "-":
                return sys.stdin.read()
            if value.startswith("@"):
                return Path(value[1:]).read_text("utf-8").removesuffix("\n")
        except (OSError, ValueError) as error:
            self.fail(str(error), param, ctx)
        return value


class Json(TextOrFile):
    """A JSON document as `TextOrFile`."""

    name = "json|@file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The document; a refusal when it is none."""
        text = super().convert(value, param, ctx)
        try:
            return json.loads(text)
        except ValueError as error:
            self.fail(f"no JSON: {error}", param, ctx)


class WordOrJson(Json):
    """One of some words, or a JSON document as `Json`."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.name = "|".join([*words, "json", "@file"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The word or the document; a refusal when it is neither."""
        return value if value in self.words else super().convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The words."""
        del ctx, param
        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]


MEDIA_TYPES = {
    ".arrow": "application/vnd.apache.arrow.stream",
    ".arrows": "application/vnd.apache.arrow.stream",
    ".csv": "text/csv",
    ".json": "application/json",
}


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a body, and what they are."""

    data: bytes
    media_type: str


class RowsFile(click.ParamType[Content]):
    """A file whose ending says what it holds."""

    name = "file.csv|.json|.arrow"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Content:
        """Its content; a refusal when it cannot be read."""
        media_type = MEDIA_TYPES.get(Path(value).suffix)
        if media_type is None:
            self.fail(f"{value!r} must end in {', '.join(MEDIA_TYPES)}", param, ctx)
        try:
            return Content(Path(value).read_bytes(), media_type)
        except OSError as error:
            self.fail(str(error), param, ctx)


class Document(TextOrFile):
    """The name of a YAML or JSON file that holds a request's body; `-` for standard input."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The body; a refusal when it is none."""
        named = value if value == "-" else f"@{value}"
        try:
            document = yaml.safe_load(super().convert(named, param, ctx))
        except yaml.YAMLError as error:
            self.fail(f"no YAML: {error}", param, ctx)
        if not isinstance(document, dict):
            self.fail("the file must hold a mapping", param, ctx)
        return document


class Pair(click.ParamType[tuple[str, str]]):
    """`name=value`."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Name and value."""
        name, separator, rest = value.partition("=")
        if not (name and separator):
            self.fail(f"{value!r} is not of the form name=value", param, ctx)
        return name, rest


class LabelFilter(click.ParamType[str]):
    """`name=value` as where labels are given, or `name`; the API's `name:value`."""

    name = "name[=value]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """What the API takes."""
        return str(super().convert(value, param, ctx)).replace("=", ":", 1)


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a request.

    Attributes:
        name: what the API calls it.
        help: for people.
        place: where in the request it stands.
        type: how it is read; a list of texts gives the choices.
        argument: whether it is written without a name.
        required: whether an option must be given; arguments must, but lists.
        many: whether there may be several.
        option: the option's name, where it is not that of the API.
        flag: whether to name it says that it is true.
    """

    name: str
    help: str = ""
    place: Place = "query"
    type: click.ParamType[Any] | type | tuple[str, ...] = str
    argument: bool = False
    required: bool = False
    many: bool = False
    option: str = ""
    flag: bool = False

    @property
    def parameter(self) -> click.Parameter:
        """The field in a terminal."""
        kind = click.Choice(self.type) if isinstance(self.type, tuple) else self.type
        flag = self.option or self.name.replace("_", "-").lower()
        if self.argument:
            return click.Argument(
                [self.variable], type=kind, nargs=-1 if self.many else 1, metavar=flag.upper()
            )
        if self.flag:
            return click.Option([f"--{flag}", self.variable], is_flag=True, help=self.help)
        return click.Option(
            [f"--{flag}", self.variable],
            type=kind,
            help=self.help,
            required=self.required,
            multiple=self.many,
        )

    @property
    def variable(self) -> str:
        """The name in a program."""
        return self.name.replace("-", "_").lower()

    def value(self, given: Mapping[str, Any]) -> Any:
        """What was given for it; None for nothing."""
        value = given[self.variable]
        if isinstance(self.type, Pair):
            return dict(value) or None
        if self.many:
            return list(value) or None
        if self.flag:
            return value or None
        return value


def key(name: str) -> Field:
    """An argument that is a part of the path."""
    return Field(name, place="path", argument=True)


def body(name: str, help_: str = "", **more: Any) -> Field:
    """An option that is a member of the body."""
    return Field(name, help_, place="body", **more)


IF_MATCH = Field("If-Match", "Only if the ETag is still this one.", place="header")
KEY = Field(
    "Idempotency-Key", "Carry the request out once, however often it is sent.", place="header"
)
LABELS = body("labels", "A free label; may be repeated.", type=Pair(), many=True, option="label")
