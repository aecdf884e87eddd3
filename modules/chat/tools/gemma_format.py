"""Calls of Gemma 4: <|tool_call>call:name{key:<|"|>text<|"|>,other:7}<tool_call|>, with special tokens for quotes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modules.chat.tools.call_format import Frame, tags
from modules.chat.tools.json_format import skip_closers
from modules.chat.tools.json_reading import MAX_NAME, copy_string
from modules.chat.tools.marked_format import call_name
from modules.chat.tools.reader import NotACall, Reading, ReplyReader
from modules.chat.tools.tool import Tool
from modules.chat.tools.values import object_in, value_as_json
from modules.core.answer_grammar import AnswerGrammar
from modules.core.events import Json

QUOTE = '<|"|>'
_MAX_DEPTH = 64
_LITERALS = frozenset(("boolean", "integer", "number", "null"))


@dataclass(frozen=True)
class GemmaCalls:
    """Calls with keys without quotes. The frame's `call_open` ends before the name, `call_close` begins with "}".

    `quote` is around texts.
    """

    frame: Frame
    quote: str = QUOTE
    bare: bool = False

    @property
    def openers(self) -> tuple[str, ...]:
        return tags(self.frame.open + self.frame.call_open)[:1]

    @property
    def closers(self) -> tuple[str, ...]:
        return self.frame.closing_tags

    @property
    def visible(self) -> tuple[str, ...]:
        return (*self.frame.opening_tags, *self.closers, QUOTE)

    def text(self, calls: Sequence[tuple[str, str]]) -> str:
        return self.frame.join([name + "{" + self._members(object_in(arguments)) for name, arguments in calls])

    def _members(self, values: Json) -> str:
        return ",".join(f"{key}:{self._written(value)}" for key, value in values.items())

    def _written(self, value: Json) -> str:
        if isinstance(value, dict):
            return "{" + self._members(value) + "}"
        if isinstance(value, list):
            return f"[{','.join(map(self._written, value))}]"
        return f"{self.quote}{value}{self.quote}" if isinstance(value, str) else json.dumps(value)

    # -- grammar -----------------------------------------------------------------------------------------------------

    def grammar(self, tools: Sequence[Tool], parallel: bool) -> AnswerGrammar:
        return self.frame.grammar([self._call_grammar(tool) for tool in tools], parallel)

    def _call_grammar(self, tool: Tool) -> AnswerGrammar:
        names = sorted(tool.properties, key=lambda name: name not in tool.required)
        nodes = [["all", ["text", f"{name}:"], self._value_grammar(tool, name)] for name in names]
        needed = [node for name, node in zip(names, nodes, strict=True) if name in tool.required]
        optional = nodes[len(needed) :]
        first = [part for index, node in enumerate(needed) for part in ([["text", ","]] if index else []) + [node]]
        if needed:
            rest = [["maybe", ["all", ["text", ","], node]] for node in optional]
        else:
            chains = [
                ["all", node, *(["maybe", ["all", ["text", ","], later]] for later in optional[index + 1 :])]
                for index, node in enumerate(optional)
            ]
            rest = [["maybe", ["any", *chains]]] if chains else []
        return ["all", ["text", tool.name + "{"], *first, *rest]

    def _value_grammar(self, tool: Tool, name: str) -> AnswerGrammar:
        if "string" in tool.types(name) or not tool.types(name):
            schema = tool.schema(name)
            values = schema.get("enum") if isinstance(schema, dict) else None
            if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
                return ["any", *(["text", self.quote + value + self.quote] for value in values)]
            return ["all", ["text", self.quote], ["until", self.quote]]
        return ["json", tool.schema(name)]

    # -- reading -----------------------------------------------------------------------------------------------------

    def read(self, reader: ReplyReader, opener: str) -> Reading[None]:
        yield from reader.match("call:")
        raw, _ = yield from reader.until(("{",), MAX_NAME)
        reader.begin_call(call_name(raw))
        reader.at -= 1
        if (yield from _copy(reader, reader.write)) or reader.at < len(reader.text):  # else the reply was cut
            reader.end_call()
        yield from skip_closers(reader, self.closers)


def _copy(reader: ReplyReader, write: Callable[[str], None], depth: int = 0) -> Reading[bool]:
    """Copy a value as JSON, and return whether it is complete."""
    found = yield from reader.match(QUOTE, '"', "{", "[") if depth < _MAX_DEPTH else reader.match(QUOTE, '"')
    if found == QUOTE:
        return (yield from _copy_text(reader, write))
    if found == '"':
        reader.at -= 1
        return (yield from copy_string(reader, write))
    if found:
        return (yield from _copy_nested(reader, write, found, depth))
    try:
        raw, end = yield from reader.until((",", "}", "]"))
    except NotACall:
        return False
    reader.at -= len(end)
    write(value_as_json(raw.strip(), _LITERALS))
    return True


def _copy_text(reader: ReplyReader, write: Callable[[str], None]) -> Reading[bool]:
    """Copy a text up to the special token that ends it, as it arrives."""
    write('"')
    while True:
        rest = reader.text[reader.at :]
        text, found, _ = rest.partition(QUOTE)
        if not found and not reader.ended:
            held = next((size for size in range(len(QUOTE) - 1, 0, -1) if text.endswith(QUOTE[:size])), 0)
            text = text[: len(text) - held]
        write(json.dumps(text, ensure_ascii=False)[1:-1])
        reader.at += len(text) + len(found)
        if found:
            write('"')
            return True
        if reader.ended:
            return False
        yield


def _copy_nested(reader: ReplyReader, write: Callable[[str], None], opened: str, depth: int) -> Reading[bool]:
    """Copy the members of an object or a list, which has been `opened`."""
    closed = "}" if opened == "{" else "]"
    write(opened)
    if (yield from reader.match(closed)):
        write(closed)
        return True
    while True:
        if opened == "{" and not (yield from _copy_key(reader, write)):
            return False
        if not (yield from _copy(reader, write, depth + 1)):
            return False
        found = yield from reader.match(",", closed)
        if not found:
            return False
        write(", " if found == "," else found)
        if found == closed:
            return True


def _copy_key(reader: ReplyReader, write: Callable[[str], None]) -> Reading[bool]:
    try:
        raw, _ = yield from reader.until((":",), MAX_NAME)
    except NotACall:
        return False
    key = raw.strip().removeprefix(QUOTE).removesuffix(QUOTE).strip('"')
    write(f"{json.dumps(key, ensure_ascii=False)}: ")
    return True
