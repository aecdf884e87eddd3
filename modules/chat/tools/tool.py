"""Tools that a model may call, as a request describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modules.core.events import Json

_TYPE_OF = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
_SIMPLE_TYPES = ("string", "number", "integer", "boolean", "array", "object")
_MAX_REFERENCES = 8


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    `parameters` is the JSON schema of its arguments. `source` is the tool as chat templates get it: an object of
    OpenAI's API, {"type": "function", "function": {…}}.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Json] = field(default_factory=dict)
    strict: bool = False
    source: Mapping[str, Json] = field(default_factory=dict)

    @property
    def properties(self) -> Mapping[str, Json]:
        """The schemas of the arguments, by name."""
        properties = self._resolved(self.parameters).get("properties")
        return properties if isinstance(properties, dict) else {}

    @property
    def required(self) -> frozenset[str]:
        """The names of the arguments that a call must have."""
        required = self._resolved(self.parameters).get("required")
        return (
            frozenset(name for name in required if isinstance(name, str)) if isinstance(required, list) else frozenset()
        )

    @property
    def simple_source(self) -> Mapping[str, Json]:
        """The tool with schemas that are no more than types and descriptions, which all templates can write."""
        simple = {name: self._simple(name) for name in self.properties}
        parameters = {"type": "object", "properties": simple, "required": sorted(self.required)}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    def _simple(self, argument: str) -> Json:
        schema = self.properties[argument]
        known = schema if isinstance(schema, dict) else {}
        kind = next((name for name in _SIMPLE_TYPES if name in self.types(argument)), "string")
        inner = {"array": {"items": {"type": "string"}}, "object": {"additionalProperties": {"type": "string"}}}
        return {"type": kind, "description": str(known.get("description", "")), **inner.get(kind, {})}

    def types(self, argument: str) -> frozenset[str]:
        """Return the JSON types that an argument may have; an empty set if they are not known."""
        return self._types(self.properties.get(argument))

    def schema(self, argument: str) -> Json:
        """Return the schema of an argument, with the definitions that it may refer to."""
        schema = self.properties[argument]
        shared = {name: self.parameters[name] for name in ("$defs", "definitions") if name in self.parameters}
        return {**shared, **schema} if isinstance(schema, dict) else schema

    def _types(self, schema: Json, depth: int = 0) -> frozenset[str]:
        if not isinstance(schema, dict) or depth > _MAX_REFERENCES:
            return frozenset()
        schema = self._resolved(schema)
        named = schema.get("type")
        if isinstance(named, str):
            return frozenset((named,))
        if isinstance(named, list):
            return frozenset(name for name in named if isinstance(name, str))
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list):
            return frozenset(_TYPE_OF.get(type(value), "null") for value in values)
        for combined in ("anyOf", "oneOf"):
            if isinstance(schema.get(combined), list):
                found = [self._types(one, depth + 1) for one in schema[combined]]
                return frozenset().union(*found) if all(found) else frozenset()
        if isinstance(schema.get("allOf"), list):
            return next(filter(None, (self._types(one, depth + 1) for one in schema["allOf"])), frozenset())
        return frozenset(("object",)) if "properties" in schema else frozenset()

    def _resolved(self, schema: Mapping[str, Json]) -> Mapping[str, Json]:
        """Return what a schema refers to within `parameters`, or the schema itself."""
        for _ in range(_MAX_REFERENCES):
            reference = schema.get("$ref")
            if not isinstance(reference, str) or not reference.startswith("#"):
                break
            target: Json = self.parameters
            for name in filter(None, reference[1:].split("/")):
                target = target.get(name) if isinstance(target, dict) else None
            if not isinstance(target, dict):
                return {}
            schema = target
        return schema
