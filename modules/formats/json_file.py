"""Read untrusted JSON files, with errors that say what is wrong with the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.system.bounded_reader import BoundedReader, parse_file
from modules.system.format_errors import damaged_header, invalid_json, wrong_format

Json = dict[str, Any]

MAX_JSON_BYTES = 100_000_000
"""The safetensors format's limit for its header."""
MAX_INTEGER = 1 << 32
"""A dimension of a model that is not smaller makes no sense, and counts as missing."""


def read_json(path: Path) -> Json:
    """Return the JSON object in the file. Raises ModelProblem for other content, OSError if unreadable."""
    return parse_file(path, lambda reader: read_json_object(reader, reader.size))


def read_json_object(reader: BoundedReader, length: int) -> Json:
    """Read the next `length` bytes as a JSON object. Raises FormatError if they are something else."""
    head = reader.peek()
    if length > MAX_JSON_BYTES:
        raise damaged_header(f"its JSON has {length:,} bytes", f"其 JSON 长达 {length:,} 字节")
    try:
        content = json.loads(reader.read(length))
    except json.JSONDecodeError as error:
        if head[:1] == b"{":
            raise invalid_json(error.lineno, error.colno) from None
        raise wrong_format("JSON", head, reader.size) from None
    except (ValueError, RecursionError):
        raise wrong_format("JSON", head, reader.size) from None
    if not isinstance(content, dict):
        raise wrong_format("JSON", head, reader.size)
    return content


def first_integer(source: Mapping[str, Any], *keys: str, minimum: int = 1) -> int:
    """Return the first integer of at least `minimum` among the values of `keys`; 0 if there is none."""
    values = (source.get(key) for key in keys)
    return next((value for value in values if type(value) is int and minimum <= value < MAX_INTEGER), 0)
