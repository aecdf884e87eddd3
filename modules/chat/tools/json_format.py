"""Calls as JSON objects with a name and arguments, in tags, in a list, or bare.

Hermes, Qwen 2.5 and 3: <tool_call>{"name": …, "arguments": {…}}</tool_call>. Llama 3: {"name": …, "parameters": {…}}.
Mistral: [TOOL_CALLS][{"name": …, "arguments": {…}}]. Nemotron: <TOOLCALL>[…]</TOOLCALL>.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from modules.chat.tools.call_format import Frame, tags
from modules.chat.tools.json_reading import MAX_NAME, begin_with, read_arguments, read_string, read_value
from modules.chat.tools.python_call import read_python_call
from modules.chat.tools.reader import NotACall, Reading, ReplyReader
from modules.chat.tools.tool import Tool
from modules.core.answer_grammar import AnswerGrammar

LLAMA_TAG = "<|python_tag|>"
"""Before some calls of Llama 3, but not in the calls that its templates write."""
_NAMES = ("name", "tool_name", "function")
_ARGUMENTS = ("arguments", "parameters")
_BEFORE_NAME = ("type", "id")
_FENCES = ("```json", "```")
_JUNK = " \t\r\n}]"
"""What may stand between the arguments and the end of a call, perhaps more often than it should."""


@dataclass(frozen=True)
class JsonCalls:
    """Calls as JSON objects. `between` is what stands between the name, with its quotes, and the arguments.

    The frame's `call_open` ends before the name, with the brace and the key. `more_openers` begin calls as well.
    """

    frame: Frame
    between: str
    more_openers: tuple[str, ...] = ()
    bare: bool = True

    @property
    def openers(self) -> tuple[str, ...]:
        opener = (self.frame.open + self.frame.call_open).partition("{")[0].rstrip("[ \n")
        return tuple(filter(None, (*self.more_openers, opener)))

    @property
    def closers(self) -> tuple[str, ...]:
        return self.frame.closing_tags

    @property
    def visible(self) -> tuple[str, ...]:
        return (*(tag for opener in self.openers for tag in tags(opener)), *self.closers)

    def text(self, calls: Sequence[tuple[str, str]]) -> str:
        return self.frame.join([f"{json.dumps(name)}{self.between}{arguments}" for name, arguments in calls])

    def grammar(self, tools: Sequence[Tool], parallel: bool) -> AnswerGrammar:
        calls = [
            ["all", ["text", json.dumps(tool.name) + self.between], ["json", arguments_schema(tool)]] for tool in tools
        ]
        return self.frame.grammar(calls, parallel)

    def read(self, reader: ReplyReader, opener: str) -> Reading[None]:
        if opener == LLAMA_TAG and not (yield from reader.ahead(("{", "["))):
            yield from read_python_call(reader)
            return
        fence = "" if opener else (yield from reader.match(*_FENCES))
        listed = yield from reader.match("[")
        yield from read_object(reader, self.closers, known_only=not opener)
        while (yield from reader.ahead((",", ";", "{") if listed or not opener else ("{",))):
            if not (yield from self._read_next(reader, known_only=not opener)):
                return
        if listed:
            yield from reader.match("]", skipped=" \t\r\n}")
        if fence:
            yield from reader.match("```")
        yield from skip_closers(reader, self.closers)

    def _read_next(self, reader: ReplyReader, known_only: bool) -> Reading[bool]:
        """Read a further call, perhaps after a comma or semicolon. Return False if there is none, without moving."""
        reader.mark = reader.at
        yield from reader.match(",", ";")
        try:
            yield from read_object(reader, self.closers, known_only)
        except NotACall:
            if reader.mark is not None:
                reader.at, reader.mark = reader.mark, None
                if not known_only:
                    reader.add_fault(len(reader.calls))
            return False
        return True


def arguments_schema(tool: Tool) -> AnswerGrammar:
    """Return the schema of all arguments of a call."""
    return {"type": "object", "properties": {}, **tool.parameters}


def skip_closers(reader: ReplyReader, closers: Sequence[str]) -> Reading[None]:
    """Move behind the tags that end a call, also one that the end of the reply has cut off."""
    while closers and (yield from reader.match(*closers, skipped=_JUNK)):
        pass
    rest = reader.text[reader.at :].lstrip(_JUNK)
    if rest and reader.ended and any(closer.startswith(rest) for closer in closers):
        reader.at = len(reader.text)


def read_object(
    reader: ReplyReader, closers: Sequence[str], known_only: bool = False, nested: bool = False
) -> Reading[None]:
    """Read a call that is one object. Raises NotACall if it is none.

    With `known_only`, for JSON that may be an answer as well, it must begin with the name of a tool that is known, and
    have arguments. It may be in a member "function" of another object, unless it is `nested` already.
    """
    name, arguments, begun = "", "", False
    if not (yield from reader.match("{")):
        raise NotACall
    ended = bool((yield from reader.match("}")))
    while not ended:
        key = yield from read_string(reader, MAX_NAME)
        if not (yield from reader.match(":")):
            raise NotACall
        if key in _NAMES and not name and (yield from reader.ahead(('"',))):
            name = yield from read_string(reader, MAX_NAME)
            if not name.strip() or (known_only and name not in reader.tools):
                raise NotACall
        elif key == "function" and not (begun or nested) and (yield from reader.ahead(("{",))):
            yield from read_object(reader, closers, known_only, nested=True)
            begun = True
        elif key in _ARGUMENTS and name and not begun:
            yield from read_arguments(reader, name, closers)
            begun = True
        elif known_only and not begun and key not in _BEFORE_NAME:
            raise NotACall
        elif key in _ARGUMENTS and not arguments:
            arguments = yield from read_value(reader)
        else:
            yield from read_value(reader)
        ended = yield from _end_of_member(reader, begun)
    if not begun:
        if not name or (known_only and not arguments):
            raise NotACall
        begin_with(reader, name, arguments or "{}")


def _end_of_member(reader: ReplyReader, begun: bool) -> Reading[bool]:
    """Return whether the object ends here. A call that has begun ends with anything else than a comma."""
    if begun and not (yield from reader.ahead(('"', "}"), skipped=" \t\r\n,")):
        return True
    found = yield from reader.match(",", "}")
    if not found and not begun:
        raise NotACall
    return found != "," or (begun and bool((yield from reader.match("}"))))
