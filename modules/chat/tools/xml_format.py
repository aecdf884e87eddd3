"""Calls with a tag for each argument, whose values are plain text.

Qwen3-Coder and Qwen 3.5: <tool_call><function=name><parameter=key>value</parameter></function></tool_call>. Seed:
the same in <seed:tool_call>. GLM: <tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>.
MiniMax: <invoke name="name"><parameter name="key">value</parameter></invoke>. DeepSeek V3.2: the same, with the types.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from modules.chat.tools.call_format import Frame, openers_of, tags, text_node
from modules.chat.tools.json_format import skip_closers
from modules.chat.tools.json_reading import MAX_NAME
from modules.chat.tools.marked_format import call_name
from modules.chat.tools.reader import NotACall, Reading, ReplyReader
from modules.chat.tools.tool import Tool
from modules.chat.tools.values import object_in, value_as_json
from modules.core.answer_grammar import AnswerGrammar

_STRING, _OTHER = 'string="true"', 'string="false"'
"""Attributes of an argument, by which DeepSeek tells its type."""
_STRINGS = frozenset(("string",))


@dataclass(frozen=True)
class XmlCalls:
    """Calls whose arguments have tags.

    `name_end` stands between the name and the first argument. `key_open`, `key_end` and `value_end` are around a key
    and its value, with the white space that is written there; `other_key_end` is for values that are no strings.
    """

    frame: Frame
    name_end: str
    key_open: str
    key_end: str
    other_key_end: str
    value_end: str
    bare: bool = False

    @property
    def openers(self) -> tuple[str, ...]:
        return openers_of(self.frame)

    @property
    def closers(self) -> tuple[str, ...]:
        return self.frame.closing_tags

    @property
    def visible(self) -> tuple[str, ...]:
        own = tags(self.key_open + self.key_end + self.value_end)
        return (*self.frame.opening_tags, *self.openers, *own, self.key_open, *self.closers)

    @property
    def has_lines(self) -> bool:
        """Whether a value has lines of its own: the line breaks around it do not belong to it then."""
        return self.key_end.endswith("\n") and self.value_end.startswith("\n")

    def text(self, calls: Sequence[tuple[str, str]]) -> str:
        return self.frame.join([name + self.name_end + self._written(arguments) for name, arguments in calls])

    def _written(self, arguments: str) -> str:
        return "".join(
            self.key_open
            + key
            + (self.key_end + value if isinstance(value, str) else self._other(value))
            + self.value_end
            for key, value in object_in(arguments).items()
        )

    def _other(self, value: object) -> str:
        return self.other_key_end + json.dumps(value, ensure_ascii=False)

    def grammar(self, tools: Sequence[Tool], parallel: bool) -> AnswerGrammar:
        return self.frame.grammar([self._call_grammar(tool) for tool in tools], parallel)

    def _call_grammar(self, tool: Tool) -> AnswerGrammar:
        arguments = []
        for name in tool.properties:
            node = ["all", ["text", self.key_open + name], *self._value_grammar(tool, name)]
            arguments.append(node if name in tool.required else ["maybe", node])
        return ["all", ["text", tool.name + self.name_end], *arguments]

    def _value_grammar(self, tool: Tool, name: str) -> list[AnswerGrammar]:
        schema = tool.schema(name)
        values = schema.get("enum") if isinstance(schema, dict) else None
        if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
            return [["text", self.key_end], ["any", *(["text", value + self.value_end] for value in values)]]
        if "string" in tool.types(name) or not tool.types(name):
            return [["text", self.key_end], ["until", self.value_end]]
        return [["text", self.other_key_end], ["json", schema], *text_node(self.value_end)]

    # -- reading -----------------------------------------------------------------------------------------------------

    def read(self, reader: ReplyReader, opener: str) -> Reading[None]:
        *wrappers, name_open = self.openers
        passed: list[str] = []
        while opener in wrappers and opener not in passed and opener != name_open:
            passed.append(opener)
            opener = yield from reader.match(*self.openers)
        if (
            opener in passed
        ):  # some models repeat a tag for ever: reading all that follow, from each one, would take hours
            raise NotACall
        if not opener:
            raise NotACall
        name = yield from self._read_name(reader)
        found = yield from reader.ahead((self.key_open, *self.closers))
        if not found:
            raise NotACall
        reader.begin_call(name)
        separator = "{"
        while (yield from reader.match(self.key_open)):
            reader.write(separator)
            separator = ", "
            if not (yield from self._read_argument(reader, reader.tools.get(name))):
                return
        reader.write("{}" if separator == "{" else "}")
        reader.end_call()
        yield from skip_closers(reader, self.closers)

    def _read_name(self, reader: ReplyReader) -> Reading[str]:
        end = self.name_end.strip()
        if end:
            raw, _ = yield from reader.until((end,), MAX_NAME)
            return call_name(raw)
        yield from reader.skip_space()
        raw, found = yield from reader.until(("\n", self.key_open, *self.closers), MAX_NAME)
        reader.at -= len(found)
        return call_name(raw)

    def _read_argument(self, reader: ReplyReader, tool: Tool | None) -> Reading[bool]:
        """Read the key and the value of an argument, and return whether the reply has all of it."""
        try:
            key, types = yield from self._read_key(reader, tool)
        except NotACall:
            if reader.ended:
                reader.at = len(reader.text)
            else:
                reader.add_fault()
            return False
        reader.write(f"{json.dumps(key, ensure_ascii=False)}: ")
        return (yield from self._read_value(reader, types))

    def _read_key(self, reader: ReplyReader, tool: Tool | None) -> Reading[tuple[str, frozenset[str]]]:
        """Return an argument's name and the types that it may have."""
        ends = _common_end(self.key_end, self.other_key_end).split()
        raw, found = yield from reader.until((ends[0],), MAX_NAME)
        for end in ends[1:]:
            yield from reader.match(end)
        key, attributes = raw.strip().partition('"')[0], raw + found  # what ends both forms may begin within one
        types = tool.types(key) if tool else frozenset()
        if _STRING in attributes:
            types = _STRINGS
        elif _OTHER in attributes and not types:
            types = frozenset(("boolean", "integer", "number", "null", "array", "object"))
        return key, types

    def _read_value(self, reader: ReplyReader, types: frozenset[str]) -> Reading[bool]:
        """Read a value, strings as they arrive, others as a whole. Return whether the reply has all of it."""
        streamed, parts, skipped = types == _STRINGS, [""], None
        if self.has_lines and (yield from reader.has(1)) and reader.text[reader.at] == "\n":
            reader.at += 1
        if streamed:
            reader.write('"')
        while skipped is None:
            length, skipped = self._value_length(reader)
            text = reader.text[reader.at : reader.at + length]
            reader.at += length + (skipped or 0)
            if streamed:
                reader.write(json.dumps(text, ensure_ascii=False)[1:-1])
            else:
                parts.append(text)
            if skipped is None and reader.ended:
                return False
            if skipped is None:
                yield
        reader.write('"' if streamed else value_as_json("".join(parts), types))
        return True

    def _value_length(self, reader: ReplyReader) -> tuple[int, int | None]:
        """Return how much of what is known certainly belongs to the value, and the length of what ends it.

        That is None as long as the end is not known. A tag in a value ends it only if the next argument, or the end of
        the call, follows; without its own tag, a value ends where the call does.
        """
        text, start = reader.text, reader.at
        end_tag, (close, *outer) = self.value_end.strip(), self.closers
        after = {end_tag: (self.key_open, *self.closers, *self.openers), close: (*(outer or self.openers),)}
        while found := [(at, tag) for tag in after if (at := text.find(tag, start)) >= 0]:
            at, tag = min(found)
            rest = text[at + len(tag) :].lstrip()
            length = at - reader.at - self._line_break(text[reader.at : at])
            if rest.startswith(after[tag]) or (reader.ended and not rest):
                return length, at + (len(tag) if tag == end_tag else 0) - reader.at - length
            if not reader.ended and any(one.startswith(rest) for one in after[tag]):
                return length, None
            start = at + 1
        known = text[reader.at :]
        if reader.ended:
            return len(known), None
        longest = max(map(len, after))
        starts = range(max(len(known) - longest + 1, 0), len(known))
        length = next((at for at in starts if any(tag.startswith(known[at:]) for tag in after)), len(known))
        return length - self._line_break(known[:length]), None

    def _line_break(self, value: str) -> int:
        """Return the length of the line break at the end of a value that does not belong to it."""
        return int(self.has_lines and value.endswith("\n"))


def _common_end(first: str, second: str) -> str:
    length = 0
    while length < min(len(first), len(second)) and first[-length - 1] == second[-length - 1]:
        length += 1
    return first[len(first) - length :]
