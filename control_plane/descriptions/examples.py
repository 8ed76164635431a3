"""Examples of bodies, put together from those of their fields (`fields.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control_plane.descriptions.fields import EXAMPLES, MOMENT

Schema = Mapping[str, Any]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}
_NONE_KNOWN = object()


class NoExampleError(Exception):
    """A text of which nobody has said what it looks like; the message is its schema and field."""


class Examples:
    """Makes examples of schemas; `schemas` is the description's components."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = schemas

    def of(self, schema: Schema, owner: str = "", field: str = "") -> Any:
        """An example that fits a schema.

        An object has the fields that it must have, and those others that have an example.

        Args:
            owner: the name of the schema that it is a field of.
            field: its name there.

        Raises:
            NoExampleError: there is a text without one.
        """
        known = self._known(schema, owner, field)
        if known is not _NONE_KNOWN:
            return known
        options = schema.get("oneOf") or schema.get("anyOf")
        if options:
            nullable = any(option.get("type") == "null" for option in options)
            return None if nullable else self.of(options[0], owner, field)
        if "allOf" in schema:
            return self.of(schema["allOf"][0], owner, field)
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return self.of(self._schemas[name], _short(name))
        if "properties" in schema:
            return self._object(schema, owner)
        return self._plain(schema, owner, field)

    def _known(self, schema: Schema, owner: str, field: str) -> Any:
        """What is said to be an example, in the schema or among those of fields."""
        if not field:
            return EXAMPLES.get(owner, _NONE_KNOWN)
        if f"{owner}.{field}" in EXAMPLES:
            return EXAMPLES[f"{owner}.{field}"]
        for told in ("examples", "enum"):
            if field in EXAMPLES and EXAMPLES[field] in schema.get(told, ()):
                return EXAMPLES[field]
            if schema.get(told):
                return schema[told][0]
        if field in EXAMPLES and self._fits(schema, EXAMPLES[field]):
            return EXAMPLES[field]
        return schema.get("const", schema.get("default", _NONE_KNOWN))

    def _fits(self, schema: Schema, value: Any) -> bool:
        """Whether a value is of a schema's kind: one name can be a number here and a list there."""
        for union in ("oneOf", "anyOf", "allOf"):
            if union in schema:
                return any(self._fits(option, value) for option in schema[union])
        if "$ref" in schema:
            return False
        if isinstance(value, list) and "items" in schema:
            return all(self._fits(schema["items"], each) for each in value)
        return isinstance(value, _TYPES.get(schema.get("type", ""), (object,)))

    def _object(self, schema: Schema, owner: str) -> dict[str, Any]:
        required = schema.get("required", ())
        made = {}
        for field, each in schema["properties"].items():
            if field in required or self._known(each, owner, field) is not _NONE_KNOWN:
                made[field] = self.of(each, owner, field)
        return made

    def _plain(self, schema: Schema, owner: str, field: str) -> Any:
        kind = schema.get("type")
        if kind == "array":
            return [self.of(schema["items"], owner, field)] if "items" in schema else []
        if kind in ("integer", "number"):
            return schema.get("minimum", 0)
        if kind == "boolean":
            return False
        if kind == "object":
            return {}
        if schema.get("format") == "date-time":
            return MOMENT
        raise NoExampleError(f"{owner}.{field}")


def _short(name: str) -> str:
    """The name of a schema without the module that Litestar puts before one of several."""
    return name.rpartition("_schemas_")[2]
