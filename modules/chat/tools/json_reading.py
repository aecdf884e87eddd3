"""Read JSON from a reply as it arrives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection

from modules.chat.tools.reader import NotACall, Reading, ReplyReader, is_object

_SCALAR = re.compile(r"[^\s,;{}\[\]\"]+")
_OUTSIDE = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'["\\\x00-\x1f]')
_INSIDE_END = re.compile(r'["\\]')
MAX_STRING = 1 << 20
MAX_NAME = 256
"""Characters of a string that is read as a whole, and of a name."""


def read_string(reader: ReplyReader, limit: int = MAX_STRING) -> Reading[str]:
    """Read a string. Raises NotACall if there is none, or if it is not valid or has more than `limit` characters."""
    if not (yield from reader.match('"')):
        raise NotACall
    reader.at -= 1
    length = 1
    while True:
        found = _INSIDE_END.search(reader.text, reader.at + length)
        length = (found.start() if found else len(reader.text)) - reader.at
        if length > limit:
            raise NotACall
        if found is not None and found[0] == '"':
            break
        if found is not None and found.end() < len(reader.text):  # an escaped character
            length += 2
        elif reader.ended:
            raise NotACall
        else:
            yield
    text = reader.text[reader.at : reader.at + length + 1]
    reader.at += length + 1
    try:
        return str(json.loads(text, strict=False))
    except ValueError:
        raise NotACall from None


def read_value(reader: ReplyReader) -> Reading[str]:
    """Return the JSON text of a value. Raises NotACall if the reply ends within it."""
    yield from reader.skip_space()
    start = yield from reader.ahead(('"', "{", "["))
    if start == '"':
        return json.dumps((yield from read_string(reader)), ensure_ascii=False)
    if start:
        parts: list[str] = []
        if not (yield from copy_nested(reader, parts.append)):
            raise NotACall
        return "".join(parts)
    while True:
        found = _SCALAR.match(reader.text, reader.at)
        if found is not None and (found.end() < len(reader.text) or reader.ended):
            reader.at = found.end()
            return found[0]
        if reader.ended or (found is None and reader.at < len(reader.text)):
            raise NotACall
        yield


def copy_nested(reader: ReplyReader, write: Callable[[str], None], closers: Collection[str] = ()) -> Reading[bool]:
    """Copy an object or a list as it arrives, and return whether it is complete.

    Control characters in strings are escaped: models write line breaks there. A string with a line break before one of
    `closers`, which end the call, was never closed.
    """
    depth, in_string = 0, False
    while (yield from reader.has(1)):
        found = (_INSIDE if in_string else _OUTSIDE).search(reader.text, reader.at)
        end = found.start() if found else len(reader.text)
        write_text(reader, write, end)
        if found is None:
            continue
        character = found[0]
        if character == "\\":
            yield from reader.has(2)
            write_text(reader, write, min(reader.at + 2, len(reader.text)))
        elif in_string and character != '"':
            if character == "\n" and closers and (yield from reader.ahead(closers)):
                return False
            write(json.dumps(character)[1:-1])
            reader.at += 1
        else:
            write_text(reader, write, reader.at + 1)
            if character == '"':
                in_string = not in_string
            else:
                depth += 1 if character in "{[" else -1
                if depth <= 0:
                    return True
    return False


def copy_string(reader: ReplyReader, write: Callable[[str], None]) -> Reading[bool]:
    """Copy a string as a whole, and return whether it is complete."""
    try:
        write(json.dumps((yield from read_string(reader)), ensure_ascii=False))
    except NotACall:
        write_text(reader, write, len(reader.text))
        return False
    return True


def write_text(reader: ReplyReader, write: Callable[[str], None], end: int) -> None:
    """Copy the text up to `end`."""
    if end > reader.at:
        write(reader.text[reader.at : end])
        reader.at = end


def read_arguments(reader: ReplyReader, name: str, closers: Collection[str] = ()) -> Reading[None]:
    """Read the arguments of a call, which begins with them. Raises NotACall if they are no object."""
    if (yield from reader.ahead(("{",))):
        yield from reader.skip_space()
        reader.begin_call(name)
        complete = yield from copy_nested(reader, reader.write, closers)
        if complete or reader.at < len(reader.text):  # else the reply was cut
            reader.end_call()
    else:
        begin_with(reader, name, (yield from read_value(reader)))


def begin_with(reader: ReplyReader, name: str, value: str) -> None:
    """Begin a call with a whole value as its arguments. Raises NotACall if it is no object.

    Some models write the object as a text.
    """
    if value.startswith('"'):
        value = json.loads(value) or "{}"
    if value in ("null", "[]"):
        value = "{}"
    if not is_object(value):
        raise NotACall
    reader.begin_call(name)
    reader.write(value)
