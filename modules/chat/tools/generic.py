"""Calls of tools by a model whose chat template does not know them: as text that the system message explains."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from modules.chat.message import Message
from modules.chat.tools.call_format import CallFormat, Frame
from modules.chat.tools.json_format import JsonCalls
from modules.chat.tools.tool import Tool
from modules.core.events import Json

GENERIC_CALLS = JsonCalls(Frame("", '<tool_call>\n{"name": ', "}\n</tool_call>", "\n"), ', "arguments": ')
"""The format of most models that were trained to call tools."""

_EXAMPLE = ("name_of_the_tool", '{"name_of_an_argument": "value"}')
_RESULT_OPEN, _RESULT_CLOSE = "<tool_response>", "</tool_response>"


def instructions(tools: Sequence[Tool], calls: CallFormat) -> str:
    """Return the part of a system message that describes tools, and how to call them."""
    described = "\n".join(json.dumps(_description(tool), ensure_ascii=False) for tool in tools)
    several = "Several calls may follow one another. " if calls.frame.parallel else ""
    return (
        f"You can call these tools. Each line describes one, with the JSON schema of its arguments:\n{described}\n\n"
        f"To call a tool, write exactly this, and nothing after it:\n{calls.text([_EXAMPLE])}\n"
        f"{several}You will then get the result. Call a tool only if it helps; otherwise answer as usual."
    )


def with_instructions(messages: Sequence[Message], text: str) -> list[Message]:
    """Return `messages` with `text` at the end of the first system message, which is added if there is none."""
    if not messages or messages[0]["role"] not in ("system", "developer"):
        return [{"role": "system", "content": text}, *messages]
    content = messages[0].get("content") or ""
    joined: Json = (
        f"{content}\n\n{text}".lstrip() if isinstance(content, str) else [*content, {"type": "text", "text": text}]
    )
    return [{**messages[0], "content": joined}, *messages[1:]]


def calls_as_text(message: Message, calls: CallFormat) -> Message:
    """Return a message of the assistant with its calls at the end of its text."""
    made = [(str(function["name"]), arguments_text(function)) for function in functions(message)]
    if not made:
        return message
    text, content = calls.text(made), message.get("content") or ""
    joined: Json = (
        f"{content}\n{text}".lstrip() if isinstance(content, str) else [*content, {"type": "text", "text": text}]
    )
    return {**{name: value for name, value in message.items() if name != "tool_calls"}, "content": joined}


def result_as_text(message: Message) -> Message:
    """Return the result of a call as a message of the user."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return {"role": "user", "content": f"{_RESULT_OPEN}\n{content}\n{_RESULT_CLOSE}"}
    around = ({"type": "text", "text": _RESULT_OPEN}, {"type": "text", "text": _RESULT_CLOSE})
    return {"role": "user", "content": [around[0], *content, around[1]]}


def functions(message: Message) -> list[Mapping[str, Json]]:
    """Return the functions that a message calls, with their arguments."""
    calls = message.get("tool_calls")
    found = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    return [function for function in found if isinstance(function, dict) and function.get("name")]


def arguments_text(function: Mapping[str, Json]) -> str:
    """Return the arguments of a call as JSON text."""
    arguments = function.get("arguments") or {}
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _description(tool: Tool) -> Json:
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
