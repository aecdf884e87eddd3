"""Formats of calls in chat templates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from modules.chat.tools.reader import Reading, ReplyReader
from modules.chat.tools.tool import Tool
from modules.core.answer_grammar import AnswerGrammar

_TAG = re.compile(r"</?[^<>\s=\"']+>|\[/?[A-Z_]+\]")


@dataclass(frozen=True)
class Frame:
    """The texts around calls: around all of them, around each, and between two.

    A template without `parallel` calls takes one in a message.
    """

    open: str = ""
    call_open: str = ""
    call_close: str = ""
    between: str = ""
    close: str = ""
    parallel: bool = True

    @property
    def opening_tags(self) -> tuple[str, ...]:
        return tags(self.open + self.call_open)

    @property
    def closing_tags(self) -> tuple[str, ...]:
        return tags(self.call_close + self.close)

    def join(self, calls: Sequence[str]) -> str:
        """Return the text of calls, given what is within `call_open` and `call_close`."""
        return self.open + self.between.join(self.call_open + call + self.call_close for call in calls) + self.close

    def grammar(self, calls: Sequence[AnswerGrammar], parallel: bool) -> AnswerGrammar:
        """Return the grammar of one of these calls, or of several, given what is within each."""
        one = ["all", ["text", self.call_open], ["any", *calls], *text_node(self.call_close)]
        more = ["maybe", ["many", ["all", *text_node(self.between), one]]] if parallel and self.parallel else None
        return ["all", *text_node(self.open), one, *([more] if more else []), *text_node(self.close)]


class CallFormat(Protocol):
    """A format of calls.

    A call begins with one of the `openers`, or without any where a reply begins if it is `bare`. `visible` are texts
    whose special tokens must appear in the reply.
    """

    @property
    def frame(self) -> Frame: ...

    @property
    def bare(self) -> bool: ...

    @property
    def openers(self) -> tuple[str, ...]: ...

    @property
    def visible(self) -> tuple[str, ...]: ...

    def read(self, reader: ReplyReader, opener: str) -> Reading[None]:
        """Read what follows `opener`: calls. Raises NotACall if there is none."""
        ...

    def text(self, calls: Sequence[tuple[str, str]]) -> str:
        """Return calls as the model writes them, given their names and the JSON texts of their arguments."""
        ...

    def grammar(self, tools: Sequence[Tool], parallel: bool) -> AnswerGrammar:
        """Return the grammar of a call of one of `tools`, or with `parallel` of one or more calls."""
        ...


def tags(text: str) -> tuple[str, ...]:
    """Return the tags in a text, such as "<tool_call>" and "[ARGS]"."""
    return tuple(dict.fromkeys(_TAG.findall(text)))


def text_node(text: str) -> list[AnswerGrammar]:
    return [["text", text]] if text else []


def split_opening(frame: Frame) -> tuple[tuple[str, ...], str, str]:
    """Split what precedes a name: tags around the call, which may be missing; the tag before the name; and the rest.

    "<tool_call>\n<function=" has the tag "<tool_call>" around a call, and "<function=" before its name.
    """
    rest, own = frame.call_open, []
    while (tag := _TAG.match(rest)) is not None:
        own.append(tag[0])
        rest = rest[tag.end() :]
        if not rest.lstrip().startswith(("<", "[")):
            break
        rest = rest.lstrip()
    else:
        own, rest = [*own, rest], ""
    return (*tags(frame.open), *own[:-1]), own[-1], rest


def openers_of(frame: Frame) -> tuple[str, ...]:
    """Return the tags with which a call may begin: those around it, and the one before its name."""
    wrappers, opener, _ = split_opening(frame)
    return (*wrappers, opener)
