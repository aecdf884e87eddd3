"""Plain text becomes JSON by the types that a schema allows."""

from __future__ import annotations

import gc
import json

import pytest

from modules.chat.tools.values import object_in, python_arguments, value_as_json

NUMBERS, TEXT_OR_NULL = {"number"}, {"string", "null"}


def test_a_text_that_is_no_object_counts_as_an_empty_one() -> None:
    gc.collect()  # what other tests have left could not be finalized within the deep list
    assert object_in('{"a": [1]}') == {"a": [1]}
    for text in ("", "[1]", "1", "{", "[" * 10_000):
        assert object_in(text) == {}


def test_a_value_becomes_json_of_an_allowed_type(subtests: pytest.Subtests) -> None:
    for text, types, expected in [
        ("12", {"integer"}, "12"),
        (" 12\n", {"integer"}, "12"),
        ("2.0", {"integer"}, "2.0"),
        ("2.5", {"integer"}, '"2.5"'),
        ("12", NUMBERS, "12"),
        ("1e3", NUMBERS, "1e3"),
        ("NaN", NUMBERS, '"NaN"'),
        ("012", {"integer"}, '"012"'),
        ("true", {"boolean"}, "true"),
        ("True", {"boolean"}, "true"),
        ("1", {"boolean"}, '"1"'),
        ("null", TEXT_OR_NULL, "null"),
        ("None", TEXT_OR_NULL, "null"),
        ("nothing", TEXT_OR_NULL, '"nothing"'),
        ("12", TEXT_OR_NULL, '"12"'),
        ('"quoted"', TEXT_OR_NULL, '"\\"quoted\\""'),
        ("[1, {}]", {"array"}, "[1, {}]"),
        ("['a', None]", {"array"}, '["a", null]'),
        ("{'a': 'it\\'s \"x\"', \"b\": '\\n'}", {"object"}, '{"a": "it\'s \\"x\\"", "b": "\\n"}'),
        ("{'a': True, 'True': [None, False]}", {"object"}, '{"a": true, "True": [null, false]}'),
        ("[1or 2]", {"array"}, '"[1or 2]"'),
        ("[1, 2", {"array"}, '"[1, 2"'),
        ("{1, 2}", {"object"}, '"{1, 2}"'),
        ("[" * 100_000, {"array"}, '"' + "[" * 100_000 + '"'),
        ("12", (), "12"),
        ("Paris", (), '"Paris"'),
        ('"Paris"', (), '"\\"Paris\\""'),
        ("", {"integer"}, '""'),
    ]:
        with subtests.test(text[:20], types=types):
            assert value_as_json(text, types) == expected


def test_keyword_arguments_of_python_become_json(subtests: pytest.Subtests) -> None:
    for text, expected in [
        ("", {}),
        ('city="Paris"', {"city": "Paris"}),
        ("city = 'a=b (c', exact=True", {"city": "a=b (c", "exact": True}),
        ("tags=['x', \"y='\"]", {"tags": ["x", "y='"]}),
        ("city=here", None),
        ("'Paris'", None),
        ("city='a", None),
        ("city=NaN", None),
    ]:
        with subtests.test(text):
            found = python_arguments(text)
            assert (None if found is None else json.loads(found)) == expected
