"""Calls as a name and JSON arguments between tags.

Mistral: [TOOL_CALLS]name[CALL_ID]…[ARGS]{…}. DeepSeek V3.1: <｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}, and an end. R1:
<｜tool▁call▁begin｜>function<｜tool▁sep｜>name, then the arguments in a code block. Kimi K2:
<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>. Functionary: <function=name>{…}.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from modules.chat.tools.call_format import Frame, openers_of, split_opening, tags
from modules.chat.tools.json_format import JsonCalls, arguments_schema, skip_closers
from modules.chat.tools.json_reading import MAX_NAME, read_arguments
from modules.chat.tools.reader import NotACall, Reading, ReplyReader
from modules.chat.tools.tool import Tool
from modules.core.answer_grammar import AnswerGrammar

_NUMBER = re.compile(r":\d+$")
_NAME = re.compile(r"[^\s<>\[\]{}\"'=,]+")


@dataclass(frozen=True)
class MarkedCalls:
    """Calls whose name and arguments are separated by `separator`.

    `name_end` is written between a name and the separator: an id or a number, which replies need not have. Tags of
    `id_tags` begin such an id.
    """

    frame: Frame
    separator: str
    name_end: str = ""
    id_tags: tuple[str, ...] = ()
    bare: bool = False

    @property
    def openers(self) -> tuple[str, ...]:
        return openers_of(self.frame)

    @property
    def closers(self) -> tuple[str, ...]:
        fence = ("```",) if "```" in self.separator else ()
        return (*self.frame.closing_tags, *fence)

    @property
    def visible(self) -> tuple[str, ...]:
        return (*self.frame.opening_tags, *self.id_tags, *tags(self.separator), *self.frame.closing_tags)

    def text(self, calls: Sequence[tuple[str, str]]) -> str:
        return self.frame.join([f"{name}{self.name_end}{self.separator}{arguments}" for name, arguments in calls])

    def grammar(self, tools: Sequence[Tool], parallel: bool) -> AnswerGrammar:
        calls = [
            ["all", ["text", tool.name + self.name_end + self.separator], ["json", arguments_schema(tool)]]
            for tool in tools
        ]
        return self.frame.grammar(calls, parallel)

    def read(self, reader: ReplyReader, opener: str) -> Reading[None]:
        wrappers, name_open, prefix = split_opening(self.frame)
        if opener in wrappers:
            yield from reader.skip_space()
            if not (yield from reader.match(name_open)):
                raise NotACall
        if (yield from reader.ahead(("[", "{"))):  # the other form of Mistral
            yield from JsonCalls(Frame(name_open, "", "", "", self.frame.close), "").read(reader, opener)
            return
        if prefix:
            yield from reader.match(prefix)
        separator = self.separator.strip()
        raw, found = yield from reader.until((separator, name_open), MAX_NAME)
        if found != separator:
            raise NotACall
        name = call_name(raw, self.id_tags)
        if (yield from reader.ahead(self.closers)):
            reader.begin_call(name)
            reader.end_call()
        else:
            yield from read_arguments(reader, name, self.closers)
        yield from skip_closers(reader, self.closers)


def call_name(raw: str, id_tags: Sequence[str] = ()) -> str:
    """Return the name in the text where a name should be. Raises NotACall if it has none."""
    for tag in id_tags:
        raw = raw.partition(tag)[0]
    name = _NUMBER.sub("", raw.strip().strip("\"'"))
    if not _NAME.fullmatch(name):
        raise NotACall
    return name
