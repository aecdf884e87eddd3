"""Prepare a conversation with tools for a chat template, and read the calls in the replies."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modules.chat.message import Message
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.chat.tools.call_format import CallFormat
from modules.chat.tools.generic import (
    GENERIC_CALLS,
    calls_as_text,
    functions,
    instructions,
    result_as_text,
    with_instructions,
)
from modules.chat.tools.parser import ToolCallParser
from modules.chat.tools.probing import ToolSupport, probe_tools
from modules.chat.tools.tool import Tool
from modules.core.answer_grammar import AnswerGrammar
from modules.core.events import Json
from modules.core.pieces import ReplyParser
from modules.core.reasoning import ReasoningParser

_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")


@dataclass(frozen=True)
class ToolUse:
    """How a model gets tools and calls them: by its template as far as that can, otherwise by text."""

    tools: tuple[Tool, ...]
    support: ToolSupport

    @staticmethod
    def of(templates: ChatTemplates, template: ModelTemplate, tools: Sequence[Tool]) -> ToolUse:
        """Return how `tools` are used with a template.

        Raises what `ChatTemplates.render` raises for a template that cannot be used at all.
        """
        source = template.for_tools([tool.source for tool in tools] or None)
        support = templates.probed(source, template, "tools", probe_tools)
        if not (support.describes and support.calls):  # then the template for conversations without tools is rendered
            support = templates.probed(template.for_tools(None), template, "tools", probe_tools)
        return ToolUse(tuple(tools), support)

    @property
    def calls(self) -> CallFormat:
        """The format of calls."""
        return self.support.calls or GENERIC_CALLS

    @property
    def template_kwargs(self) -> Mapping[str, Json]:
        """Variables of the template by which it describes the tools."""
        return {"tools": [tool.source for tool in self.tools]} if self._described else {}

    @property
    def visible(self) -> tuple[str, ...]:
        """Texts whose special tokens must appear in the reply."""
        return tuple(dict.fromkeys((*self.calls.visible, *self.stop)))

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a reply: what begins the result of a call, which is not for the model to write."""
        return (self.support.result_tag,) if self.support.calls and self.support.result_tag else ()

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """Return a conversation as the template takes it, with calls and results as text if it takes none."""
        changed = _with_names(messages)
        if self.support.calls and not self.support.calls.frame.parallel:
            changed = _one_call_each(changed)
        if self.support.short_ids:
            changed = [_with_short_ids(message) for message in changed]
        if self.support.no_text:
            changed = [part for message in changed for part in _without_text(message)]
        if self.support.calls is None:
            changed = [calls_as_text(message, GENERIC_CALLS) for message in changed]
        if self.support.calls is None or not self.support.results:
            changed = [result_as_text(message) if message["role"] == "tool" else message for message in changed]
        if self.tools and not self._described:
            changed = with_instructions(changed, instructions(self.tools, self.calls))
        return changed

    def parser(self, reasoning: ReasoningParser) -> ReplyParser:
        """Return the parser of one reply, whose thought `reasoning` finds."""
        return ToolCallParser(reasoning, self.calls, self.tools)

    def grammar(self, tools: Sequence[Tool], parallel: bool) -> AnswerGrammar:
        """Return the grammar of a call of one of `tools`, or with `parallel` of one or more of them."""
        return self.calls.grammar(tools, parallel)

    @property
    def _described(self) -> bool:
        """Whether the template describes the tools, in the format of the calls that are read."""
        return self.support.describes and self.support.calls is not None


def _with_names(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with the name of its tool in each result, which some templates write."""
    names: dict[str, str] = {}
    named: list[Message] = []
    for message in messages:
        for call in message.get("tool_calls") or ():
            if isinstance(call, dict) and isinstance(call.get("function"), dict):
                names[str(call.get("id"))] = str(call["function"].get("name", ""))
        name = names.get(str(message.get("tool_call_id")), "") if message["role"] == "tool" else ""
        named.append({**message, "name": name} if name and not message.get("name") else message)
    return named


def _one_call_each(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with one call in each, followed by its result."""
    split: list[Message] = []
    index = 0
    while index < len(messages):
        message = messages[index]
        index += 1
        if len(functions(message)) < 2:
            split.append(message)
            continue
        end = index
        while end < len(messages) and messages[end]["role"] == "tool":
            end += 1
        results, index = list(messages[index:end]), end
        for number, call in enumerate(message["tool_calls"]):
            content = {} if number == 0 else {"content": "", "reasoning_content": None}
            split.append({**message, **content, "tool_calls": [call]})
            own = next((one for one in results if one.get("tool_call_id") == call.get("id")), None)
            own = own or (results[0] if results and "tool_call_id" not in results[0] else None)
            if own is not None:
                results.remove(own)
                split.append(own)
        split += results
    return split


def _without_text(message: Message) -> list[Message]:
    """Return a message with calls as one without text, after one with the text if there is any."""
    if not functions(message):
        return [message]
    text = {name: value for name, value in message.items() if name != "tool_calls"}
    return [*([text] if message.get("content") else []), {**message, "content": None}]


def _with_short_ids(message: Message) -> Message:
    """Return the message with ids of nine letters and digits."""
    changed = dict(message)
    if "tool_call_id" in message:
        changed["tool_call_id"] = _short_id(message["tool_call_id"])
    if message.get("tool_calls"):
        changed["tool_calls"] = [{**call, "id": _short_id(call.get("id"))} for call in message["tool_calls"]]
    return changed


def _short_id(long: Json) -> str:
    text = str(long)
    return text if _SHORT_ID.fullmatch(text) else hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:9]
