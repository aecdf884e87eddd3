"""What a request says of a tool's arguments."""

from __future__ import annotations

import pytest

from modules.chat.tools.tool import Tool


def test_types_are_found_through_references_and_alternatives(subtests: pytest.Subtests) -> None:
    tool = Tool(
        "probe",
        parameters={
            "properties": {
                "plain": {"type": "string"},
                "several": {"type": ["string", "null"]},
                "values": {"enum": ["a", 1, None]},
                "one": {"const": True},
                "reference": {"$ref": "#/$defs/number"},
                "either": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/number"}]},
                "unknown in part": {"anyOf": [{"type": "string"}, {}]},
                "all": {"allOf": [{}, {"type": "array"}]},
                "object": {"properties": {}},
                "itself": {"$ref": "#/$defs/itself"},
                "nowhere": {"$ref": "#/$defs/nowhere"},
                "anything": True,
            },
            "$defs": {"number": {"type": "number"}, "itself": {"$ref": "#/$defs/itself"}},
        },
    )
    for name, types in {
        "plain": {"string"},
        "several": {"string", "null"},
        "values": {"string", "integer", "null"},
        "one": {"boolean"},
        "reference": {"number"},
        "either": {"string", "number"},
        "unknown in part": set(),
        "all": {"array"},
        "object": {"object"},
        "itself": set(),
        "nowhere": set(),
        "anything": set(),
        "not there": set(),
    }.items():
        with subtests.test(name):
            assert tool.types(name) == types


def test_a_simple_schema_has_no_more_than_types_and_descriptions() -> None:
    properties = {
        "when": {"anyOf": [{"type": "null"}, {"type": "string", "format": "date"}], "description": "A day."},
        "many": {"type": "array", "items": {"type": "integer"}},
        "which": {"enum": [1, 2]},
        "what": True,
        "rest": {"properties": {"a": {}}},
    }
    tool = Tool("find", "Find it.", {"type": "object", "properties": properties, "required": ["when"]})
    function = tool.simple_source["function"]
    assert (function["name"], function["description"]) == ("find", "Find it.")
    assert function["parameters"] == {
        "type": "object",
        "properties": {
            "when": {"type": "string", "description": "A day."},
            "many": {"type": "array", "description": "", "items": {"type": "string"}},
            "which": {"type": "integer", "description": ""},
            "what": {"type": "string", "description": ""},
            "rest": {"type": "object", "description": "", "additionalProperties": {"type": "string"}},
        },
        "required": ["when"],
    }
