"""Convert the values of arguments that are written as plain text to JSON, by the types that their schema allows."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import NoReturn

from modules.core.events import Json

_PYTHON = {"True": "true", "False": "false", "None": "null"}
# Strings, the names of keyword arguments, and constants of Python.
_TOKEN = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?P<key>\b[A-Za-z_]\w*)\s*=|\b(?P<word>True|False|None)\b""", re.DOTALL
)
_QUOTE = re.compile(r'\\.|"', re.DOTALL)
_MAX_LITERAL = 100_000
"""Characters of a literal of Python that is read."""


def object_in(text: str) -> dict[str, Json]:
    """Return the JSON object in a text, an empty one if there is none: clients send back what a model has written."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


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


def python_arguments(text: str) -> str | None:
    """Return the JSON of the keyword arguments of a call in Python; None if they are incomplete or no literals."""
    members = "{" + _TOKEN.sub(_token_as_json, text) + "}"
    try:
        json.loads(members, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return members


def _python_literal(text: str) -> tuple[Json, str]:
    """Return a list or dictionary that is written as in Python, and its JSON text; "" and "" for anything else."""
    if text[:1] in ("{", "[") and len(text) <= _MAX_LITERAL:
        written = _TOKEN.sub(_token_as_json, text)
        try:
            return json.loads(written, parse_constant=_refuse), written
        except (ValueError, RecursionError):
            pass
    return "", ""


def _token_as_json(token: re.Match[str]) -> str:
    if token["key"]:
        return f'"{token["key"]}": '
    if token["word"]:
        return _PYTHON[token["word"]]
    inner = token[0][1:-1].replace("\\'", "'")
    return f'"{_QUOTE.sub(_escaped, inner)}"' if token[0][0] == "'" else f'"{inner}"'


def _escaped(quote: re.Match[str]) -> str:
    return quote[0] if len(quote[0]) > 1 else '\\"'


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
