"""Convert the values of arguments that are written as plain text to JSON, by the types that their schema allows."""

from __future__ import annotations

import ast
import json
from collections.abc import Collection
from typing import NoReturn

from modules.core.events import Json

_PYTHON = {"True": "true", "False": "false", "None": "null"}
_MAX_LITERAL = 100_000
"""Characters of a literal of Python that is read."""


def value_as_json(text: str, types: Collection[str]) -> str:
    """Return the JSON text of a value. One that has none of these types, if they are known, becomes a string."""
    stripped = text.strip()
    stripped = _PYTHON.get(stripped, stripped)
    try:
        value = json.loads(stripped, parse_constant=_refuse)
    except (ValueError, RecursionError):
        value, stripped = _python_literal(stripped)
    kind = type_of(value)
    if stripped and (kind != "string" if not types else _is_allowed(value, kind, types)):
        return stripped
    return json.dumps(text, ensure_ascii=False)


def type_of(value: Json) -> str:
    """Return the JSON type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _is_allowed(value: Json, kind: str, types: Collection[str]) -> bool:
    if kind == "string":  # quotes around a text belong to it
        return False
    if kind in types or (kind == "integer" and "number" in types):
        return True
    return kind == "number" and "integer" in types and float(value).is_integer()


def _python_literal(text: str) -> tuple[Json, str]:
    """Return a list or dictionary that is written as in Python, and its JSON text; "" and "" for anything else."""
    if text[:1] in ("{", "[") and len(text) <= _MAX_LITERAL:
        try:
            value = ast.literal_eval(text)
            return value, json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            pass
    return "", ""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
