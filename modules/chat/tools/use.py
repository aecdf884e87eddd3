"""Prepare a conversation with tools for a chat template, and read the calls in the replies."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from modules.chat.errors import TemplateRefused
from modules.chat.message import Message
from modules.chat.templates import REASONING_NAMES, ChatTemplates, ModelTemplate, reasoning_of
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
from modules.chat.tools.probing import NAMED_ID, ToolSupport, probe_tools
from modules.chat.tools.tool import Tool
from modules.core.answer_grammar import AnswerGrammar
from modules.core.events import Json
from modules.core.pieces import ReplyParser
from modules.core.reasoning import ReasoningParser

_QUESTION: Sequence[Message] = [{"role": "user", "content": "?"}]
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")


@dataclass(frozen=True)
class ToolUse:
    """How a model gets tools and calls them: by its template as far as that can, otherwise by text.

    `described` are the tools as the template describes them, empty if it does not.
    """

    tools: tuple[Tool, ...]
    support: ToolSupport
    described: tuple[Mapping[str, Json], ...] = ()

    @staticmethod
    def of(templates: ChatTemplates, template: ModelTemplate, tools: Sequence[Tool]) -> ToolUse:
        """Return how `tools` are used with a template.

        Raises what `ChatTemplates.render` raises for a template that cannot be used at all.
        """
        if tools:
            support = templates.probed(template.for_tools(()), template, "tools", probe_tools)
            forms = [[tool.source for tool in tools], [tool.simple_source for tool in tools]]
            for sources in forms if support.describes and support.calls else ():
                if _takes(templates, template, sources):
                    return ToolUse(tuple(tools), support, tuple(sources))
        # The template for conversations without tools is rendered then.
        return ToolUse(tuple(tools), templates.probed(template.for_tools(None), template, "tools", probe_tools))

    @property
    def calls(self) -> CallFormat:
        """The format of calls."""
        return self.support.calls or GENERIC_CALLS

    @property
    def template_kwargs(self) -> Mapping[str, Json]:
        """Variables of the template by which it describes the tools."""
        return {"tools": list(self.described)} if self.described else {}

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
            changed = _with_ids(changed, lambda old, name, number: _short_id(old))
        elif self.support.named_ids:
            changed = _with_ids(changed, lambda old, name, number: NAMED_ID.format(number, name=name))
        if self.support.thought_or_text:
            changed = [_with_thought_or_text(message) for message in changed]
        if self.support.no_text:
            changed = [part for message in changed for part in _without_text(message)]
        if self.support.calls is None or self.support.calls_as_text:
            changed = [calls_as_text(message, self.calls) for message in changed]
        if self.support.calls is None or not self.support.results:
            changed = [result_as_text(message) if message["role"] == "tool" else message for message in changed]
        if self.tools and not self.described:
            changed = with_instructions(changed, instructions(self.tools, self.calls))
        return changed

    def parser(self, reasoning: ReasoningParser) -> ReplyParser:
        """Return the parser of one reply, whose thought `reasoning` finds."""
        return ToolCallParser(reasoning, self.calls, self.tools)

    def grammar(self, tools: Sequence[Tool], parallel: bool) -> AnswerGrammar:
        """Return the grammar of a call of one of `tools`, or with `parallel` of one or more of them."""
        return self.calls.grammar(tools, parallel)


def _takes(templates: ChatTemplates, template: ModelTemplate, sources: Sequence[Json]) -> bool:
    """Return whether a template can describe these tools: some take only simple schemas."""
    try:
        templates.render(template, _QUESTION, template_kwargs={"tools": list(sources)})
    except TemplateRefused:
        return False
    return True


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


def _with_thought_or_text(message: Message) -> Message:
    """Return a message with calls with its text at the end of its thought, if it has both."""
    thought, text = reasoning_of(message), message.get("content")
    if not (functions(message) and thought and isinstance(text, str) and text):
        return message
    rest = {name: value for name, value in message.items() if name not in REASONING_NAMES}
    return {**rest, "content": "", "reasoning_content": f"{thought}\n\n{text}"}


def _with_ids(messages: Sequence[Message], new_id: Callable[[str, str, int], str]) -> list[Message]:
    """Return the messages with the ids that `new_id` returns for the old one, the tool's name and the call's number."""
    ids: dict[str, str] = {}
    changed: list[Message] = []
    number = 0
    for message in messages:
        calls = []
        for call in message.get("tool_calls") or ():
            old = str(call.get("id"))
            ids[old] = new_id(old, str(call.get("function", {}).get("name", "")), number)
            calls.append({**call, "id": ids[old]})
            number += 1
        own: dict[str, Json] = {"tool_calls": calls} if calls else {}
        if "tool_call_id" in message:
            old = str(message["tool_call_id"])
            own["tool_call_id"] = ids.get(old) or new_id(old, str(message.get("name", "")), number)
        changed.append({**message, **own})
    return changed


def _short_id(long: str) -> str:
    return long if _SHORT_ID.fullmatch(long) else hashlib.sha256(long.encode("utf-8", "replace")).hexdigest()[:9]
