"""Calls of gpt-oss, whose replies are several messages in channels: thoughts, remarks, calls and an answer.

<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.name <|constrain|>json
<|message|>{…}<|call|>. The recipient may also precede the channel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from modules.chat.tools.call_format import Frame
from modules.chat.tools.json_format import arguments_schema
from modules.chat.tools.json_reading import read_arguments
from modules.chat.tools.reader import NotACall, Reading, ReplyReader
from modules.chat.tools.tool import Tool
from modules.core.answer_grammar import AnswerGrammar
from modules.core.pieces import REASONING, TEXT

_START, _CHANNEL, _MESSAGE, _RECIPIENT = "<|start|>", "<|channel|>", "<|message|>", "to=functions."
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_MAX_HEADER = 400
_TO = re.compile(r"to=(?:functions\.)?([^\s<]+)")
_IN_CHANNEL = re.compile(r"<\|channel\|>(\w+)")


_FRAME = Frame("", f"{_CHANNEL}commentary to=functions.", "", parallel=False)


@dataclass(frozen=True)
class HarmonyCalls:
    """Messages to a function. Texts of several messages are paragraphs; thoughts between them are thoughts."""

    frame: Frame = _FRAME
    bare: bool = False

    @property
    def openers(self) -> tuple[str, ...]:
        return (_START, _CHANNEL, _RECIPIENT, *_ENDS)

    @property
    def visible(self) -> tuple[str, ...]:
        return (_START, _CHANNEL, _MESSAGE, "<|constrain|>", *_ENDS)

    def text(self, calls: Sequence[tuple[str, str]]) -> str:
        return self.frame.join([f"{name} <|constrain|>json{_MESSAGE}{arguments}" for name, arguments in calls])

    def grammar(self, tools: Sequence[Tool], parallel: bool) -> AnswerGrammar:
        """Return the grammar of a call. After a thought, the message needs a beginning of its own."""
        calls = [
            ["all", ["text", f"{tool.name} <|constrain|>json{_MESSAGE}"], ["json", arguments_schema(tool)]]
            for tool in tools
        ]
        return ["all", ["maybe", ["text", f"{_START}assistant"]], self.frame.grammar(calls, parallel)]

    def read(self, reader: ReplyReader, opener: str) -> Reading[None]:
        if opener in _ENDS:
            return
        raw, _ = yield from reader.until((_MESSAGE,), _MAX_HEADER)
        header = opener + raw
        recipient, channel = _TO.search(header), _IN_CHANNEL.search(header)
        if recipient is not None:
            yield from read_arguments(reader, recipient[1], _ENDS)
        elif channel is None:
            raise NotACall
        elif channel[1] == "analysis":
            yield from self._read_thought(reader)
        elif reader.has_text:
            reader.emit(TEXT, "\n\n")

    def _read_thought(self, reader: ReplyReader) -> Reading[None]:
        """Read a thought up to the end of its message, as it arrives."""
        reader.mark, reader.in_thought = None, True
        if reader.has_thought:
            reader.emit(REASONING, "\n\n")
        ends = (*_ENDS, _START, _CHANNEL)
        longest = max(map(len, ends))
        while True:
            rest = reader.text[reader.at :]
            found = [at for end in ends if (at := rest.find(end)) >= 0]
            starts = range(max(len(rest) - longest + 1, 0), len(rest))
            unsure = next((at for at in starts if any(end.startswith(rest[at:]) for end in ends)), len(rest))
            length = min(found) if found else len(rest) if reader.ended else unsure
            reader.emit(REASONING, rest[:length])
            reader.at += length
            if found or reader.ended:
                reader.in_thought = False
                return
            yield
