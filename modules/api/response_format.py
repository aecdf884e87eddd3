"""Read the `response_format` of a request: any text, any JSON object, or JSON of a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modules.api.errors import MAX_NESTING
from modules.api.limits import is_nested_deeper
from modules.api.request_body import Expected
from modules.core.events import Json

MAX_SCHEMA = 64_000
"""Bytes."""

RESPONSE_FORMAT = Expected(
    'an object such as {"type": "json_object"}, or {"type": "json_schema", "json_schema": {"schema": {…}}} '
    f"with a schema of at most {MAX_SCHEMA} bytes",
    '形如 {"type": "json_object"} 或 {"type": "json_schema", "json_schema": {"schema": {…}}} 的对象，'
    f"其中 schema 不超过 {MAX_SCHEMA} 字节",
)


def check_format(response_format: dict[str, Any]) -> dict[str, Any]:
    """Return `response_format`. Raises ValueError if it is invalid."""
    if len(json.dumps(schema_of(response_format), ensure_ascii=False).encode("utf-8", "replace")) > MAX_SCHEMA:
        raise ValueError
    return response_format


def _parsed(schema: str) -> Any:
    """Return the JSON that some clients send as a text. Raises ValueError."""
    try:
        parsed = json.loads(schema[: MAX_SCHEMA + 1])
    except RecursionError as error:
        raise ValueError from error
    if is_nested_deeper(parsed, MAX_NESTING):
        raise ValueError
    return parsed


def schema_of(response_format: Mapping[str, Any]) -> Json:
    """Return the JSON schema that an answer must match, None for any text. Raises ValueError if it is invalid."""
    kind = response_format.get("type", "text")
    if kind == "text":
        return None
    inner = response_format.get("json_schema")
    bodies = (response_format, inner if isinstance(inner, dict) else {})
    default = {"type": "object"} if kind == "json_object" else None
    schema = next((body["schema"] for body in bodies if "schema" in body), default)
    if isinstance(schema, str):
        schema = _parsed(schema)
    if kind not in ("json_object", "json_schema") or not isinstance(schema, (dict, bool)):
        raise ValueError
    return schema
