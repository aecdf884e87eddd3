"""Turn the body of a response into that of a chat completion, and its errors back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.api.openai_responses.input_items import read_input
from modules.api.openai_responses.schemas import ResponsesRequest
from modules.api.openai_responses.tools import OfferedTool, chat_tool_choice, read_tools
from modules.api.schemas import ChatRequest
from modules.core.errors import OptionError, Unsupported, WebUIError
from modules.core.events import Json
from modules.loaders.generation_settings import PARAMETERS

_NAMES = {
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "max_completion_tokens": "max_output_tokens",
    "truncation_length": "truncation",
}
"""Fields of chat completions, and those of Responses that they are made of."""

_ELEMENT = re.compile(r"(messages|tools)\[(\d{1,9})\](?:\.function\b)?")


@dataclass(frozen=True)
class _Origins:
    """The paths in the body of a response of what the messages and tools of the chat completion were made of."""

    messages: Sequence[str]
    tools: Sequence[str]

    def path(self, path: str) -> str:
        """Return the path in the body of the response for one in the chat completion, or for all within a text."""
        return _NAMES.get(path) or _ELEMENT.sub(lambda match: self._element(match[1], int(match[2])), path)

    def _element(self, field: str, index: int) -> str:
        paths = self.messages if field == "messages" else self.tools
        return paths[index] if index < len(paths) else _NAMES.get(field, field)

    def respelled(self, error: WebUIError) -> WebUIError:
        if isinstance(error, OptionError):
            error.option = self.path(error.option)
        elif isinstance(error, Unsupported):
            error.what = {language: self.path(words) for language, words in error.what.items()}
        return error


@dataclass(frozen=True)
class Conversion:
    """A response as a chat completion.

    `tools` has the tools by the names that the model calls; `ignored` are the paths of what the answer does without,
    besides what the chat completion ignores. `path` returns the path in the response for one in the chat completion;
    `respelled` lets an error name the fields of the response.
    """

    chat: ChatRequest
    tools: Mapping[str, OfferedTool]
    ignored: Sequence[str]
    path: Callable[[str], str]
    respelled: Callable[[WebUIError], WebUIError]


def convert(body: ResponsesRequest) -> Conversion:
    """Return `body` as a chat completion. Raises OptionError, UnknownOption or Unsupported with the path in `body`."""
    tools = read_tools(body.tools)
    read = read_input(body.input, body.instructions)
    origins = _Origins(read.origins, tools.paths)
    extra = body.model_extra or {}
    fields: dict[str, Any] = {**extra, "model": body.model, "messages": read.messages, "stream": body.stream}
    if tools.chat:
        fields["tools"] = tools.chat
        fields["parallel_tool_calls"] = body.parallel_tool_calls
    if tools.chat or body.tool_choice not in ("none", "auto"):
        fields["tool_choice"] = chat_tool_choice(body.tool_choice, tools)
    if body.text.format:
        fields["response_format"] = body.text.format
    if body.reasoning.effort is not None:
        fields["reasoning_effort"] = body.reasoning.effort
    if body.max_output_tokens is not None:
        fields["max_completion_tokens"] = body.max_output_tokens
    if body.has_logprobs:
        fields |= {"logprobs": True, "top_logprobs": body.top_logprobs}
    if body.truncation == "auto":
        # The bound of a prompt is the smaller one of this and the context: the oldest messages are dropped.
        fields.setdefault("truncation_length", int(PARAMETERS["truncation_length"].maximum or 0))
    try:
        chat = ChatRequest.model_validate(fields)
    except WebUIError as error:
        raise origins.respelled(error) from None
    ignored = [*tools.ignored, *read.ignored, *body.ignored]
    return Conversion(chat, tools.by_name, ignored, origins.path, origins.respelled)


def echoed(body: ResponsesRequest) -> dict[str, Json]:
    """Return the fields that a response has as the request had them; `temperature` and `top_p` are the model's."""
    summary = body.reasoning.summary or body.reasoning.generate_summary
    return {
        "background": False,
        "instructions": body.instructions or None,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata,
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": body.reasoning.effort, "summary": summary},
        "store": False,
        "temperature": None,
        "text": {"format": body.text.format or {"type": "text"}, "verbosity": body.text.verbosity},
        "tool_choice": body.tool_choice,
        "tools": [_echoed_tool(tool) for tool in body.tools],
        "top_logprobs": body.top_logprobs,
        "top_p": None,
        "truncation": body.truncation,
    }


def _echoed_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool with all fields that OpenAI's have."""
    return {"parameters": None, "strict": None, **tool} if tool.get("type") == "function" else dict(tool)
